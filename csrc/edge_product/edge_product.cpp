// Schemas of the edge-wise halves of edge-conditioned convolutions; the contract is in edge_product.h.
#include "edge_product/edge_product.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "edge_outer_(Tensor[] phi, float slope, Tensor[] x, bool x_per_edge, int others, int first, Tensor[] graph, "
      "int tables, Tensor(a!) out) -> ()");
  m.def(
      "edge_inner_(Tensor G, Tensor[] phi, float slope, Tensor[] x, bool x_per_edge, int others, int first, "
      "Tensor[] graph, int tables, Tensor(a!)? a, Tensor(b!)? y, bool add) -> ()");
}

// Schemas of edge-conditioned convolution in tiles; the contract is in ecc_tile.h.
#include "ecc_tile/ecc_tile.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "ecc_tile_(Tensor[] phi, float slope, Tensor x, Tensor weight, Tensor[] graph, int tables, Tensor(a!) out) "
      "-> ()");
  m.def(
      "ecc_tile_backward_(Tensor phi, Tensor x, Tensor grad, Tensor weight, Tensor[] graph, int tables, "
      "Tensor(a!)? a, Tensor(b!)? y, Tensor(c!)? to) -> ()");
}

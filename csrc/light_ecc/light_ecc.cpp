// Schemas of the edge-wise stages of lightweight ECC; the contract is in light_ecc.h.
#include "light_ecc/light_ecc.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "light_factors_(Tensor p, Tensor kappa, Tensor[] phi, float slope, int others, int first, Tensor[] graph, "
      "int tables, Tensor(a!) found) -> ()");
  m.def(
      "light_outer_(Tensor found, Tensor? gamma, Tensor[] phi, float slope, int others, int first, Tensor[] graph, "
      "int tables, Tensor(a!) z) -> ()");
  m.def(
      "light_backward_targets_(Tensor g, Tensor(a!) found, Tensor? gamma, Tensor[] phi, float slope, int others, "
      "int first, Tensor[] graph, int tables, Tensor(b!) z, Tensor(c!) d, Tensor(d!)? d_gamma) -> ()");
  m.def(
      "light_backward_sources_(Tensor[] p, Tensor found, Tensor[] phi, float slope, int others, int first, "
      "Tensor[] graph, int tables, Tensor(a!) z, Tensor(b!) d, Tensor(c!)? d_near, Tensor(d!) sums) -> ()");
}

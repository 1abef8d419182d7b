// Schemas of edge-conditioned convolution in lanes; the contract is in ecc_lane.h.
#include "ecc_lane/ecc_lane.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "ecc_lane_(Tensor[] phi, float slope, Tensor x, Tensor weight, Tensor? bias, Tensor[] graph, int tables, "
      "Tensor(a!) out) -> ()");
  m.def(
      "ecc_lane_backward_(Tensor[] phi, float slope, Tensor x, Tensor grad, Tensor weight, Tensor? bias, "
      "int[] segments, Tensor[] graph, int tables, Tensor(a!)? y, Tensor(b!)? a, Tensor(c!)? f) -> ()");
  m.def(
      "ecc_lane_weight_(Tensor f, Tensor x, Tensor grad, int[] segments, Tensor[] graph, int tables, "
      "Tensor(a!) to) -> ()");
}

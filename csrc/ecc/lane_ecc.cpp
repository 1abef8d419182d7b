// Schemas of edge-conditioned convolution in lanes; the contract is in lane_ecc.h.
#include "ecc/lane_ecc.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "lane_ecc_(Tensor? features, Tensor? layer, Tensor? shift, Tensor? near, Tensor? far, float slope, Tensor x, "
      "Tensor weight, Tensor? bias, int rows, Tensor ptr, Tensor other, Tensor? edge, Tensor(a!) out) -> ()");
  m.def(
      "lane_ecc_backward_(Tensor? features, Tensor? layer, Tensor? shift, Tensor? near, Tensor? far, float slope, "
      "Tensor x, Tensor grad, Tensor weight, Tensor? bias, int rows, int first, int last, Tensor ptr, Tensor other, "
      "Tensor? edge, Tensor(a!)? y, Tensor(b!)? a, Tensor(c!)? f) -> ()");
}

// Schemas of the edge-wise halves of edge-conditioned convolutions; the contract is in ecc.h.
#include "ecc/ecc.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "edge_outer_(Tensor? phi, Tensor? seg_phi, Tensor? oth_phi, float slope, Tensor x, Tensor? seg_x, "
      "bool x_per_edge, bool ones, int others, int rows, int first, int last, Tensor ptr, Tensor? slot, Tensor other, "
      "Tensor? edge, Tensor(a!) out) -> ()");
  m.def(
      "edge_inner_(Tensor G, Tensor? phi, Tensor? seg_phi, Tensor? oth_phi, float slope, Tensor? x, Tensor? seg_x, "
      "bool x_per_edge, bool ones, int others, int rows, int first, int last, Tensor ptr, Tensor? slot, Tensor other, "
      "Tensor? edge, Tensor(a!)? a, Tensor(b!)? y, bool add) -> ()");
  m.def(
      "tile_ecc_(Tensor? phi, Tensor? seg_phi, Tensor? oth_phi, float slope, Tensor x, Tensor weight, bool ones, "
      "int rows, Tensor ptr, Tensor? slot, Tensor other, Tensor? edge, Tensor(a!) out) -> ()");
  m.def(
      "tile_ecc_backward_(Tensor phi, Tensor x, Tensor grad, Tensor weight, bool ones, Tensor ptr, Tensor? slot, "
      "Tensor other, Tensor? edge, Tensor(a!)? a, Tensor(b!)? y, Tensor(c!)? to) -> ()");
}

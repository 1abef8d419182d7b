// Schemas of the sums over edges; the contract is in edge_conv.h.
#include "edge_conv/edge_conv.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "edge_sum(Tensor? seg_mask, Tensor? oth_mask, Tensor? seg_val, Tensor? oth_val, Tensor? edge_val, "
      "Tensor? weight, float slope, SymInt others, SymInt rows, Tensor ptr, Tensor? slot, Tensor other, Tensor? edge, "
      "Tensor? t_ptr, Tensor? t_slot, Tensor? t_other) -> Tensor");
  m.def("edge_sum_(Tensor(a!) u, Tensor v, float slope, Tensor ptr, Tensor other) -> ()");
  m.def(
      "edge_values(Tensor? seg_mask, Tensor? oth_mask, Tensor? seg_val, Tensor? oth_val, Tensor? edge_val, "
      "float slope, SymInt others, SymInt rows, Tensor ptr, Tensor? slot, Tensor other, Tensor? edge, "
      "Tensor? t_ptr, Tensor? t_slot, Tensor? t_other) -> Tensor");
  m.def(
      "edge_dot(Tensor grad, Tensor? oth_grad, Tensor? seg_mask, Tensor? oth_mask, Tensor? seg_val, Tensor? oth_val, "
      "float slope, SymInt others, SymInt rows, Tensor ptr, Tensor? slot, Tensor other, Tensor? edge, "
      "Tensor? t_ptr, Tensor? t_slot, Tensor? t_other) -> Tensor");
}

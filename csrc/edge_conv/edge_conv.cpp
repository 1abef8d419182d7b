// Schemas of the sums over edges; the contract is in edge_conv.h.
#include "edge_conv/edge_conv.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "edge_sum(Tensor? near_mask, Tensor? far_mask, Tensor? near, Tensor? far, Tensor? per_edge, Tensor? weight, "
      "float slope, SymInt others, SymInt rows, Tensor[] graph, int tables) -> Tensor");
  m.def("edge_sum_(Tensor(a!) u, Tensor v, float slope, Tensor ptr, Tensor other) -> ()");
  m.def(
      "edge_values(Tensor? near_mask, Tensor? far_mask, Tensor? near, Tensor? far, Tensor? per_edge, float slope, "
      "SymInt others, SymInt rows, Tensor[] graph, int tables) -> Tensor");
  m.def(
      "edge_dot(Tensor grad, Tensor? far_grad, Tensor? near_mask, Tensor? far_mask, Tensor? near, Tensor? far, "
      "float slope, SymInt others, SymInt rows, Tensor[] graph, int tables) -> Tensor");
}

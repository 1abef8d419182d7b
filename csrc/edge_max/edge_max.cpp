// Schemas of the largest neighbor; the contract is in edge_max.h.
#include "edge_max/edge_max.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "edge_max(Tensor v, Tensor? sign, bool with_sum, Tensor ptr, Tensor other, Tensor? target, Tensor? t_ptr, "
      "Tensor? t_slot) -> (Tensor value, Tensor arg, Tensor sum)");
  m.def(
      "edge_max_backward(Tensor grad, Tensor arg, SymInt others, Tensor other, Tensor? target, Tensor? t_ptr, "
      "Tensor? t_slot) -> Tensor");
  m.def("edge_take(Tensor v, Tensor arg, Tensor other, Tensor? target, Tensor? t_ptr, Tensor? t_slot) -> Tensor");
}

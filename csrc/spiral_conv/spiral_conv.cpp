// Schemas of the spiral convolution; the contract is in spiral_conv.h.
#include "spiral_conv/spiral_conv.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def("spiral_conv(Tensor x, Tensor index, Tensor weight, Tensor? bias, Tensor? t_ptr, Tensor? t_entry) -> Tensor");
  m.def("spiral_conv_backward_x(Tensor grad, Tensor index, Tensor weight, Tensor t_ptr, Tensor t_entry) -> Tensor");
  m.def("spiral_conv_backward_weight(Tensor grad, Tensor x, Tensor index, Tensor? t_ptr, Tensor? t_entry) -> Tensor");
}

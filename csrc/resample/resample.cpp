// Schemas of the mesh resampling; the contract is in resample.h.
#include "resample/resample.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def("resample(Tensor x, Tensor index, Tensor weight, Tensor? t_ptr, Tensor? t_entry) -> Tensor");
  m.def("resample_backward_x(Tensor grad, Tensor index, Tensor weight, Tensor t_ptr, Tensor t_entry) -> Tensor");
  m.def("resample_backward_weight(Tensor grad, Tensor x, Tensor index, Tensor? t_ptr, Tensor? t_entry) -> Tensor");
}

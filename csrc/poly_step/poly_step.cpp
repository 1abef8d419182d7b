// Schemas of the polynomial step; the contract is in poly_step.h.
#include "poly_step/poly_step.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "poly_step(Tensor a, Tensor? s, Tensor? scale, Tensor? bias, Tensor? skip, int norm, float eps, int activation)"
      " -> (Tensor, Tensor)");
  m.def(
      "poly_step_backward(Tensor grad, Tensor a, Tensor? s, Tensor? scale, Tensor out, Tensor rnorm, int norm,"
      " float eps, int activation, bool vertex_bias, bool need_skip) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

// Schemas of the polynomial step with statistics of the batch; the contract is in batch_norm_step.h.
#include "batch_norm_step/batch_norm_step.h"

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def(
      "batch_norm_step(Tensor a, Tensor? s, Tensor? term, Tensor? weight, Tensor? bias, float eps, int activation)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_step_backward(Tensor grad, Tensor a, Tensor? s, Tensor? term, Tensor? weight, Tensor? bias,"
      " Tensor out, Tensor mean, Tensor rstd, float eps, int activation) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

// The end of a polynomial residual block whose term is normalised over the batch, fused.
//
//   t = a * s, or given;  N(t) = weight (t - mean t) / sqrt(var t + eps) + bias
//   out = act(a + s + N(t))   (with s)      out = act(a * N(t))   (without s, which needs t)
//   act: 0 none, 1 relu
//
// a, s, term [N, D]; weight, bias [D]. Mean and (biased) variance of a channel are those of its N rows. Returns out [N,
// D], and mean, var, rstd = 1/sqrt(var + eps), each [D], float32 for half inputs.
//
// Sums: of a block of rows in the type that is computed in, of the differences from the block's first row, so that no
// digits are lost where the mean is large beside the deviation; blocks are joined in order, in double (Chan, Golub and
// LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979). A channel of float whose
// squares overflow is summed again in double. The size of a block depends on D alone: results repeat bit for bit, on
// any number of threads.
//
// batch_norm_step_backward returns (grad_a, grad_s, grad_term, grad_weight, grad_bias), of which what is not there is
// [0]. With dz = grad * act'(z), read off out, x = (t - mean) rstd, dn = dz (with s) or dz * a (without):
//   e = weight rstd (dn - mean dn - x mean(dn x));  grad_weight = sum dn x;  grad_bias = sum dn
//   t = a * s:  grad_a = dz + e s, grad_s = dz + e a
//   t given, with s:  grad_term = e, and dz is the gradient of a and of s alike: it is written once, as grad_a, and not
//   at all without an activation, where it is grad
//   without s:  grad_term = e, grad_a = dz N(t)
#pragma once

#include "common/check.h"

namespace polygraph {

constexpr int64_t kStepActivationNone = 0;
constexpr int64_t kStepActivationRelu = 1;

// What t is and what is made of it.
enum class StepForm { product, sum, factor };

struct StepSizes {
  int64_t N, D;
  StepForm form;
};

inline StepSizes check_batch_norm_step(
    const char* op, const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& term,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps, int64_t activation) {
  check_floating(op, "a", a);
  check_shape(op, "a", a, "[N, D]", {-1, -1});
  POLYGRAPH_CHECK(s.has_value() || term.has_value(), op, ": s or term must be given");
  const StepForm form = !s.has_value() ? StepForm::factor : (term.has_value() ? StepForm::sum : StepForm::product);
  const StepSizes n{a.size(0), a.size(1), form};
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor, const char* meaning,
                         std::initializer_list<int64_t> shape) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, "a", a);
      check_shape(op, name, *tensor, meaning, shape);
      check_device(op, name, *tensor, a);
    }
  };
  check("s", s, "[N, D]", {n.N, n.D});
  check("term", term, "[N, D]", {n.N, n.D});
  check("weight", weight, "[D]", {n.D});
  check("bias", bias, "[D]", {n.D});
  POLYGRAPH_CHECK(eps > 0, op, ": eps must be positive, got ", eps);
  POLYGRAPH_CHECK(activation == 0 || activation == 1, op, ": activation must be 0 or 1, got ", activation);
  return n;
}

inline StepSizes check_batch_norm_step_backward(
    const Tensor& grad, const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& term,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, const Tensor& out, const Tensor& mean,
    const Tensor& rstd, double eps, int64_t activation) {
  const char* op = "batch_norm_step_backward";
  const StepSizes n = check_batch_norm_step(op, a, s, term, weight, bias, eps, activation);
  const auto rows = [&](const char* name, const Tensor& tensor) {
    check_dtype(op, name, tensor, "a", a);
    check_shape(op, name, tensor, "[N, D]", {n.N, n.D});
    check_device(op, name, tensor, a);
  };
  rows("grad", grad);
  rows("out", out);
  const auto statistic = [&](const char* name, const Tensor& tensor) {
    check_dtype(op, name, tensor, is_half(a.scalar_type()) ? ScalarType::Float : a.scalar_type());
    check_shape(op, name, tensor, "[D]", {n.D});
    check_device(op, name, tensor, a);
  };
  statistic("mean", mean);
  statistic("rstd", rstd);
  return n;
}

}  // namespace polygraph

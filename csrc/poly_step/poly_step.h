// One step of a polynomial recursion, fused: everything of it that is not a linear operator.
//
//   t = a * s;  z = a + scale * N(t) + skip + bias;  out = act(z)
//   N(t) = t                                        (norm 0, "none")
//   N(t) = t / sqrt(eps + mean_v t^2)               (norm 1, "rms"; the mean runs over the V rows of a sample)
//   act: 0 none, 1 elu, 2 relu, 3 leaky_relu (0.2)
//
// a, s, skip [B, V, D]; scale, bias [D], or [V, D] with values of their own at every vertex. Without s, a is [B, V, 2D]
// and holds the two side by side, as one linear operator with stacked weights leaves them. poly_step returns out [B, V,
// D] and rnorm [B, D] = 1/sqrt(eps + mean t^2) (ones for norm 0), float32 for half inputs, which the backward needs.
// Squares overflow, or lose their digits, long before t does: where the plain sum of them cannot serve (see
// kLeastMeanSquare), a second pass over that channel of that sample divides t by its largest first.
//
// poly_step_backward returns (grad_a, grad_s, grad_scale, grad_bias, grad_skip): grad_a has the shape of a (both halves
// when packed), grad_s [B, V, D] or [0] when packed, grad_scale the shape of scale ([D] without one), grad_bias [D], or
// [V, D] with vertex_bias, grad_skip [B, V, D] or [0] when not wanted. With dz = grad * act'(z), read off out, u = r t,
// and P = sum_v scale dz u (per sample and channel):
//   e = scale dz - u P / V   (norm 1)      e = scale dz   (norm 0)
//   grad_a = dz + e (r s);  grad_s = e (r a);  grad_scale = sum dz u;  grad_bias = sum dz;  grad_skip = dz
// (the last sums run over samples, and over vertices where there is one value per channel). No power of r is formed,
// and r is multiplied with what it normalises first: r^3 underflows where t is 1e15 in float32.
// All sums run in an order fixed by the sizes: results repeat bit for bit.
#pragma once

#include <limits>

#include "common/check.h"

namespace polygraph {

constexpr int64_t kNormNone = 0;
constexpr int64_t kNormRms = 1;
constexpr int64_t kActivationNone = 0;
constexpr int64_t kActivationElu = 1;
constexpr int64_t kActivationRelu = 2;
constexpr int64_t kActivationLeakyRelu = 3;
constexpr double kLeakySlope = 0.2;

// From here to infinity eps + mean t^2 is good to rounding: what underflow takes from a t^2 is less than the smallest
// normal number. With eps 1 only an overflow falls outside.
template <class T>
constexpr T kSmallestNormal = std::numeric_limits<T>::min();
template <class T>
constexpr T kLargestNumber = std::numeric_limits<T>::max();
template <class T>
constexpr T kLeastMeanSquare = kSmallestNormal<T> / std::numeric_limits<T>::epsilon();

struct PolySizes {
  int64_t B, V, D;
};

// Whether a scale or bias has values of its own at every vertex.
inline bool per_vertex(const std::optional<Tensor>& tensor) {
  return tensor.has_value() && tensor->dim() == 2;
}

inline PolySizes check_poly_step(
    const char* op, const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& skip, int64_t norm, int64_t activation) {
  check_floating(op, "a", a);
  check_shape(op, "a", a, s.has_value() ? "[B, V, D]" : "[B, V, 2*D]", {-1, -1, -1});
  POLYGRAPH_CHECK(
      s.has_value() || a.size(2) % 2 == 0, op, ": a must have an even number of channels when s is None, got ",
      a.size(2));
  const PolySizes n{a.size(0), a.size(1), s.has_value() ? a.size(2) : a.size(2) / 2};
  const std::initializer_list<int64_t> rows{n.B, n.V, n.D};
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor, const char* meaning,
                         std::initializer_list<int64_t> shape) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, "a", a);
      check_shape(op, name, *tensor, meaning, shape);
      check_device(op, name, *tensor, a);
    }
  };
  check("s", s, "[B, V, D]", rows);
  check("skip", skip, "[B, V, D]", rows);
  const auto check_factor = [&](const char* name, const std::optional<Tensor>& tensor) {
    if (per_vertex(tensor)) {
      check(name, tensor, "[D] or [V, D]", {n.V, n.D});
    } else {
      check(name, tensor, "[D]", {n.D});
    }
  };
  check_factor("scale", scale);
  check_factor("bias", bias);
  POLYGRAPH_CHECK(norm == kNormNone || norm == kNormRms, op, ": norm must be 0 or 1, got ", norm);
  POLYGRAPH_CHECK(activation >= 0 && activation <= 3, op, ": activation must be 0, 1, 2 or 3, got ", activation);
  return n;
}

inline PolySizes check_poly_step_backward(
    const Tensor& grad, const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& scale,
    const Tensor& out, const Tensor& rnorm, int64_t norm, int64_t activation) {
  const char* op = "poly_step_backward";
  const PolySizes n = check_poly_step(op, a, s, scale, std::nullopt, std::nullopt, norm, activation);
  check_dtype(op, "grad", grad, "a", a);
  check_shape(op, "grad", grad, "[B, V, D]", {n.B, n.V, n.D});
  check_device(op, "grad", grad, a);
  check_dtype(op, "out", out, "a", a);
  check_shape(op, "out", out, "[B, V, D]", {n.B, n.V, n.D});
  check_device(op, "out", out, a);
  check_dtype(op, "rnorm", rnorm, is_half(a.scalar_type()) ? ScalarType::Float : a.scalar_type());
  check_shape(op, "rnorm", rnorm, "[B, D]", {n.B, n.D});
  check_device(op, "rnorm", rnorm, a);
  return n;
}

}  // namespace polygraph

// CPU polynomial step: float32 and float64; half types are widened to float32 first.
#include <algorithm>
#include <cmath>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/parallel.h"
#include "common/rounding.h"
#include "common/simd.h"
#include "poly_step/poly_step.h"

namespace polygraph {
namespace {

// Rows of D channels that may be slices of a wider tensor: the last dimension is dense, the others have strides.
template <class T>
struct Rows {
  const T* data = nullptr;
  int64_t sample_stride = 0;
  int64_t row_stride = 0;

  const T* row(int64_t b, int64_t v) const {
    return data + b * sample_stride + v * row_stride;
  }

  // Every row but the last is followed by more memory of the tensor (rows of an expanded tensor are not).
  bool apart(int64_t channels) const {
    return data == nullptr || row_stride >= channels;
  }
};

template <class T>
struct PolyForward {
  using Scalar = T;
  PolySizes n;
  int64_t activation;
  Rows<T> a, s, skip;     // [B, V, D]; skip.data may be null
  const T* bias;          // [D] or null
  const T* vertex_bias;   // [V, D] or null
  const T* factor;        // [B, D]: scale * rnorm, or rnorm alone where the scale is that of the vertex
  const T* vertex_scale;  // [V, D] or null
  T* out;                 // [B, V, D]

  bool rows_apart() const {
    return a.apart(n.D) && s.apart(n.D) && skip.apart(n.D);
  }
};

template <class T>
struct PolyBackward {
  using Scalar = T;
  PolySizes n;
  int64_t activation;
  Rows<T> a, s;           // [B, V, D]
  const T* grad;          // [B, V, D]
  const T* out;           // [B, V, D]
  const T* vertex_scale;  // [V, D] or null
  const T* rnorm;         // [B, D]
  const T* direct;        // [D] or null: the scale, unless it is that of the vertex
  const T* through;       // [B, D]
  T* grad_a;              // rows of D, grad_stride apart
  T* grad_s;              // rows of D, grad_stride apart
  int64_t grad_stride;
  T* grad_skip;          // [B, V, D] or null
  T* grad_vertex_scale;  // [V, D] or null
  T* grad_vertex_bias;   // [V, D] or null

  bool rows_apart() const {
    return a.apart(n.D) && s.apart(n.D);
  }
};

#define POLYGRAPH_KERNEL_FILE "poly_step/poly_step_kernel.inc"
#include "common/each_isa.inc"

constexpr int64_t kBlockRows = 256;  // rows per task, and per partial sum

// Calls fn(b, begin, end, block) on blocks of rows of every sample.
template <class F>
void for_blocks(const PolySizes& n, const F& fn) {
  const int64_t blocks = ceil_div(n.V, kBlockRows);
  parallel_tasks(n.B * blocks, kBlockRows * n.D, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / blocks;
      const int64_t begin = (task - b * blocks) * kBlockRows;
      fn(b, begin, std::min(n.V, begin + kBlockRows), task);
    }
  });
}

// Calls fn(b, begin, end, block) on the same blocks; one task takes a block of all samples, in order.
template <class F>
void for_vertex_blocks(const PolySizes& n, const F& fn) {
  const int64_t blocks = ceil_div(n.V, kBlockRows);
  parallel_tasks(blocks, n.B * kBlockRows * n.D, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      for (int64_t b = 0; b < n.B; ++b) {
        const int64_t begin = block * kBlockRows;
        fn(b, begin, std::min(n.V, begin + kBlockRows), b * blocks + block);
      }
    }
  });
}

// Adds the blocks' partial sums [B, blocks, width] in order: [B, width].
template <class T>
std::vector<T> add_blocks(const std::vector<T>& partial, int64_t samples, int64_t width) {
  std::vector<T> total(samples * width, T(0));
  const int64_t blocks = static_cast<int64_t>(partial.size()) / std::max<int64_t>(1, samples * width);
  for (int64_t b = 0; b < samples; ++b) {
    for (int64_t block = 0; block < blocks; ++block) {
      const T* from = partial.data() + (b * blocks + block) * width;
      for (int64_t d = 0; d < width; ++d) {
        total[b * width + d] += from[d];
      }
    }
  }
  return total;
}

int64_t num_blocks(const PolySizes& n) {
  return n.B * ceil_div(n.V, kBlockRows);
}

// The tensor with its last dimension dense, in a dtype the kernels know.
Tensor prepared(const Tensor& tensor) {
  const Tensor wide = widened(tensor);
  return wide.size(2) == 1 || wide.stride(2) == 1 ? wide : torch::stable::contiguous(wide);
}

template <class T>
Rows<T> rows_of(const Tensor& tensor, int64_t offset = 0) {
  return {static_cast<const T*>(tensor.const_data_ptr()) + offset, tensor.stride(0), tensor.stride(1)};
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

std::optional<Tensor> prepared_vector(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(widened(dense(*tensor))) : std::nullopt;
}

struct PolyInputs {
  Tensor a;
  std::optional<Tensor> s, scale, bias, skip;
};

// 1/sqrt(eps + mean_v t^2) of one channel of one sample, with everything divided by the largest |t| (or by sqrt(eps),
// where that is larger) before it is squared. `plain` is the result where some t is not finite. No r is larger than 1
// over the smallest normal number, whatever eps.
template <class T>
T scaled_rnorm(const PolyForward<T>& p, double eps, int64_t b, int64_t d, T plain) {
  const auto term = [&](int64_t v) { return std::abs(p.a.row(b, v)[d] * p.s.row(b, v)[d]); };
  const T root = std::max(static_cast<T>(std::sqrt(eps)), kSmallestNormal<T>);
  T largest = root;
  for (int64_t v = 0; v < p.n.V; ++v) {
    const T t = term(v);
    largest = t <= largest ? largest : t;
    if (!(largest <= kLargestNumber<T>)) {
      return plain;
    }
  }
  T sum = 0;
  for (int64_t v = 0; v < p.n.V; ++v) {
    const T ratio = term(v) / largest;
    sum += ratio * ratio;
  }
  const T mean = sum / static_cast<T>(std::max<int64_t>(1, p.n.V));
  return T(1) / std::sqrt((root / largest) * (root / largest) + mean) / largest;
}

// r [B, D] = 1/sqrt(eps + mean_v t^2), from the sums of t^2; where these overflow or underflow, from a second pass.
template <class T>
void write_rnorm(const PolyForward<T>& p, double eps, const std::vector<T>& sums, T* r) {
  std::vector<int64_t> rest;
  for (int64_t i = 0; i < p.n.B * p.n.D; ++i) {
    const T mean = static_cast<T>(eps) + sums[i] / static_cast<T>(std::max<int64_t>(1, p.n.V));
    r[i] = T(1) / std::sqrt(mean);
    if (!(mean >= kLeastMeanSquare<T> && mean <= kLargestNumber<T>)) {
      rest.push_back(i);
    }
  }
  parallel_tasks(static_cast<int64_t>(rest.size()), 8 * p.n.V, [&](int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) {
      T& found = r[rest[j]];
      found = scaled_rnorm(p, eps, rest[j] / p.n.D, rest[j] % p.n.D, found);
    }
  });
}

template <class T>
void forward_cpu(
    const PolySizes& n, const PolyInputs& in, int64_t norm, double eps, int64_t activation, Tensor& out,
    Tensor& rnorm) {
  const T* scale = per_vertex(in.scale) ? nullptr : data_or_null<T>(in.scale);
  T* r = static_cast<T*>(rnorm.mutable_data_ptr());
  std::vector<T> factor(n.B * n.D);
  PolyForward<T> p{
      n,
      activation,
      rows_of<T>(in.a),
      in.s.has_value() ? rows_of<T>(*in.s) : rows_of<T>(in.a, n.D),
      in.skip.has_value() ? rows_of<T>(*in.skip) : Rows<T>{},
      per_vertex(in.bias) ? nullptr : data_or_null<T>(in.bias),
      per_vertex(in.bias) ? data_or_null<T>(in.bias) : nullptr,
      factor.data(),
      per_vertex(in.scale) ? data_or_null<T>(in.scale) : nullptr,
      static_cast<T*>(out.mutable_data_ptr())};
  std::fill_n(r, n.B * n.D, T(1));
  if (norm == kNormRms) {
    std::vector<T> partial(num_blocks(n) * n.D);
    for_blocks(n, [&](int64_t b, int64_t begin, int64_t end, int64_t block) {
      POLYGRAPH_SIMD_CALL(square_sums<T>(p, b, begin, end, partial.data() + block * n.D));
    });
    write_rnorm(p, eps, add_blocks(partial, n.B, n.D), r);
  }
  for (int64_t i = 0; i < n.B * n.D; ++i) {
    factor[i] = scale == nullptr ? r[i] : scale[i % n.D] * r[i];
  }
  for_blocks(n, [&](int64_t b, int64_t begin, int64_t end, int64_t /*block*/) {
    POLYGRAPH_SIMD_CALL(forward<T>(p, b, begin, end));
  });
}

struct PolyGradients {
  Tensor a, s, scale, bias, skip;
};

template <class T>
void backward_cpu(
    const PolySizes& n, const PolyInputs& in, const Tensor& grad, const Tensor& out, const Tensor& rnorm, int64_t norm,
    int64_t activation, PolyGradients& to) {
  const bool packed = !in.s.has_value();
  const bool vertex_scale = per_vertex(in.scale);
  const bool vertex_bias = to.bias.dim() == 2;
  const T* scale = vertex_scale ? nullptr : data_or_null<T>(in.scale);
  T* grad_scale = static_cast<T*>(to.scale.mutable_data_ptr());
  T* grad_bias = static_cast<T*>(to.bias.mutable_data_ptr());
  std::fill_n(grad_scale, to.scale.numel(), T(0));
  std::fill_n(grad_bias, to.bias.numel(), T(0));
  const T* r = static_cast<const T*>(rnorm.const_data_ptr());
  std::vector<T> through(n.B * n.D, T(0));
  T* grad_a = static_cast<T*>(to.a.mutable_data_ptr());
  const PolyBackward<T> p{
      n,
      activation,
      rows_of<T>(in.a),
      packed ? rows_of<T>(in.a, n.D) : rows_of<T>(*in.s),
      static_cast<const T*>(grad.const_data_ptr()),
      static_cast<const T*>(out.const_data_ptr()),
      vertex_scale ? data_or_null<T>(in.scale) : nullptr,
      r,
      scale,
      through.data(),
      grad_a,
      packed ? grad_a + n.D : static_cast<T*>(to.s.mutable_data_ptr()),
      packed ? 2 * n.D : n.D,
      to.skip.numel() > 0 ? static_cast<T*>(to.skip.mutable_data_ptr()) : nullptr,
      vertex_scale ? grad_scale : nullptr,
      vertex_bias ? grad_bias : nullptr};
  std::vector<T> partial(num_blocks(n) * 2 * n.D);
  const auto sum_block = [&](int64_t b, int64_t begin, int64_t end, int64_t block) {
    POLYGRAPH_SIMD_CALL(gradient_sums<T>(p, b, begin, end, partial.data() + block * 2 * n.D));
  };
  if (vertex_scale || vertex_bias) {
    for_vertex_blocks(n, sum_block);  // the samples' shares of a vertex are added one after the other
  } else {
    for_blocks(n, sum_block);
  }
  const std::vector<T> total = add_blocks(partial, n.B, 2 * n.D);
  for (int64_t b = 0; b < n.B; ++b) {
    for (int64_t d = 0; d < n.D; ++d) {
      const int64_t i = b * n.D + d;
      const T with_term = total[2 * b * n.D + d];
      if (!vertex_scale) {
        grad_scale[d] += with_term;
      }
      if (!vertex_bias) {
        grad_bias[d] += total[(2 * b + 1) * n.D + d];
      }
      if (norm == kNormRms) {
        through[i] = (scale == nullptr ? T(1) : scale[d]) * (with_term / static_cast<T>(std::max<int64_t>(1, n.V)));
      }
    }
  }
  for_blocks(n, [&](int64_t b, int64_t begin, int64_t end, int64_t /*block*/) {
    POLYGRAPH_SIMD_CALL(backward<T>(p, b, begin, end));
  });
}

}  // namespace

std::tuple<Tensor, Tensor> poly_step_cpu(
    const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& skip, int64_t norm, double eps,
    int64_t activation) {
  const PolySizes n = check_poly_step("poly_step", a, s, scale, bias, skip, norm, activation);
  PolyInputs in{prepared(a), std::nullopt, prepared_vector(scale), prepared_vector(bias), std::nullopt};
  if (s.has_value()) {
    in.s = prepared(*s);
  }
  if (skip.has_value()) {
    in.skip = prepared(*skip);
  }
  Tensor out = torch::stable::new_empty(in.a, {n.B, n.V, n.D});
  Tensor rnorm = torch::stable::new_empty(in.a, {n.B, n.D});
  if (in.a.scalar_type() == ScalarType::Double) {
    forward_cpu<double>(n, in, norm, eps, activation, out, rnorm);
  } else {
    forward_cpu<float>(n, in, norm, eps, activation, out, rnorm);
  }
  return {narrowed(out, a.scalar_type()), rnorm};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> poly_step_backward_cpu(
    const Tensor& grad, const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& scale,
    const Tensor& out, const Tensor& rnorm, int64_t norm, double /*eps*/, int64_t activation, bool vertex_bias,
    bool need_skip) {
  const PolySizes n = check_poly_step_backward(grad, a, s, scale, out, rnorm, norm, activation);
  PolyInputs in{prepared(a), std::nullopt, prepared_vector(scale), std::nullopt, std::nullopt};
  if (s.has_value()) {
    in.s = prepared(*s);
  }
  const Tensor upstream = widened(dense(grad));
  PolyGradients to{
      torch::stable::new_empty(upstream, {n.B, n.V, s.has_value() ? n.D : 2 * n.D}),
      s.has_value() ? torch::stable::new_empty(upstream, {n.B, n.V, n.D}) : torch::stable::new_empty(upstream, {0}),
      per_vertex(scale) ? torch::stable::new_empty(upstream, {n.V, n.D}) : torch::stable::new_empty(upstream, {n.D}),
      vertex_bias ? torch::stable::new_empty(upstream, {n.V, n.D}) : torch::stable::new_empty(upstream, {n.D}),
      need_skip ? torch::stable::new_empty(upstream, {n.B, n.V, n.D}) : torch::stable::new_empty(upstream, {0})};
  if (upstream.scalar_type() == ScalarType::Double) {
    backward_cpu<double>(n, in, upstream, dense(out), dense(rnorm), norm, activation, to);
  } else {
    backward_cpu<float>(n, in, upstream, widened(dense(out)), dense(rnorm), norm, activation, to);
  }
  const ScalarType type = a.scalar_type();
  return {
      narrowed(to.a, type), narrowed(to.s, type), narrowed(to.scale, type), narrowed(to.bias, type),
      narrowed(to.skip, type)};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("poly_step", TORCH_BOX(&polygraph::poly_step_cpu));
  m.impl("poly_step_backward", TORCH_BOX(&polygraph::poly_step_backward_cpu));
}

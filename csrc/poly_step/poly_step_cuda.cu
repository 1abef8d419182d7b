// CUDA polynomial step: float32, float64, and half types that compute in float32.
#include <tuple>

#include "poly_step/poly_step_kernels.cuh"

namespace polygraph {
namespace {

constexpr int64_t kManyBlocks = 1024;  // blocks that fill a large GPU
constexpr int64_t kMostSamples = 4;

// All tensors of a call, with what their kernels ask of them: the last dimension dense.
struct PolyInputs {
  Tensor a;
  std::optional<Tensor> s, scale, bias, skip;
};

Tensor last_dense(const Tensor& tensor) {
  return tensor.size(2) == 1 || tensor.stride(2) == 1 ? tensor : torch::stable::contiguous(tensor);
}

std::optional<Tensor> last_dense(const std::optional<Tensor>& tensor) {
  std::optional<Tensor> result;
  if (tensor.has_value()) {
    result = last_dense(*tensor);
  }
  return result;
}

template <class T>
PolyRows<T> rows_of(const Tensor& tensor, int64_t offset) {
  return {.data = const_data<T>(tensor) + offset, .sample_stride = tensor.stride(0), .row_stride = tensor.stride(1)};
}

template <class T>
PolyTerms<T> terms_of(const PolySizes& n, const PolyInputs& in) {
  return {.a = rows_of<T>(in.a, 0), .s = in.s.has_value() ? rows_of<T>(*in.s, 0) : rows_of<T>(in.a, n.D)};
}

template <class T>
bool takes_packs(const PolyRows<T>& rows) {
  return is_aligned(rows.data, 16) && rows.sample_stride % kPackWidth<T> == 0 && rows.row_stride % kPackWidth<T> == 0;
}

template <class T>
bool takes_packs(const PolySizes& n, const PolyTerms<T>& terms) {
  return n.D % kPackWidth<T> == 0 && takes_packs(terms.a) && takes_packs(terms.s);
}

// A block per share of kShareRows rows; see reduce_shares.
template <class T, int kVec>
LaunchShape share_shape(const PolySizes& n, int sums) {
  return {num_shares(n.V), strided_samples(n.B), kThreads, int64_t(sums) * kVec * kThreads * int64_t(sizeof(Acc<T>))};
}

// A thread takes up to kMostSamples samples, as long as there are kManyBlocks blocks.
template <int kVec>
LaunchShape row_shape(const PolySizes& n) {
  const int64_t blocks = strided_blocks(n.V * (n.D / kVec), kThreads);
  const int64_t samples = std::clamp<int64_t>(blocks * strided_samples(n.B) / kManyBlocks, 1, kMostSamples);
  return {blocks, strided_samples(ceil_div(n.B, samples)), kThreads, 0};
}

LaunchShape channel_shape(const PolySizes& n) {
  return {strided_blocks(n.B * n.D, kThreads), 1, kThreads, 0};
}

// rnorm [B, D], and partial [B, shares, D] on the way (norm 1 only).
template <class T>
void launch_poly_step_norm(const PolyNormParams<T>& p, const DeviceScope& scope) {
  if (p.n.B * p.n.D == 0) {
    return;
  }
  if (p.partial != nullptr && p.n.V > 0) {
    with_lanes<T>(p.n.D, takes_packs(p.n, p.terms), [&](auto width, auto packs) {
      start_kernel(share_shape<T, width()>(p.n, 1), scope, poly_step_squares_kernel<T, width(), packs()>, p);
    });
  }
  start_kernel(channel_shape(p.n), scope, poly_step_rnorm_kernel<T>, p);
}

template <class T>
void launch_poly_step(const PolyForwardParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.B * p.n.V * p.n.D == 0) {
    return;
  }
  if (takes_packs(p.n, p.terms) && takes_packs(p.skip)) {
    start_kernel(row_shape<kVec>(p.n), scope, poly_step_kernel<T, kVec>, p);
  } else {
    start_kernel(row_shape<1>(p.n), scope, poly_step_kernel<T, 1>, p);
  }
}

// A scale or bias [D] or [V, D], or absent.
template <class T>
PolyFactors<T> factors_of(const PolySizes& n, const std::optional<Tensor>& tensor) {
  const T* data = const_data<T>(tensor);
  return {.data = data, .row_stride = per_vertex(tensor) ? n.D : 0, .packs = is_aligned(data, 16)};
}

// The sums over rows, the factors made of them, grad_scale and grad_bias. What is null is a gradient per vertex.
template <class T>
void launch_poly_step_backward_sums(
    const PolyBackwardParams<T>& p, T* grad_scale, T* grad_bias, const DeviceScope& scope) {
  if (p.n.D == 0) {
    return;
  }
  if (p.n.B > 0) {
    if (p.n.V > 0) {
      with_lanes<T>(p.n.D, p.packs, [&](auto width, auto packs) {
        start_kernel(share_shape<T, width()>(p.n, 2), scope, poly_step_backward_sums_kernel<T, width(), packs()>, p);
      });
    }
    start_kernel(channel_shape(p.n), scope, poly_step_backward_factors_kernel<T>, p);
  }
  if (grad_scale != nullptr) {
    launch_sum_shares<T>({p.scale_sums, grad_scale, p.n.B, p.n.D}, scope);
  }
  if (grad_bias != nullptr) {
    launch_sum_shares<T>({p.bias_sums, grad_bias, p.n.B, p.n.D}, scope);
  }
}

template <class T>
void launch_poly_step_vertex_sums(const PolyBackwardParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.V * p.n.D == 0 || (p.grad_vertex_scale == nullptr && p.grad_vertex_bias == nullptr)) {
    return;
  }
  LaunchShape shape = p.packs ? row_shape<kVec>(p.n) : row_shape<1>(p.n);
  shape.blocks_y = 1;  // a block takes all samples
  if (p.packs) {
    start_kernel(shape, scope, poly_step_vertex_sums_kernel<T, kVec>, p);
  } else {
    start_kernel(shape, scope, poly_step_vertex_sums_kernel<T, 1>, p);
  }
}

template <class T>
void launch_poly_step_backward(const PolyBackwardParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.B * p.n.V * p.n.D == 0) {
    return;
  }
  if (p.packs) {
    start_kernel(row_shape<kVec>(p.n), scope, poly_step_backward_kernel<T, kVec>, p);
  } else {
    start_kernel(row_shape<1>(p.n), scope, poly_step_backward_kernel<T, 1>, p);
  }
}

template <class T>
void forward_cuda(
    const PolySizes& n, const PolyInputs& in, int64_t norm, double eps, int64_t activation, const Tensor& out,
    const Tensor& rnorm) {
  const DeviceScope scope(in.a);
  const Tensor partial = new_accumulators(in.a, norm == kNormRms ? n.B * num_shares(n.V) * n.D : 0);
  Acc<T>* r = mutable_data<Acc<T>>(rnorm);
  const PolyTerms<T> terms = terms_of<T>(n, in);
  launch_poly_step_norm<T>(
      {.n = n,
       .terms = terms,
       .partial = norm == kNormRms ? mutable_data<Acc<T>>(partial) : nullptr,
       .norm = norm,
       .eps = eps,
       .rnorm = r},
      scope);
  launch_poly_step<T>(
      {.n = n,
       .terms = terms,
       .skip = in.skip.has_value() ? rows_of<T>(*in.skip, 0) : PolyRows<T>{},
       .scale = factors_of<T>(n, in.scale),
       .bias = factors_of<T>(n, in.bias),
       .rnorm = r,
       .activation = static_cast<int>(activation),
       .out = mutable_data<T>(out)},
      scope);
}

struct PolyGradients {
  Tensor a, s, scale, bias, skip;
};

template <class T>
void backward_cuda(
    const PolySizes& n, const PolyInputs& in, const Tensor& grad, const Tensor& out, const Tensor& rnorm, int64_t norm,
    int64_t activation, const PolyGradients& to) {
  const DeviceScope scope(in.a);
  const bool packed = !in.s.has_value();
  const int64_t channels = n.B * n.D;
  const Tensor partial = new_accumulators(in.a, 2 * num_shares(n.V) * channels);
  const Tensor sums = new_accumulators(in.a, 3 * channels);
  Acc<T>* workspace = mutable_data<Acc<T>>(sums);
  const PolyTerms<T> terms = terms_of<T>(n, in);
  T* grad_a = mutable_data<T>(to.a);
  T* grad_scale = mutable_data<T>(to.scale);
  T* grad_bias = mutable_data<T>(to.bias);
  const T* upstream = const_data<T>(grad);
  const T* result = const_data<T>(out);
  const Acc<T>* r = const_data<Acc<T>>(rnorm);
  const PolyBackwardParams<T> p{
      .n = n,
      .terms = terms,
      .grad = upstream,
      .out = result,
      .scale = factors_of<T>(n, in.scale),
      .rnorm = r,
      .norm = norm,
      .activation = static_cast<int>(activation),
      .packs = takes_packs(n, terms) && is_aligned(upstream, 16) && is_aligned(result, 16) && is_aligned(r, 16),
      .partial = mutable_data<Acc<T>>(partial),
      .through = workspace,
      .scale_sums = workspace + channels,
      .bias_sums = workspace + 2 * channels,
      .grad_a = grad_a,
      .grad_s = packed ? grad_a + n.D : mutable_data<T>(to.s),
      .grad_stride = packed ? 2 * n.D : n.D,
      .grad_skip = to.skip.numel() > 0 ? mutable_data<T>(to.skip) : nullptr,
      .grad_vertex_scale = to.scale.dim() == 2 ? grad_scale : nullptr,
      .grad_vertex_bias = to.bias.dim() == 2 ? grad_bias : nullptr};
  launch_poly_step_backward_sums<T>(
      p, p.grad_vertex_scale == nullptr ? grad_scale : nullptr, p.grad_vertex_bias == nullptr ? grad_bias : nullptr,
      scope);
  launch_poly_step_vertex_sums<T>(p, scope);
  launch_poly_step_backward<T>(p, scope);
}

}  // namespace

std::tuple<Tensor, Tensor> poly_step_cuda(
    const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& skip, int64_t norm, double eps,
    int64_t activation) {
  const PolySizes n = check_poly_step("poly_step", a, s, scale, bias, skip, norm, activation);
  const PolyInputs in{
      .a = last_dense(a), .s = last_dense(s), .scale = dense(scale), .bias = dense(bias), .skip = last_dense(skip)};
  const Tensor out = torch::stable::new_empty(a, {n.B, n.V, n.D});
  const Tensor rnorm =
      torch::stable::new_empty(a, {n.B, n.D}, is_half(a.scalar_type()) ? ScalarType::Float : a.scalar_type());
  dispatch_floating(
      a.scalar_type(), [&](auto zero) { forward_cuda<decltype(zero)>(n, in, norm, eps, activation, out, rnorm); });
  return {out, rnorm};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> poly_step_backward_cuda(
    const Tensor& grad, const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& scale,
    const Tensor& out, const Tensor& rnorm, int64_t norm, double /*eps*/, int64_t activation, bool vertex_bias,
    bool need_skip) {
  const PolySizes n = check_poly_step_backward(grad, a, s, scale, out, rnorm, norm, activation);
  const PolyInputs in{
      .a = last_dense(a), .s = last_dense(s), .scale = dense(scale), .bias = std::nullopt, .skip = std::nullopt};
  const PolyGradients to{
      .a = torch::stable::new_empty(a, {n.B, n.V, s.has_value() ? n.D : 2 * n.D}),
      .s = s.has_value() ? torch::stable::new_empty(a, {n.B, n.V, n.D}) : torch::stable::new_empty(a, {0}),
      .scale = per_vertex(scale) ? torch::stable::new_empty(a, {n.V, n.D}) : torch::stable::new_empty(a, {n.D}),
      .bias = vertex_bias ? torch::stable::new_empty(a, {n.V, n.D}) : torch::stable::new_empty(a, {n.D}),
      .skip = need_skip ? torch::stable::new_empty(a, {n.B, n.V, n.D}) : torch::stable::new_empty(a, {0})};
  const Tensor upstream = dense(grad);
  const Tensor result = dense(out);
  const Tensor factors = dense(rnorm);
  dispatch_floating(a.scalar_type(), [&](auto zero) {
    backward_cuda<decltype(zero)>(n, in, upstream, result, factors, norm, activation, to);
  });
  return {to.a, to.s, to.scale, to.bias, to.skip};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("poly_step", TORCH_BOX(&polygraph::poly_step_cuda));
  m.impl("poly_step_backward", TORCH_BOX(&polygraph::poly_step_backward_cuda));
}

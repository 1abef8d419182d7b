// CPU mesh resampling: float32 and float64; half types are widened to float32 first.
#include <algorithm>

#include "common/rounding.h"
#include "common/simd.h"
#include "resample/resample.h"

namespace polygraph {
namespace {

#define POLYGRAPH_KERNEL_FILE "resample/resample_kernel.inc"
#include "common/each_isa.inc"

constexpr int64_t kBlockRows = 128;  // rows per task

// Calls fn(b, begin, end) on blocks of the rows of every sample.
template <class F>
void for_blocks(int64_t samples, int64_t rows, int64_t work_per_row, const F& fn) {
  const int64_t blocks = ceil_div(rows, kBlockRows);
  parallel_tasks(samples * blocks, kBlockRows * work_per_row, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / blocks;
      const int64_t begin = (task - b * blocks) * kBlockRows;
      fn(b, begin, std::min(rows, begin + kBlockRows));
    }
  });
}

template <class T>
void forward_cpu(const ResampleSizes& n, const Tensor& x, const Tensor& index, const Tensor& weight, Tensor& out) {
  const ResampleParams<T> p{
      .n = n,
      .x = const_data<T>(x),
      .index = const_data<int64_t>(index),
      .weight = const_data<T>(weight),
      .out = mutable_data<T>(out)};
  for_blocks(n.B, n.M, n.T * n.C, [&](int64_t b, int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(forward<T>(p, b, begin, end));
  });
}

template <class T>
void backward_x_cpu(
    const ResampleSizes& n, const Tensor& grad, const Tensor& weight, const Tensor& t_ptr, const Tensor& t_entry,
    Tensor& out) {
  const ResampleParams<T> p{
      .n = n,
      .grad = const_data<T>(grad),
      .weight = const_data<T>(weight),
      .t_ptr = const_data<int64_t>(t_ptr),
      .t_entry = const_data<int64_t>(t_entry),
      .out = mutable_data<T>(out)};
  const int64_t terms = n.M * n.T / std::max<int64_t>(1, n.V) + 1;
  for_blocks(n.B, n.V, terms * n.C, [&](int64_t b, int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(backward_x<T>(p, b, begin, end));
  });
}

template <class T>
void backward_weight_cpu(
    const ResampleSizes& n, const Tensor& grad, const Tensor& x, const Tensor& index, Tensor& out) {
  const ResampleParams<T> p{
      .n = n,
      .x = const_data<T>(x),
      .grad = const_data<T>(grad),
      .index = const_data<int64_t>(index),
      .out = mutable_data<T>(out)};
  for_blocks(1, n.M, n.B * n.T * n.C, [&](int64_t /*b*/, int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(backward_weight<T>(p, begin, end));
  });
}

}  // namespace

Tensor resample_cpu(
    const Tensor& x, const Tensor& index, const Tensor& weight, const std::optional<Tensor>& t_ptr,
    const std::optional<Tensor>& t_entry) {
  const ResampleSizes n = check_resample(x, index, weight);
  check_given_transposed("resample", x, index, t_ptr, t_entry);
  const Tensor table = dense(index);
  check_entries("resample", table, n.V);
  const Tensor features = widened(dense(x));
  const Tensor factors = widened(dense(weight));
  Tensor out = torch::stable::new_empty(features, {n.B, n.M, n.C});
  dispatch_wide(features, [&](auto zero) { forward_cpu<decltype(zero)>(n, features, table, factors, out); });
  return narrowed(out, x.scalar_type());
}

Tensor resample_backward_x_cpu(
    const Tensor& grad, const Tensor& index, const Tensor& weight, const Tensor& t_ptr, const Tensor& t_entry) {
  const ResampleSizes n = check_resample_backward_x(grad, index, weight, t_ptr, t_entry);
  const Tensor ptr = dense(t_ptr);
  const Tensor entry = dense(t_entry);
  check_transposed("resample_backward_x", ptr, entry);
  const Tensor upstream = widened(dense(grad));
  const Tensor factors = widened(dense(weight));
  Tensor out = torch::stable::new_empty(upstream, {n.B, n.V, n.C});
  dispatch_wide(upstream, [&](auto zero) { backward_x_cpu<decltype(zero)>(n, upstream, factors, ptr, entry, out); });
  return narrowed(out, grad.scalar_type());
}

Tensor resample_backward_weight_cpu(
    const Tensor& grad, const Tensor& x, const Tensor& index, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_entry*/) {
  const ResampleSizes n = check_resample_backward_weight(grad, x, index);
  const Tensor table = dense(index);
  check_entries("resample_backward_weight", table, n.V);
  const Tensor upstream = widened(dense(grad));
  const Tensor features = widened(dense(x));
  Tensor out = torch::stable::new_empty(features, {n.M, n.T});
  dispatch_wide(features, [&](auto zero) { backward_weight_cpu<decltype(zero)>(n, upstream, features, table, out); });
  return narrowed(out, x.scalar_type());
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("resample", TORCH_BOX(&polygraph::resample_cpu));
  m.impl("resample_backward_x", TORCH_BOX(&polygraph::resample_backward_x_cpu));
  m.impl("resample_backward_weight", TORCH_BOX(&polygraph::resample_backward_weight_cpu));
}

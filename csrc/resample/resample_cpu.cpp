// CPU mesh resampling: float32 and float64; half types are widened to float32 first.
#include <algorithm>

#include "common/simd.h"
#include "resample/resample.h"

namespace polygraph {
namespace {

template <class T>
struct ResampleParams {
  ResampleSizes n;
  const T* x;              // [B, V, C]; not read by backward_x
  const T* grad;           // [B, M, C]; not read by forward
  const int64_t* index;    // [M, T]
  const T* weight;         // [M, T]; not read by backward_weight
  const int64_t* t_ptr;    // [V+1], backward_x only
  const int64_t* t_entry;  // [M*T], backward_x only
  T* out;                  // [B, M, C], [B, V, C] or [M, T]
};

#define POLYGRAPH_KERNEL_FILE "resample/resample_kernel.inc"
#include "common/each_isa.inc"

constexpr int64_t kBlockRows = 128;  // rows per task

// Calls fn(b, begin, end) on blocks of the rows of every sample.
template <class F>
void for_blocks(int64_t samples, int64_t rows, int64_t work_per_row, const F& fn) {
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  parallel_tasks(samples * blocks, kBlockRows * work_per_row, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / blocks;
      const int64_t begin = (task - b * blocks) * kBlockRows;
      fn(b, begin, std::min(rows, begin + kBlockRows));
    }
  });
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
void forward_cpu(const ResampleSizes& n, const Tensor& x, const Tensor& index, const Tensor& weight, Tensor& out) {
  const ResampleParams<T> p{
      n,
      data<T>(x),
      nullptr,
      data<int64_t>(index),
      data<T>(weight),
      nullptr,
      nullptr,
      static_cast<T*>(out.mutable_data_ptr())};
  for_blocks(n.B, n.M, n.T * n.C, [&](int64_t b, int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(forward<T>(p, b, begin, end));
  });
}

template <class T>
void backward_x_cpu(
    const ResampleSizes& n, const Tensor& grad, const Tensor& weight, const Tensor& t_ptr, const Tensor& t_entry,
    Tensor& out) {
  const ResampleParams<T> p{
      n,
      nullptr,
      data<T>(grad),
      nullptr,
      data<T>(weight),
      data<int64_t>(t_ptr),
      data<int64_t>(t_entry),
      static_cast<T*>(out.mutable_data_ptr())};
  const int64_t terms = n.M * n.T / std::max<int64_t>(1, n.V) + 1;
  for_blocks(n.B, n.V, terms * n.C, [&](int64_t b, int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(backward_x<T>(p, b, begin, end));
  });
}

template <class T>
void backward_weight_cpu(
    const ResampleSizes& n, const Tensor& grad, const Tensor& x, const Tensor& index, Tensor& out) {
  const ResampleParams<T> p{n,       data<T>(x), data<T>(grad), data<int64_t>(index),
                            nullptr, nullptr,    nullptr,       static_cast<T*>(out.mutable_data_ptr())};
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
  if (features.scalar_type() == ScalarType::Double) {
    forward_cpu<double>(n, features, table, factors, out);
  } else {
    forward_cpu<float>(n, features, table, factors, out);
  }
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
  if (upstream.scalar_type() == ScalarType::Double) {
    backward_x_cpu<double>(n, upstream, factors, ptr, entry, out);
  } else {
    backward_x_cpu<float>(n, upstream, factors, ptr, entry, out);
  }
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
  if (features.scalar_type() == ScalarType::Double) {
    backward_weight_cpu<double>(n, upstream, features, table, out);
  } else {
    backward_weight_cpu<float>(n, upstream, features, table, out);
  }
  return narrowed(out, x.scalar_type());
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("resample", TORCH_BOX(&polygraph::resample_cpu));
  m.impl("resample_backward_x", TORCH_BOX(&polygraph::resample_backward_x_cpu));
  m.impl("resample_backward_weight", TORCH_BOX(&polygraph::resample_backward_weight_cpu));
}

// CUDA mesh resampling: float32, float64, and half types that accumulate in float32.
#include "common/cuda_utils.cuh"
#include "resample/resample.h"

namespace polygraph {
namespace {

constexpr int kThreads = 256;

template <class T, int kVec>
__device__ __forceinline__ void add_scaled(Acc<T> (&sum)[kVec], Acc<T> factor, const T* from) {
  const auto pack = load_pack<T, kVec>(from);
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    sum[v] += factor * static_cast<Acc<T>>(pack.lane[v]);
  }
}

// A thread computes kVec channels of one target m, sample after sample; neighboring threads lie along C, so rows are
// read and written in whole sectors, kVec channels a load (C a multiple of kVec, all rows aligned to it). Bound by
// memory. Safe: no shared memory, one writer per element.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 3) resample_kernel(ResampleParams<T> p) {
  const ResampleSizes n = p.n;
  const int64_t groups = n.C / kVec;
  for (int64_t item = first_item(); item < n.M * groups; item += item_stride()) {
    const int64_t m = quotient(item, groups);
    const int64_t c = (item - m * groups) * kVec;
    for (int64_t b = blockIdx.y; b < n.B; b += gridDim.y) {
      Acc<T> sum[kVec] = {};
      for (int64_t t = 0; t < n.T; ++t) {
        const int64_t source = p.index[m * n.T + t];
        POLYGRAPH_CHECK_ENTRY("resample", "index", source, n.V);
        if (source >= 0) {
          add_scaled<T, kVec>(sum, static_cast<Acc<T>>(p.weight[m * n.T + t]), p.x + (b * n.V + source) * n.C + c);
        }
      }
      store_row<T, kVec>(p.out + (b * n.M + m) * n.C + c, sum);
    }
  }
}

// As resample_kernel with the roles swapped: a thread computes kVec channels of one source u, whose targets stand in
// the transposed table in ascending order.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 3) resample_backward_x_kernel(ResampleParams<T> p) {
  const ResampleSizes n = p.n;
  const int64_t groups = n.C / kVec;
  for (int64_t item = first_item(); item < n.V * groups; item += item_stride()) {
    const int64_t u = quotient(item, groups);
    const int64_t c = (item - u * groups) * kVec;
    const int64_t first = p.t_ptr[u];
    const int64_t last = p.t_ptr[u + 1];
    POLYGRAPH_CHECK_LIST("resample_backward_x", first, last, n.M * n.T);
    for (int64_t b = blockIdx.y; b < n.B; b += gridDim.y) {
      Acc<T> sum[kVec] = {};
      for (int64_t e = first; e < last; ++e) {
        const int64_t position = p.t_entry[e];
        POLYGRAPH_CHECK_POSITION("resample_backward_x", position, n.M * n.T);
        const int64_t m = quotient(position, n.T);
        add_scaled<T, kVec>(sum, static_cast<Acc<T>>(p.weight[position]), p.grad + (b * n.M + m) * n.C + c);
      }
      store_row<T, kVec>(p.out + (b * n.V + u) * n.C + c, sum);
    }
  }
}

constexpr int kDotLanes = 32;
constexpr int kDotRows = kThreads / kDotLanes;

// kDotLanes threads compute one weight gradient (m, t): lane l adds the groups of kVec channels l, l + kDotLanes, ...
// of all samples, flattened, and the lanes are folded by halves in shared memory. kVec, and with it the order, depends
// on C alone. Safe: a row of the block shares nothing with the others, and all threads pass every barrier, also those
// without work.
template <class T, int kVec, bool kPacks>
__global__ void __launch_bounds__(kThreads, 3) resample_backward_weight_kernel(ResampleParams<T> p) {
  const ResampleSizes n = p.n;
  Acc<T>* sums = reinterpret_cast<Acc<T>*>(polygraph_shared_memory);  // [kDotRows, kDotLanes]
  const int lane = static_cast<int>(threadIdx.x) % kDotLanes;
  const int row = static_cast<int>(threadIdx.x) / kDotLanes;
  const int64_t groups = n.C / kVec;
  for (int64_t first = int64_t(blockIdx.x) * kDotRows; first < n.M * n.T; first += int64_t(gridDim.x) * kDotRows) {
    const int64_t pair = first + row;
    const int64_t source = pair < n.M * n.T ? p.index[pair] : -1;
    POLYGRAPH_CHECK_ENTRY("resample_backward_weight", "index", source, n.V);
    const int64_t m = quotient(pair, n.T);
    Acc<T> sum = 0;
    for (int64_t item = lane; source >= 0 && item < n.B * groups; item += kDotLanes) {
      const int64_t b = quotient(item, groups);
      const int64_t c = (item - b * groups) * kVec;
      const auto g = load_lanes<T, kVec, kPacks>(p.grad + (b * n.M + m) * n.C + c);
      const auto x = load_lanes<T, kVec, kPacks>(p.x + (b * n.V + source) * n.C + c);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        sum += static_cast<Acc<T>>(g.lane[v]) * static_cast<Acc<T>>(x.lane[v]);
      }
    }
    Acc<T>* mine = sums + row * kDotLanes;
    mine[lane] = sum;
    __syncthreads();
    for (int half = kDotLanes / 2; half > 0; half /= 2) {
      if (lane < half) {
        mine[lane] += mine[lane + half];
      }
      __syncthreads();
    }
    if (lane == 0 && pair < n.M * n.T) {
      p.out[pair] = static_cast<T>(mine[0]);
    }
    __syncthreads();
  }
}

template <class T>
bool takes_packs(const ResampleParams<T>& p) {
  return p.n.C % kPackWidth<T> == 0 && is_aligned(p.x, 16) && is_aligned(p.grad, 16);
}

LaunchShape channel_shape(int64_t rows, int64_t samples, int64_t groups) {
  return {strided_blocks(rows * groups, kThreads), strided_samples(samples), kThreads, 0};
}

template <class T>
void launch_resample(const ResampleParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.B * p.n.M * p.n.C == 0) {
    return;
  }
  if (takes_packs(p)) {
    start_kernel(channel_shape(p.n.M, p.n.B, p.n.C / kVec), scope, resample_kernel<T, kVec>, p);
  } else {
    start_kernel(channel_shape(p.n.M, p.n.B, p.n.C), scope, resample_kernel<T, 1>, p);
  }
}

template <class T>
void launch_resample_backward_x(const ResampleParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.B * p.n.V * p.n.C == 0) {
    return;
  }
  if (takes_packs(p)) {
    start_kernel(channel_shape(p.n.V, p.n.B, p.n.C / kVec), scope, resample_backward_x_kernel<T, kVec>, p);
  } else {
    start_kernel(channel_shape(p.n.V, p.n.B, p.n.C), scope, resample_backward_x_kernel<T, 1>, p);
  }
}

template <class T>
void launch_resample_backward_weight(const ResampleParams<T>& p, const DeviceScope& scope) {
  if (p.n.M * p.n.T == 0) {
    return;
  }
  const LaunchShape shape{
      strided_blocks(p.n.M * p.n.T, kDotRows), 1, kThreads, kThreads * static_cast<int64_t>(sizeof(Acc<T>))};
  with_lanes<T>(p.n.C, takes_packs(p), [&](auto width, auto packs) {
    start_kernel(shape, scope, resample_backward_weight_kernel<T, width(), packs()>, p);
  });
}

}  // namespace

Tensor resample_cuda(
    const Tensor& x, const Tensor& index, const Tensor& weight, const std::optional<Tensor>& t_ptr,
    const std::optional<Tensor>& t_entry) {
  const ResampleSizes n = check_resample(x, index, weight);
  check_given_transposed("resample", x, index, t_ptr, t_entry);
  const DeviceScope scope(x);
  const Tensor features = dense(x);
  const Tensor table = dense(index);
  const Tensor factors = dense(weight);
  const Tensor out = torch::stable::new_empty(x, {n.B, n.M, n.C});
  dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_resample<T>(
        {.n = n,
         .x = const_data<T>(features),
         .index = const_data<int64_t>(table),
         .weight = const_data<T>(factors),
         .out = mutable_data<T>(out)},
        scope);
  });
  return out;
}

Tensor resample_backward_x_cuda(
    const Tensor& grad, const Tensor& index, const Tensor& weight, const Tensor& t_ptr, const Tensor& t_entry) {
  const ResampleSizes n = check_resample_backward_x(grad, index, weight, t_ptr, t_entry);
  const DeviceScope scope(grad);
  const Tensor upstream = dense(grad);
  const Tensor factors = dense(weight);
  const Tensor ptr = dense(t_ptr);
  const Tensor entry = dense(t_entry);
  const Tensor out = torch::stable::new_empty(grad, {n.B, n.V, n.C});
  dispatch_floating(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_resample_backward_x<T>(
        {.n = n,
         .grad = const_data<T>(upstream),
         .weight = const_data<T>(factors),
         .t_ptr = const_data<int64_t>(ptr),
         .t_entry = const_data<int64_t>(entry),
         .out = mutable_data<T>(out)},
        scope);
  });
  return out;
}

Tensor resample_backward_weight_cuda(
    const Tensor& grad, const Tensor& x, const Tensor& index, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_entry*/) {
  const ResampleSizes n = check_resample_backward_weight(grad, x, index);
  const DeviceScope scope(x);
  const Tensor upstream = dense(grad);
  const Tensor features = dense(x);
  const Tensor table = dense(index);
  const Tensor out = torch::stable::new_empty(x, {n.M, n.T});
  dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_resample_backward_weight<T>(
        {.n = n,
         .x = const_data<T>(features),
         .grad = const_data<T>(upstream),
         .index = const_data<int64_t>(table),
         .out = mutable_data<T>(out)},
        scope);
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("resample", TORCH_BOX(&polygraph::resample_cuda));
  m.impl("resample_backward_x", TORCH_BOX(&polygraph::resample_backward_x_cuda));
  m.impl("resample_backward_weight", TORCH_BOX(&polygraph::resample_backward_weight_cuda));
}

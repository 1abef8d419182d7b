// CUDA largest neighbour: float32, float64, and half types that accumulate in float32.
#include "common/graph.cuh"
#include "edge_max/edge_max.h"

namespace polygraph {
namespace {

constexpr int kThreads = 256;

template <class T>
struct EdgeMaxParams {
  EdgeMaxSizes n;
  GraphPointers graph;
  const T* v;     // [O, D]
  const T* sign;  // [D], null: maximum
  T* value;       // [S, D]
  int32_t* arg;   // [S, D]
  T* sum;         // [S, D], null: not wanted
};

// A thread computes kVec channels of one segment; neighbouring threads lie along D, so rows are read and written in
// whole sectors (D a multiple of kVec, all rows aligned to it). Bound by memory: one row a slot, mostly from the L2.
// Safe: no shared memory, one writer a number.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 3) edge_max_kernel(EdgeMaxParams<T> p) {
  const int64_t D = p.n.D;
  const int64_t groups = D / kVec;
  for (int64_t item = first_item(); item < p.n.g.S * groups; item += item_stride()) {
    const int64_t s = quotient(item, groups);
    const int64_t c = (item - s * groups) * kVec;
    const int64_t first = p.graph.ptr[s];
    const int64_t last = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("edge_max", first, last, p.n.g.E);
    Acc<T> sign[kVec];
    Acc<T> best[kVec] = {};
    Acc<T> sum[kVec] = {};
    Pack<int32_t, kVec> arg;
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      sign[v] = p.sign == nullptr ? Acc<T>(1) : static_cast<Acc<T>>(p.sign[c + v]);
      arg.lane[v] = -1;
    }
    for (int64_t slot = first; slot < last; ++slot) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.g.E, slot);
      if (at.other < 0) {
        continue;
      }
      const auto row = load_pack<T, kVec>(p.v + at.other * D + c);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        const Acc<T> value = static_cast<Acc<T>>(row.lane[v]);
        sum[v] += value;
        const Acc<T> signed_value = value * sign[v];
        // Larger, or NaN; but nothing is larger than NaN.
        const bool stays = signed_value <= best[v] || best[v] != best[v];
        if (arg.lane[v] < 0 || !stays) {
          best[v] = signed_value;
          arg.lane[v] = static_cast<int32_t>(slot);
        }
      }
    }
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      best[v] *= sign[v];
    }
    store_row<T, kVec>(p.value + s * D + c, best);
    store_global<int32_t, kVec>(p.arg + s * D + c, arg);
    if (p.sum != nullptr) {
      store_row<T, kVec>(p.sum + s * D + c, sum);
    }
  }
}

template <class T>
struct EdgeArgParams {
  EdgeMaxSizes n;
  const T* from;          // grad [S, D] or v [O, D]
  const int32_t* arg;     // [S, D]
  const int64_t* other;   // [E]
  const int64_t* target;  // [E]; these three edge_max_backward only
  const int64_t* t_ptr;   // [O+1]
  const int64_t* t_slot;  // [E]
  T* out;                 // [O, D] or [S, D]
};

// A thread computes kVec channels of one node from the slots that leave it: those that a target has chosen bring its
// gradient. Coalescing and safety as above.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 3) edge_max_backward_kernel(EdgeArgParams<T> p) {
  const int64_t D = p.n.D;
  const int64_t groups = D / kVec;
  for (int64_t item = first_item(); item < p.n.g.O * groups; item += item_stride()) {
    const int64_t o = quotient(item, groups);
    const int64_t c = (item - o * groups) * kVec;
    const int64_t first = p.t_ptr[o];
    const int64_t last = p.t_ptr[o + 1];
    POLYGRAPH_CHECK_SEGMENT("edge_max_backward", first, last, p.n.g.E);
    Acc<T> sum[kVec] = {};
    for (int64_t position = first; position < last; ++position) {
      const int64_t slot = p.t_slot[position];
      CUDA_KERNEL_ASSERT_MSG(
          static_cast<uint64_t>(slot) < static_cast<uint64_t>(p.n.g.E), "edge_max_backward: t_slot is out of range");
      const int64_t s = p.target[slot];
      CUDA_KERNEL_ASSERT_MSG(
          static_cast<uint64_t>(s) < static_cast<uint64_t>(p.n.g.S), "edge_max_backward: target is out of range");
      const auto arg = load_pack<int32_t, kVec>(p.arg + s * D + c);
      const auto grad = load_pack<T, kVec>(p.from + s * D + c);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        sum[v] += arg.lane[v] == static_cast<int32_t>(slot) ? static_cast<Acc<T>>(grad.lane[v]) : Acc<T>(0);
      }
    }
    store_row<T, kVec>(p.out + o * D + c, sum);
  }
}

// A thread copies one number; neighbouring threads lie along D. Safe: one writer a number.
template <class T>
__global__ void __launch_bounds__(kThreads) edge_take_kernel(EdgeArgParams<T> p) {
  const int64_t D = p.n.D;
  for (int64_t item = first_item(); item < p.n.g.S * D; item += item_stride()) {
    const int64_t slot = p.arg[item];
    const int64_t c = item - quotient(item, D) * D;
    T value = static_cast<T>(0.0F);
    if (slot >= 0) {
      CUDA_KERNEL_ASSERT_MSG(slot < p.n.g.E, "edge_take: arg must name slots that hold an edge");
      const int64_t o = p.other[slot];
      CUDA_KERNEL_ASSERT_MSG(
          static_cast<uint64_t>(o) < static_cast<uint64_t>(p.n.g.O),
          "edge_take: arg must name slots that hold an edge");
      value = p.from[o * D + c];
    }
    p.out[item] = value;
  }
}

LaunchShape rows_of(int64_t rows, int64_t groups) {
  return {strided_blocks(rows * groups, kThreads), 1, kThreads, 0};
}

template <class T>
void launch_edge_max(const EdgeMaxParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = 4;
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  if (p.n.D % kVec == 0 && is_aligned(p.v, kVec * sizeof(T))) {
    start_kernel(rows_of(p.n.g.S, p.n.D / kVec), scope, edge_max_kernel<T, kVec>, p);
  } else {
    start_kernel(rows_of(p.n.g.S, p.n.D), scope, edge_max_kernel<T, 1>, p);
  }
}

template <class T>
void launch_edge_max_backward(const EdgeArgParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = 4;
  if (p.n.g.O * p.n.D == 0) {
    return;
  }
  if (p.n.D % kVec == 0 && is_aligned(p.from, kVec * sizeof(T)) && is_aligned(p.arg, kVec * sizeof(int32_t))) {
    start_kernel(rows_of(p.n.g.O, p.n.D / kVec), scope, edge_max_backward_kernel<T, kVec>, p);
  } else {
    start_kernel(rows_of(p.n.g.O, p.n.D), scope, edge_max_backward_kernel<T, 1>, p);
  }
}

template <class T>
void launch_edge_take(const EdgeArgParams<T>& p, const DeviceScope& scope) {
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  start_kernel(rows_of(p.n.g.S, p.n.D), scope, edge_take_kernel<T>, p);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> edge_max_cuda(
    const Tensor& v, const std::optional<Tensor>& sign, bool with_sum, const Tensor& ptr, const Tensor& other,
    const std::optional<Tensor>& /*target*/, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_slot*/) {
  const EdgeMaxSizes n = check_edge_max(v, sign, ptr, other);
  const DeviceScope scope(v);
  const GraphTensors graph(ptr, std::nullopt, other, std::nullopt);
  const Tensor features = dense(v);
  const std::optional<Tensor> signs = dense(sign);
  const Tensor value = torch::stable::new_empty(features, {n.g.S, n.D});
  const Tensor arg = torch::stable::new_empty(features, {n.g.S, n.D}, ScalarType::Int);
  const Tensor sum = torch::stable::new_empty(features, {with_sum ? n.g.S : 0, n.D});
  dispatch_floating(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_max<T>(
        {n, graph.pointers(), const_data<T>(features), const_data<T>(signs), mutable_data<T>(value),
         mutable_data<int32_t>(arg), with_sum ? mutable_data<T>(sum) : nullptr},
        scope);
  });
  return {value, arg, sum};
}

Tensor edge_max_backward_cuda(
    const Tensor& grad, const Tensor& arg, int64_t others, const Tensor& other, const std::optional<Tensor>& target,
    const std::optional<Tensor>& t_ptr, const std::optional<Tensor>& t_slot) {
  const EdgeMaxSizes n = check_edge_max_backward(grad, arg, others, other, target, t_ptr, t_slot);
  STD_TORCH_CHECK(
      target.has_value() && t_ptr.has_value() && t_slot.has_value(),
      "edge_max_backward: target, t_ptr and t_slot are needed on CUDA");
  const DeviceScope scope(grad);
  const Tensor upstream = dense(grad);
  const Tensor args = dense(arg);
  const std::optional<Tensor> targets = dense(target);
  const std::optional<Tensor> pointers = dense(t_ptr);
  const std::optional<Tensor> slots = dense(t_slot);
  const Tensor out = torch::stable::new_empty(grad, {n.g.O, n.D});
  dispatch_floating(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_max_backward<T>(
        {n, const_data<T>(upstream), const_data<int32_t>(args), nullptr, const_data<int64_t>(targets),
         const_data<int64_t>(pointers), const_data<int64_t>(slots), mutable_data<T>(out)},
        scope);
  });
  return out;
}

Tensor edge_take_cuda(
    const Tensor& v, const Tensor& arg, const Tensor& other, const std::optional<Tensor>& /*target*/,
    const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/) {
  const EdgeMaxSizes n = check_edge_take(v, arg, other);
  const DeviceScope scope(v);
  const Tensor features = dense(v);
  const Tensor args = dense(arg);
  const Tensor sources = dense(other);
  const Tensor out = torch::stable::new_empty(v, {n.g.S, n.D});
  dispatch_floating(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_take<T>(
        {n, const_data<T>(features), const_data<int32_t>(args), const_data<int64_t>(sources), nullptr, nullptr, nullptr,
         mutable_data<T>(out)},
        scope);
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("edge_max", TORCH_BOX(&polygraph::edge_max_cuda));
  m.impl("edge_max_backward", TORCH_BOX(&polygraph::edge_max_backward_cuda));
  m.impl("edge_take", TORCH_BOX(&polygraph::edge_take_cuda));
}

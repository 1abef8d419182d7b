// CUDA sums over edges: float32, float64, and half types that accumulate in float32.
#include "common/graph.cuh"
#include "edge_conv/edge_conv.h"

namespace polygraph {
namespace {

constexpr int kThreads = 256;

template <class T>
struct EdgeConvParams {
  EdgeConvSizes n;
  GraphPointers graph;
  const T* seg_mask;  // [S, D]; these are null where absent
  const T* oth_mask;  // [O, D]
  const T* seg_val;   // [S, D]
  const T* oth_val;   // [O, D]
  const T* edge_val;  // [E', D]
  const T* weight;    // [E']
  const T* grad;      // [S, D], edge_dot only
  Acc<T> slope;
  T* out;
};

// m * (the values) of kVec channels c .. of one edge.
template <class T, int kVec, bool kPacks = true>
__device__ __forceinline__ void edge_value(
    const EdgeConvParams<T>& p, int64_t s, const GraphSlot& at, int64_t c, Acc<T> (&value)[kVec]) {
  const int64_t D = p.n.D;
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    value[v] = 0;
  }
  if (p.seg_val != nullptr) {
    add_row<T, kVec, kPacks>(value, p.seg_val + s * D + c);
  }
  if (p.oth_val != nullptr) {
    add_row<T, kVec, kPacks>(value, p.oth_val + at.other * D + c);
  }
  if (p.edge_val != nullptr) {
    add_row<T, kVec, kPacks>(value, p.edge_val + at.row * D + c);
  }
  if (p.seg_mask != nullptr) {
    Acc<T> sign[kVec] = {};
    add_row<T, kVec, kPacks>(sign, p.seg_mask + s * D + c);
    add_row<T, kVec, kPacks>(sign, p.oth_mask + at.other * D + c);
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      value[v] = sign[v] > 0 ? value[v] : p.slope * value[v];
    }
  }
}

// A thread computes kVec channels of one segment; neighbouring threads lie along D, so rows are read and written in
// whole sectors, kVec channels a load (D a multiple of kVec, all rows aligned to it). Bound by memory: one row of the
// other node a slot, two with other masks than values, mostly from the L2. Safe: no shared memory, one writer a number.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 3) edge_sum_kernel(EdgeConvParams<T> p) {
  const int64_t groups = p.n.D / kVec;
  for (int64_t item = first_item(); item < p.n.g.S * groups; item += item_stride()) {
    const int64_t s = quotient(item, groups);
    const int64_t c = (item - s * groups) * kVec;
    const int64_t first = p.graph.ptr[s];
    const int64_t last = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("edge_sum", first, last, p.n.g.E);
    Acc<T> sum[kVec] = {};
    for (int64_t position = first; position < last; ++position) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
      if (at.other < 0) {
        continue;
      }
      Acc<T> value[kVec];
      edge_value<T, kVec>(p, s, at, c, value);
      const Acc<T> factor = p.weight == nullptr ? Acc<T>(1) : static_cast<Acc<T>>(p.weight[at.row]);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        sum[v] += factor * value[v];
      }
    }
    store_row<T, kVec>(p.out + s * p.n.D + c, sum);
  }
}

// As edge_sum_kernel, but each value goes to its edge's row. Rows that no slot names are zero before.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 3) edge_values_kernel(EdgeConvParams<T> p) {
  const int64_t groups = p.n.D / kVec;
  for (int64_t item = first_item(); item < p.n.g.S * groups; item += item_stride()) {
    const int64_t s = quotient(item, groups);
    const int64_t c = (item - s * groups) * kVec;
    const int64_t first = p.graph.ptr[s];
    const int64_t last = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("edge_values", first, last, p.n.g.E);
    for (int64_t position = first; position < last; ++position) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
      if (at.other >= 0) {
        Acc<T> value[kVec];
        edge_value<T, kVec>(p, s, at, c, value);
        store_row<T, kVec>(p.out + at.row * p.n.D + c, value);
      }
    }
  }
}

constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;

// A warp computes the dots of one segment's slots, one after the other: lane l adds the groups of kVec channels l, l +
// 32, ..., and the lanes are folded by halves. kVec, and with it the order, depends on D alone. Safe: no shared memory;
// all lanes of a warp have the same segment, so all of them pass every shuffle.
template <class T, int kVec, bool kPacks>
__global__ void __launch_bounds__(kThreads, 3) edge_dot_kernel(EdgeConvParams<T> p) {
  const int64_t groups = p.n.D / kVec;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t s = first_item() / kWarp; s < p.n.g.S; s += item_stride() / kWarp) {
    const int64_t first = p.graph.ptr[s];
    const int64_t last = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("edge_dot", first, last, p.n.g.E);
    for (int64_t position = first; position < last; ++position) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
      Acc<T> sum = 0;
      for (int64_t group = lane; at.other >= 0 && group < groups; group += kWarp) {
        Acc<T> value[kVec];
        edge_value<T, kVec, kPacks>(p, s, at, group * kVec, value);
        const auto grad = load_lanes<T, kVec, kPacks>(p.grad + s * p.n.D + group * kVec);
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          sum += static_cast<Acc<T>>(grad.lane[v]) * value[v];
        }
      }
#pragma unroll
      for (int half = kWarp / 2; half > 0; half /= 2) {
        sum += __shfl_xor_sync(0xffffffffU, sum, half);
      }
      if (lane == 0 && at.other >= 0) {
        p.out[at.row] = static_cast<T>(sum);
      }
    }
  }
}

template <class T>
bool takes_packs(const EdgeConvParams<T>& p) {
  bool aligned = p.n.D % kPackWidth<T> == 0;
  const T* const rows[] = {p.seg_mask, p.oth_mask, p.seg_val, p.oth_val, p.edge_val, p.grad};
  for (const T* pointer : rows) {
    aligned = aligned && is_aligned(pointer, 16);
  }
  return aligned;
}

template <class T>
void launch_edge_sum(const EdgeConvParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  if (takes_packs(p)) {
    start_kernel(
        {strided_blocks(p.n.g.S * (p.n.D / kVec), kThreads), 1, kThreads, 0}, scope, edge_sum_kernel<T, kVec>, p);
  } else {
    start_kernel({strided_blocks(p.n.g.S * p.n.D, kThreads), 1, kThreads, 0}, scope, edge_sum_kernel<T, 1>, p);
  }
}

template <class T>
void launch_edge_values(const EdgeConvParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  if (takes_packs(p)) {
    start_kernel(
        {strided_blocks(p.n.g.S * (p.n.D / kVec), kThreads), 1, kThreads, 0}, scope, edge_values_kernel<T, kVec>, p);
  } else {
    start_kernel({strided_blocks(p.n.g.S * p.n.D, kThreads), 1, kThreads, 0}, scope, edge_values_kernel<T, 1>, p);
  }
}

template <class T>
void launch_edge_dot(const EdgeConvParams<T>& p, const DeviceScope& scope) {
  if (p.n.g.S == 0) {
    return;
  }
  const LaunchShape shape{strided_blocks(p.n.g.S, kWarps), 1, kThreads, 0};
  with_lanes<T>(p.n.D, takes_packs(p), [&](auto width, auto packs) {
    start_kernel(shape, scope, edge_dot_kernel<T, width(), packs()>, p);
  });
}

EdgeConvTensors dense(const EdgeConvTensors& t) {
  return {polygraph::dense(t.seg_mask), polygraph::dense(t.oth_mask), polygraph::dense(t.seg_val),
          polygraph::dense(t.oth_val),  polygraph::dense(t.edge_val), polygraph::dense(t.weight)};
}

const Tensor& any_value(const EdgeConvTensors& t) {
  return t.seg_val.has_value() ? *t.seg_val : t.oth_val.has_value() ? *t.oth_val : *t.edge_val;
}

template <class T>
EdgeConvParams<T> params(
    const EdgeConvSizes& n, const GraphPointers& graph, const EdgeConvTensors& t, const T* grad, double slope,
    const Tensor& out) {
  return {
      n,
      graph,
      const_data<T>(t.seg_mask),
      const_data<T>(t.oth_mask),
      const_data<T>(t.seg_val),
      const_data<T>(t.oth_val),
      const_data<T>(t.edge_val),
      const_data<T>(t.weight),
      grad,
      static_cast<Acc<T>>(slope),
      mutable_data<T>(out)};
}

}  // namespace

Tensor edge_sum_cuda(
    const std::optional<Tensor>& seg_mask, const std::optional<Tensor>& oth_mask, const std::optional<Tensor>& seg_val,
    const std::optional<Tensor>& oth_val, const std::optional<Tensor>& edge_val, const std::optional<Tensor>& weight,
    double slope, int64_t others, int64_t rows, const Tensor& ptr, const std::optional<Tensor>& slot,
    const Tensor& other, const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_slot*/, const std::optional<Tensor>& /*t_other*/) {
  const EdgeConvTensors given{seg_mask, oth_mask, seg_val, oth_val, edge_val, weight};
  const EdgeConvSizes n = check_edge_conv("edge_sum", given, others, rows, ptr, slot, other, edge);
  const DeviceScope scope(any_value(given));
  const GraphTensors graph(ptr, slot, other, edge);
  const EdgeConvTensors t = dense(given);
  const Tensor out = torch::stable::new_empty(any_value(t), {n.g.S, n.D});
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_sum<T>(params<T>(n, graph.pointers(), t, nullptr, slope, out), scope);
  });
  return out;
}

Tensor edge_values_cuda(
    const std::optional<Tensor>& seg_mask, const std::optional<Tensor>& oth_mask, const std::optional<Tensor>& seg_val,
    const std::optional<Tensor>& oth_val, const std::optional<Tensor>& edge_val, double slope, int64_t others,
    int64_t rows, const Tensor& ptr, const std::optional<Tensor>& slot, const Tensor& other,
    const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/,
    const std::optional<Tensor>& /*t_other*/) {
  const EdgeConvTensors given{seg_mask, oth_mask, seg_val, oth_val, edge_val, std::nullopt};
  const EdgeConvSizes n = check_edge_conv("edge_values", given, others, rows, ptr, slot, other, edge);
  const DeviceScope scope(any_value(given));
  const GraphTensors graph(ptr, slot, other, edge);
  const EdgeConvTensors t = dense(given);
  const Tensor out = torch::stable::new_zeros(any_value(t), {rows, n.D});
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_values<T>(params<T>(n, graph.pointers(), t, nullptr, slope, out), scope);
  });
  return out;
}

Tensor edge_dot_cuda(
    const Tensor& grad, const std::optional<Tensor>& seg_mask, const std::optional<Tensor>& oth_mask,
    const std::optional<Tensor>& seg_val, const std::optional<Tensor>& oth_val, double slope, int64_t others,
    int64_t rows, const Tensor& ptr, const std::optional<Tensor>& slot, const Tensor& other,
    const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/,
    const std::optional<Tensor>& /*t_other*/) {
  const EdgeConvTensors given{seg_mask, oth_mask, seg_val, oth_val, std::nullopt, std::nullopt};
  const EdgeConvSizes n = check_edge_conv("edge_dot", given, others, rows, ptr, slot, other, edge);
  check_edge_dot_grad(n, grad, any_value(given));
  const DeviceScope scope(grad);
  const GraphTensors graph(ptr, slot, other, edge);
  const EdgeConvTensors t = dense(given);
  const Tensor upstream = polygraph::dense(grad);
  const Tensor out = torch::stable::new_zeros(grad, {rows});
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_dot<T>(params<T>(n, graph.pointers(), t, const_data<T>(upstream), slope, out), scope);
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("edge_sum", TORCH_BOX(&polygraph::edge_sum_cuda));
  m.impl("edge_values", TORCH_BOX(&polygraph::edge_values_cuda));
  m.impl("edge_dot", TORCH_BOX(&polygraph::edge_dot_cuda));
}

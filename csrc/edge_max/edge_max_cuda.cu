// CUDA largest neighbor: float32, float64, and half types that accumulate in float32.
#include "common/segments.cuh"
#include "edge_max/edge_max.h"

namespace polygraph {
namespace {

constexpr int kAtOnce = 4;  // slots whose rows are loaded before the first is used

template <class T>
constexpr int kLanePack = std::min(4, kPackWidth<T>);  // channels of a load: of rows, and of int32

template <class T>
struct EdgeMaxCudaParams : EdgeMaxParams<T> {
  uint32_t row_bytes;
  SegmentWork work = {};
  Acc<T>* best_of_piece = nullptr;  // [places, D], of sign * v
  int32_t* arg_of_piece = nullptr;  // [places, D]
  Acc<T>* sum_of_piece = nullptr;   // [places, D], null: not wanted

  explicit EdgeMaxCudaParams(const EdgeMaxParams<T>& given)
      : EdgeMaxParams<T>(given), row_bytes(static_cast<uint32_t>(given.n.D * static_cast<int64_t>(sizeof(T)))) {}
};

// Whether `value` takes the place of what was best before it: it is larger, or NaN; but nothing is larger than NaN.
template <class A>
__device__ __forceinline__ bool is_better(A value, A best) {
  const bool not_less = !(value <= best);
  return best == best ? not_less : false;
}

// A group computes kVec channels a lane of one unit (common/segments.cuh): lanes lie along D, so rows are read and
// written in whole sectors (D a multiple of kVec, all rows aligned to it). Each lane reads and checks the ids of one
// slot, and hands them round. Bound by memory: one row a slot, mostly from the L2. Safe: no shared memory, one writer a
// number; all lanes of a warp pass every shuffle, because the walk is as long as the warp's longest unit.
template <class T, int kVec, bool kSum>
__global__ void __launch_bounds__(kSegmentThreads, 3) edge_max_kernel(const __grid_constant__ EdgeMaxCudaParams<T> p) {
  const Group group = this_group(p.work);
  const SegmentUnit unit = find_unit(
      p.work, group, [&](int64_t first, int64_t last) { POLYGRAPH_CHECK_SEGMENT("edge_max", first, last, p.n.g.E); });
  SlotWalk<SlotIds, kAtOnce> walk(group, unit);
  const auto read = [&](uint32_t at) { return read_ids(p.graph, p.n.g, p.n.g.E, unit, at); };
  each_turn(p.work, group, p.n.D / kVec, [&](int64_t pack, bool mine) {
    const int64_t c = pack * kVec;
    const T* const v = p.v + c;
    Acc<T> sign[kVec], best[kVec], sum[kVec];
    Pack<int32_t, kVec> arg;
    int32_t first_slot = -1;  // that holds an edge: the best of values that are all -infinity
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      sign[i] = p.sign == nullptr ? Acc<T>(1) : static_cast<Acc<T>>(p.sign[c + i]);
      best[i] = kLeast<Acc<T>>;
      sum[i] = 0;
      arg.lane[i] = -1;
    }
    walk(read, [&](const SlotIds& ids, int j) {
      int32_t other[kAtOnce], slot[kAtOnce];
      Pack<T, kVec> row[kAtOnce];
      take_round(other, ids.other, j, group);
      take_round(slot, ids.row, j, group);
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        row[u] = {};
        if (other[u] >= 0) {
          row[u] = load_pack<T, kVec>(row_at(v, other[u], p.row_bytes));
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        first_slot = first_slot < 0 && other[u] >= 0 ? slot[u] : first_slot;
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          const Acc<T> value = static_cast<Acc<T>>(row[u].lane[i]);
          if (kSum) {
            sum[i] += other[u] >= 0 ? value : Acc<T>(0);
          }
          const Acc<T> signed_value = other[u] >= 0 ? value * sign[i] : kLeast<Acc<T>>;  // which is never better
          const bool wins = is_better(signed_value, best[i]);
          best[i] = wins ? signed_value : best[i];
          arg.lane[i] = wins ? slot[u] : arg.lane[i];
        }
      }
    });
    if (!mine || unit.segment < 0) {
      return;
    }
    const bool whole = unit.place < 0;
    const int64_t at = (whole ? unit.segment : unit.place) * p.n.D + c;
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      arg.lane[i] = arg.lane[i] < 0 ? first_slot : arg.lane[i];
      best[i] = whole ? (first_slot < 0 ? Acc<T>(0) : best[i]) * sign[i] : best[i];
    }
    store_global<int32_t, kVec>((whole ? p.arg : p.arg_of_piece) + at, arg);
    if (whole) {
      store_row<T, kVec>(p.value + at, best);
    } else {
      store_row<Acc<T>, kVec>(p.best_of_piece + at, best);
    }
    if (kSum && whole) {
      store_row<T, kVec>(p.sum + at, sum);
    } else if (kSum) {
      store_row<Acc<T>, kVec>(p.sum_of_piece + at, sum);
    }
  });
}

template <class A>
struct Largest {
  A best, sum;
  int32_t arg;
};

// The pieces of long segments, joined (common/segments.cuh).
template <class T>
__global__ void __launch_bounds__(kJoinLanes* kJoinRows)
    join_max_kernel(const __grid_constant__ EdgeMaxCudaParams<T> p) {
  using Item = Largest<Acc<T>>;
  join_pieces<Item>(
      p.work, p.n.D, Item{kLeast<Acc<T>>, 0, -1},
      [&](int64_t place, int64_t c) {
        const int64_t at = place * p.n.D + c;
        return Item{p.best_of_piece[at], p.sum == nullptr ? Acc<T>(0) : p.sum_of_piece[at], p.arg_of_piece[at]};
      },
      [](const Item& a, const Item& b) {
        const bool later = a.arg < 0 || (b.arg >= 0 && is_better(b.best, a.best));
        return Item{later ? b.best : a.best, a.sum + b.sum, later ? b.arg : a.arg};
      },
      [&](int64_t segment, int64_t /*window*/, int64_t c, const Item& item) {
        const int64_t at = segment * p.n.D + c;
        const Acc<T> sign = p.sign == nullptr ? Acc<T>(1) : static_cast<Acc<T>>(p.sign[c]);
        p.value[at] = static_cast<T>((item.arg < 0 ? Acc<T>(0) : item.best) * sign);
        p.arg[at] = item.arg;
        if (p.sum != nullptr) {
          p.sum[at] = static_cast<T>(item.sum);
        }
      });
}

// Of edge_max_backward, whose segments are the O nodes.
template <class T>
struct EdgeArgCudaParams : EdgeArgParams<T> {
  uint32_t row_bytes, arg_row_bytes;
  SegmentWork work = {};
  Acc<T>* partial = nullptr;  // [places, D]

  explicit EdgeArgCudaParams(const EdgeArgParams<T>& given)
      : EdgeArgParams<T>(given),
        row_bytes(static_cast<uint32_t>(given.n.D * static_cast<int64_t>(sizeof(T)))),
        arg_row_bytes(static_cast<uint32_t>(given.n.D * static_cast<int64_t>(sizeof(int32_t)))) {}
};

// Reads and checks a position of the transposed graph: the target, and the slot.
template <class T>
__device__ __forceinline__ SlotIds read_target(const EdgeArgCudaParams<T>& p, const SegmentUnit& unit, uint32_t at) {
  if (at >= unit.count) {
    return {-1, -1};
  }
  const int64_t slot = p.t_slot[unit.first + at];
  CUDA_KERNEL_ASSERT_MSG(
      static_cast<uint64_t>(slot) < static_cast<uint64_t>(p.n.g.E), "edge_max_backward: t_slot is out of range");
  const int64_t s = p.target[slot];
  CUDA_KERNEL_ASSERT_MSG(
      static_cast<uint64_t>(s) < static_cast<uint64_t>(p.n.g.S), "edge_max_backward: target is out of range");
  return {static_cast<int32_t>(s), static_cast<int32_t>(slot)};
}

// A group computes kVec channels a lane of one node, or of a piece of its list, from the slots that leave it: those
// that a target has chosen bring its gradient. Most slots were not chosen, so gradients are read only where one of the
// kVec was. Coalescing and safety as above.
template <class T, int kVec>
__global__ void __launch_bounds__(kSegmentThreads, 3)
    edge_max_backward_kernel(const __grid_constant__ EdgeArgCudaParams<T> p) {
  const Group group = this_group(p.work);
  const SegmentUnit unit = find_unit(p.work, group, [&](int64_t first, int64_t last) {
    POLYGRAPH_CHECK_SEGMENT("edge_max_backward", first, last, p.n.g.E);
  });
  SlotWalk<SlotIds, kAtOnce> walk(group, unit);
  const auto read = [&](uint32_t at) { return read_target(p, unit, at); };
  each_turn(p.work, group, p.n.D / kVec, [&](int64_t pack, bool mine) {
    const int64_t c = pack * kVec;
    const int32_t* const args = p.arg + c;
    const T* const from = p.from + c;
    Acc<T> sum[kVec] = {};
    walk(read, [&](const SlotIds& ids, int j) {
      int32_t target[kAtOnce], slot[kAtOnce];
      Pack<int32_t, kVec> arg[kAtOnce];
      Pack<T, kVec> grad[kAtOnce];
      take_round(target, ids.other, j, group);
      take_round(slot, ids.row, j, group);
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        arg[u] = {};
        if (target[u] >= 0) {
          arg[u] = load_pack<int32_t, kVec>(row_at(args, target[u], p.arg_row_bytes));
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        bool chosen = false;
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          chosen = chosen || arg[u].lane[i] == slot[u];
        }
        grad[u] = {};
        if (target[u] >= 0 && chosen) {
          grad[u] = load_pack<T, kVec>(row_at(from, target[u], p.row_bytes));
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          const bool takes = target[u] >= 0 && arg[u].lane[i] == slot[u];
          sum[i] += takes ? static_cast<Acc<T>>(grad[u].lane[i]) : Acc<T>(0);
        }
      }
    });
    if (!mine || unit.segment < 0) {
      return;
    }
    if (unit.place < 0) {
      store_row<T, kVec>(p.out + unit.segment * p.n.D + c, sum);
    } else {
      store_row<Acc<T>, kVec>(p.partial + unit.place * p.n.D + c, sum);
    }
  });
}

// A thread copies one element; adjacent threads lie along D. Safe: one writer per element.
template <class T>
__global__ void __launch_bounds__(kSegmentThreads) edge_take_kernel(EdgeArgParams<T> p) {
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

template <class T>
void launch_edge_max(EdgeMaxCudaParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
  constexpr int kVec = kLanePack<T>;
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  const bool packed = p.n.D % kVec == 0 && is_aligned(p.v, kVec * sizeof(T));
  const int64_t packs = p.n.D / (packed ? kVec : 1);
  p.work = share_segments("edge_max", p.n.g, p.graph.ptr, packs, memory);
  p.best_of_piece = memory.take<Acc<T>>(p.work.places * p.n.D);
  p.arg_of_piece = memory.take<int32_t>(p.work.places * p.n.D);
  p.sum_of_piece = memory.take<Acc<T>>(p.sum == nullptr ? 0 : p.work.places * p.n.D);
  const LaunchShape shape = all_units(p.work, packs);
  if (p.sum == nullptr) {
    start_kernel(shape, scope, packed ? edge_max_kernel<T, kVec, false> : edge_max_kernel<T, 1, false>, p);
  } else {
    start_kernel(shape, scope, packed ? edge_max_kernel<T, kVec, true> : edge_max_kernel<T, 1, true>, p);
  }
  if (p.work.places > 0) {
    start_kernel(join_shape<Largest<Acc<T>>>(p.work, p.n.D), scope, join_max_kernel<T>, p);
  }
}

template <class T>
void launch_edge_max_backward(EdgeArgCudaParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
  constexpr int kVec = kLanePack<T>;
  if (p.n.g.O * p.n.D == 0) {
    return;
  }
  const bool packed =
      p.n.D % kVec == 0 && is_aligned(p.from, kVec * sizeof(T)) && is_aligned(p.arg, kVec * sizeof(int32_t));
  const int64_t packs = p.n.D / (packed ? kVec : 1);
  p.work = share_segments("edge_max_backward", {.S = p.n.g.O, .O = p.n.g.S, .E = p.n.g.E}, p.t_ptr, packs, memory);
  p.partial = memory.take<Acc<T>>(p.work.places * p.n.D);
  start_kernel(
      all_units(p.work, packs), scope, packed ? edge_max_backward_kernel<T, kVec> : edge_max_backward_kernel<T, 1>, p);
  launch_join_sums<T>({p.work, p.partial, p.out, p.n.D}, scope);
}

template <class T>
void launch_edge_take(const EdgeArgParams<T>& p, const DeviceScope& scope) {
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  start_kernel(
      {strided_blocks(p.n.g.S * p.n.D, kSegmentThreads), 1, kSegmentThreads, 0}, scope, edge_take_kernel<T>, p);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> edge_max_cuda(
    const Tensor& v, const std::optional<Tensor>& sign, bool with_sum, const Tensor& ptr, const Tensor& other,
    const std::optional<Tensor>& /*target*/, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_slot*/) {
  const EdgeMaxSizes n = check_edge_max(v, sign, ptr, other);
  check_row_numbers("edge_max", n.g.O, n.g.E, n.D * v.element_size());
  const DeviceScope scope(v);
  const GraphTensors graph({.ptr = ptr, .other = other});
  const Tensor features = dense(v);
  const std::optional<Tensor> signs = dense(sign);
  const Tensor value = torch::stable::new_empty(features, {n.g.S, n.D});
  const Tensor arg = torch::stable::new_empty(features, {n.g.S, n.D}, ScalarType::Int);
  const Tensor sum = torch::stable::new_empty(features, {with_sum ? n.g.S : 0, n.D});
  SegmentMemory memory(features);
  dispatch_floating(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const EdgeMaxParams<T> p{
        .n = n,
        .graph = graph.pointers(),
        .v = const_data<T>(features),
        .sign = const_data<T>(signs),
        .value = mutable_data<T>(value),
        .arg = mutable_data<int32_t>(arg),
        .sum = with_sum ? mutable_data<T>(sum) : nullptr};
    launch_edge_max(EdgeMaxCudaParams<T>(p), memory, scope);
  });
  return {value, arg, sum};
}

Tensor edge_max_backward_cuda(
    const Tensor& grad, const Tensor& arg, int64_t others, const Tensor& other, const std::optional<Tensor>& target,
    const std::optional<Tensor>& t_ptr, const std::optional<Tensor>& t_slot) {
  const EdgeMaxSizes n = check_edge_max_backward(grad, arg, others, other, target, t_ptr, t_slot);
  POLYGRAPH_CHECK(
      target.has_value() && t_ptr.has_value() && t_slot.has_value(),
      "edge_max_backward: target, t_ptr and t_slot are needed on CUDA");
  check_row_numbers("edge_max_backward", n.g.S, n.g.E, n.D * int64_t(sizeof(double)));
  const DeviceScope scope(grad);
  const Tensor upstream = dense(grad);
  const Tensor args = dense(arg);
  const std::optional<Tensor> targets = dense(target);
  const std::optional<Tensor> pointers = dense(t_ptr);
  const std::optional<Tensor> slots = dense(t_slot);
  const Tensor out = torch::stable::new_empty(grad, {n.g.O, n.D});
  SegmentMemory memory(grad);
  dispatch_floating(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const EdgeArgParams<T> p{
        .n = n,
        .from = const_data<T>(upstream),
        .arg = const_data<int32_t>(args),
        .target = const_data<int64_t>(targets),
        .t_ptr = const_data<int64_t>(pointers),
        .t_slot = const_data<int64_t>(slots),
        .out = mutable_data<T>(out)};
    launch_edge_max_backward(EdgeArgCudaParams<T>(p), memory, scope);
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
        {.n = n,
         .from = const_data<T>(features),
         .arg = const_data<int32_t>(args),
         .other = const_data<int64_t>(sources),
         .out = mutable_data<T>(out)},
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

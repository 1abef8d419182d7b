// CUDA sums over edges: float32, float64, and half types that accumulate in float32.
#include "common/segments.cuh"
#include "edge_conv/edge_conv.h"

namespace polygraph {
namespace {

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
  uint32_t row_bytes;
  SegmentWork work;
  Acc<T>* partial;  // [places, D], edge_sum only
};

// What is known of the values when a kernel is compiled: there are no masks, and no edges' values; nothing but edges'
// values; the masks are the values, and there are no others; there are masks, and no edges' values; nothing.
enum class Form { plain, edges, activation, masked, any };

// kWidth channels from c on of the rows of a segment and of its slots, and the values of their edges. Rows of
// kAtOnce slots are loaded before the first is used: as many as fit into registers.
// kPacked: each in one load; else they need not be aligned, and those from channel D on are 0.
template <class T, int kWidth, bool kPacked, Form kForm>
struct EdgeRows {
  static constexpr bool kMasks = kForm == Form::activation || kForm == Form::masked || kForm == Form::any;
  static constexpr bool kNodes = kForm == Form::plain || kForm == Form::masked || kForm == Form::any;
  static constexpr bool kEdges = kForm == Form::edges || kForm == Form::any;
  static constexpr int kAtOnce = !kPacked || kForm == Form::any ? 1 : kForm == Form::masked ? 2 : 4;
  using Part = Pack<T, kWidth>;

  const EdgeConvParams<T>& p;
  int64_t left;  // channels from c on
  const T *oth_mask, *oth_val, *edge_val;
  Acc<T> seg_sign[kWidth], seg_value[kWidth];

  struct Slot {
    Part sign, node, edge;
    bool filled;
  };

  __device__ __forceinline__ explicit EdgeRows(const EdgeConvParams<T>& p_) : p(p_) {}

  // Those of the segment; a group without a segment has zeros.
  __device__ __forceinline__ void read_segment(int32_t segment, int64_t c) {
    left = p.n.D - c;
    oth_mask = p.oth_mask + c;
    oth_val = p.oth_val + c;
    edge_val = p.edge_val + c;
#pragma unroll
    for (int v = 0; v < kWidth; ++v) {
      seg_sign[v] = seg_value[v] = 0;
    }
    if (kMasks && segment >= 0 && p.seg_mask != nullptr) {
      add(seg_sign, read(p.seg_mask + c, segment));
    }
    if (kNodes && segment >= 0 && p.seg_val != nullptr) {
      add(seg_value, read(p.seg_val + c, segment));
    }
  }

  // Those of a slot; of an empty one zeros.
  __device__ __forceinline__ Slot read_slot(int32_t other, int32_t row) const {
    Slot slot{{}, {}, {}, other >= 0};
    if (slot.filled) {
      if (kForm == Form::any ? p.oth_mask != nullptr : kMasks) {
        slot.sign = read(oth_mask, other);
      }
      if (kNodes && p.oth_val != nullptr) {
        slot.node = read(oth_val, other);
      }
      if (kForm == Form::any ? p.edge_val != nullptr : kEdges) {
        slot.edge = read(edge_val, row);
      }
    }
    return slot;
  }

  // m * (the values) of a slot; 0 if it is empty.
  __device__ __forceinline__ void value(const Slot& slot, Acc<T> (&value)[kWidth]) const {
    Acc<T> mask[kWidth];
#pragma unroll
    for (int v = 0; v < kWidth; ++v) {
      mask[v] = seg_sign[v];
      value[v] = seg_value[v];
    }
    if (kForm == Form::any ? p.oth_mask != nullptr : kMasks) {
      add(mask, slot.sign);
    }
    if (kNodes && p.oth_val != nullptr) {
      add(value, slot.node);
    }
    if (kForm == Form::any ? p.edge_val != nullptr : kEdges) {
      add(value, slot.edge);
    }
#pragma unroll
    for (int v = 0; v < kWidth; ++v) {
      if (kForm == Form::activation) {
        value[v] = mask[v];
      }
      if (kForm == Form::any ? p.oth_mask != nullptr : kMasks) {
        value[v] = mask[v] > 0 ? value[v] : p.slope * value[v];
      }
      value[v] = slot.filled ? value[v] : Acc<T>(0);
    }
  }

  __device__ __forceinline__ Part read(const T* table, int32_t row) const {
    const T* from = row_at(table, row, p.row_bytes);
    if constexpr (kPacked) {
      return load_pack<T, kWidth>(from);
    } else {
      Part part;
#pragma unroll
      for (int v = 0; v < kWidth; ++v) {
        part.lane[v] = v < left ? from[v] : static_cast<T>(0.0F);
      }
      return part;
    }
  }

 private:
  __device__ __forceinline__ static void add(Acc<T> (&sum)[kWidth], const Part& part) {
#pragma unroll
    for (int v = 0; v < kWidth; ++v) {
      sum[v] += static_cast<Acc<T>>(part.lane[v]);
    }
  }
};

// Blocks of a multiprocessor: 80 registers a thread, and 128 where a pack has 8 channels.
template <int kWidth>
constexpr int kBlocks = kWidth > 4 ? 2 : 3;

template <class T>
struct WeightedIds {
  SlotIds at;
  Acc<T> weight;
};

// A group computes kVec channels a lane of one unit (common/segments.cuh): lanes lie along D, so rows are read and
// written in whole sectors, kVec channels a load (D a multiple of kVec, all rows aligned to it). Each lane reads and
// checks the ids of one slot, and hands them round. Bound by memory: one row of the other node a slot, two with other
// masks than values, mostly from the L2. Safe: no shared memory, one writer a number; all lanes of a warp pass every
// shuffle, because the walk is as long as the warp's longest unit.
template <class T, int kVec, Form kForm>
__global__ void __launch_bounds__(kSegmentThreads, kBlocks<kVec>)
    edge_sum_kernel(const __grid_constant__ EdgeConvParams<T> p) {
  const Group group = this_group(p.work);
  const SegmentUnit unit = find_unit(
      p.work, group, [&](int64_t first, int64_t last) { POLYGRAPH_CHECK_SEGMENT("edge_sum", first, last, p.n.g.E); });
  using Rows = EdgeRows<T, kVec, true, kForm>;
  constexpr int kAtOnce = Rows::kAtOnce;
  SlotWalk<WeightedIds<T>, kAtOnce> walk(group, unit);
  const auto read = [&](uint32_t at) {
    const SlotIds ids = read_ids(p.graph, p.n.g, p.n.rows, unit, at);
    const bool weighted = p.weight != nullptr && ids.other >= 0;
    return WeightedIds<T>{ids, weighted ? static_cast<Acc<T>>(p.weight[ids.row]) : Acc<T>(1)};
  };
  Rows rows(p);
  each_turn(p.work, group, p.n.D / kVec, [&](int64_t pack, bool mine) {
    rows.read_segment(unit.segment, pack * kVec);
    Acc<T> sum[kVec] = {};
    walk(read, [&](const WeightedIds<T>& ids, int j) {
      int32_t other[kAtOnce], row[kAtOnce] = {};
      Acc<T> factor[kAtOnce] = {};
      take_round(other, ids.at.other, j, group);
      if (Rows::kEdges) {
        take_round(row, ids.at.row, j, group);
      }
      if (p.weight != nullptr) {
        take_round(factor, ids.weight, j, group);
      }
      typename Rows::Slot slot[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        slot[u] = rows.read_slot(other[u], row[u]);
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        Acc<T> value[kVec];
        rows.value(slot[u], value);
        const Acc<T> times = p.weight == nullptr ? Acc<T>(1) : factor[u];
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          sum[v] = fused(times, value[v], sum[v]);
        }
      }
    });
    if (!mine || unit.segment < 0) {
      return;
    }
    if (unit.place < 0) {
      store_row<T, kVec>(p.out + unit.segment * p.n.D + pack * kVec, sum);
    } else {
      store_row<Acc<T>, kVec>(p.partial + unit.place * p.n.D + pack * kVec, sum);
    }
  });
}

// As edge_sum_kernel, but each value goes to its edge's row. Rows that no slot names are zero before.
template <class T, int kVec, Form kForm>
__global__ void __launch_bounds__(kSegmentThreads, kBlocks<kVec>)
    edge_values_kernel(const __grid_constant__ EdgeConvParams<T> p) {
  const Group group = this_group(p.work);
  const SegmentUnit unit = find_unit(p.work, group, [&](int64_t first, int64_t last) {
    POLYGRAPH_CHECK_SEGMENT("edge_values", first, last, p.n.g.E);
  });
  using Rows = EdgeRows<T, kVec, true, kForm>;
  constexpr int kAtOnce = Rows::kAtOnce;
  SlotWalk<SlotIds, kAtOnce> walk(group, unit);
  const auto read = [&](uint32_t at) { return read_ids(p.graph, p.n.g, p.n.rows, unit, at); };
  Rows rows(p);
  each_turn(p.work, group, p.n.D / kVec, [&](int64_t pack, bool mine) {
    rows.read_segment(unit.segment, pack * kVec);
    T* const out = p.out + pack * kVec;
    walk(read, [&](const SlotIds& ids, int j) {
      int32_t other[kAtOnce], row[kAtOnce];
      take_round(other, ids.other, j, group);
      take_round(row, ids.row, j, group);
      typename Rows::Slot slot[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        slot[u] = rows.read_slot(other[u], row[u]);
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        Acc<T> value[kVec];
        rows.value(slot[u], value);
        if (mine && other[u] >= 0) {
          store_row<T, kVec>(row_at(out, row[u], p.row_bytes), value);
        }
      }
    });
  });
}

// A group computes the dots of a unit's slots, kAtOnce at a time: a lane adds the channels of the kWidth-wide parts
// lane, lane + lanes, ... in order, and the lanes are folded by halves. Which lane has which channel depends on D
// alone; kPacked says whether a part is one load. Reading and safety as of edge_sum_kernel; one writer a number.
template <class T, bool kPacked, Form kForm>
__global__ void __launch_bounds__(kSegmentThreads, kBlocks<kPackWidth<T>>)
    edge_dot_kernel(const __grid_constant__ EdgeConvParams<T> p) {
  constexpr int kWidth = kPackWidth<T>;
  const Group group = this_group(p.work);
  const SegmentUnit unit = find_unit(
      p.work, group, [&](int64_t first, int64_t last) { POLYGRAPH_CHECK_SEGMENT("edge_dot", first, last, p.n.g.E); });
  using Rows = EdgeRows<T, kWidth, kPacked, kForm>;
  constexpr int kAtOnce = Rows::kAtOnce;
  SlotWalk<SlotIds, kAtOnce> walk(group, unit);
  const auto read = [&](uint32_t at) { return read_ids(p.graph, p.n.g, p.n.rows, unit, at); };
  Rows rows(p);
  Pack<T, kWidth> grad{};
  bool held = false;  // the segment's rows, which stay where a row has no more parts than lanes
  walk(read, [&](const SlotIds& ids, int j) {
    int32_t other[kAtOnce], row[kAtOnce];
    take_round(other, ids.other, j, group);
    take_round(row, ids.row, j, group);
    Acc<T> sum[kAtOnce] = {};
    for (int64_t c = group.lane * kWidth; c < p.n.D && unit.segment >= 0; c += group.lanes * kWidth) {
      if (!held) {
        rows.read_segment(unit.segment, c);
        grad = rows.read(p.grad + c, unit.segment);
        held = p.n.D <= group.lanes * kWidth;
      }
      typename Rows::Slot slot[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        slot[u] = rows.read_slot(other[u], row[u]);
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        Acc<T> value[kWidth];
        rows.value(slot[u], value);
#pragma unroll
        for (int v = 0; v < kWidth; ++v) {
          sum[u] = fused(static_cast<Acc<T>>(grad.lane[v]), value[v], sum[u]);
        }
      }
    }
    for (uint32_t half = group.lanes / 2; half > 0; half /= 2) {
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        sum[u] += __shfl_xor_sync(kAllLanes, sum[u], static_cast<int>(half));
      }
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (group.lane == static_cast<uint32_t>(u) && other[u] >= 0) {
        p.out[row[u]] = static_cast<T>(sum[u]);
      }
    }
  });
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
Form form_of(const EdgeConvParams<T>& p) {
  const bool nodes = p.seg_mask != nullptr || p.seg_val != nullptr || p.oth_val != nullptr;
  if (p.edge_val != nullptr) {
    return nodes ? Form::any : Form::edges;
  }
  if (p.seg_mask == nullptr) {
    return Form::plain;
  }
  return p.seg_mask == p.seg_val && p.oth_mask == p.oth_val ? Form::activation : Form::masked;
}

// Calls fn with the form as a compile-time constant, which is one of kForms.
template <Form... kForms, class F>
void with_form(Form form, const F& fn) {
  (static_cast<void>(form == kForms ? fn(std::integral_constant<Form, kForms>()) : void()), ...);
}

template <class T>
void launch_edge_sum(EdgeConvParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  const bool packed = takes_packs(p);
  const int64_t packs = p.n.D / (packed ? kVec : 1);
  p.work = share_segments("edge_sum", p.n.g, p.graph.ptr, packs, memory);
  p.partial = memory.take<Acc<T>>(p.work.places * p.n.D);
  with_form<Form::plain, Form::edges, Form::activation, Form::masked, Form::any>(form_of(p), [&](auto form) {
    start_kernel(
        all_units(p.work, packs), scope, packed ? edge_sum_kernel<T, kVec, form()> : edge_sum_kernel<T, 1, form()>, p);
  });
  launch_join_sums<T>({p.work, p.partial, p.out, p.n.D}, scope);
}

template <class T>
void launch_edge_values(EdgeConvParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  const bool packed = takes_packs(p);
  const int64_t packs = p.n.D / (packed ? kVec : 1);
  p.work = share_segments("edge_values", p.n.g, p.graph.ptr, packs, memory);
  const Form known = form_of(p) == Form::edges ? Form::any : form_of(p);
  with_form<Form::plain, Form::activation, Form::masked, Form::any>(known, [&](auto form) {
    start_kernel(
        all_units(p.work, packs), scope,
        packed ? edge_values_kernel<T, kVec, form()> : edge_values_kernel<T, 1, form()>, p);
  });
}

template <class T>
void launch_edge_dot(EdgeConvParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  const int64_t parts = std::min<int64_t>(ceil_div(p.n.D, kPackWidth<T>), kWarp);
  p.work = share_segments("edge_dot", p.n.g, p.graph.ptr, parts, memory);
  with_form<Form::plain, Form::activation, Form::masked>(form_of(p), [&](auto form) {
    start_kernel(
        all_units(p.work, parts), scope,
        takes_packs(p) ? edge_dot_kernel<T, true, form()> : edge_dot_kernel<T, false, form()>, p);
  });
}

EdgeConvTensors dense(const EdgeConvTensors& t) {
  return {polygraph::dense(t.seg_mask), polygraph::dense(t.oth_mask), polygraph::dense(t.seg_val),
          polygraph::dense(t.oth_val),  polygraph::dense(t.edge_val), polygraph::dense(t.weight)};
}

const Tensor& any_value(const EdgeConvTensors& t) {
  return t.seg_val.has_value() ? *t.seg_val : t.oth_val.has_value() ? *t.oth_val : *t.edge_val;
}

// Nodes whose rows are read, and rows of edges, are numbered by 32 bits; more nodes may there be if none has rows.
void check_numbers(const char* op, const EdgeConvSizes& n, const EdgeConvTensors& t) {
  const bool rows = t.oth_mask.has_value() || t.oth_val.has_value();
  check_row_numbers(op, rows ? n.g.O : 0, n.rows, n.D * any_value(t).element_size());
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
      mutable_data<T>(out),
      static_cast<uint32_t>(n.D * static_cast<int64_t>(sizeof(T))),
      {},
      nullptr};
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
  check_numbers("edge_sum", n, given);
  const DeviceScope scope(any_value(given));
  const GraphTensors graph(ptr, slot, other, edge);
  const EdgeConvTensors t = dense(given);
  const Tensor out = torch::stable::new_empty(any_value(t), {n.g.S, n.D});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_sum<T>(params<T>(n, graph.pointers(), t, nullptr, slope, out), memory, scope);
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
  check_numbers("edge_values", n, given);
  const DeviceScope scope(any_value(given));
  const GraphTensors graph(ptr, slot, other, edge);
  const EdgeConvTensors t = dense(given);
  const Tensor out = torch::stable::new_zeros(any_value(t), {rows, n.D});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_values<T>(params<T>(n, graph.pointers(), t, nullptr, slope, out), memory, scope);
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
  check_numbers("edge_dot", n, given);
  check_edge_dot_grad(n, grad, any_value(given));
  const DeviceScope scope(grad);
  const GraphTensors graph(ptr, slot, other, edge);
  const EdgeConvTensors t = dense(given);
  const Tensor upstream = polygraph::dense(grad);
  const Tensor out = torch::stable::new_zeros(grad, {rows});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_dot<T>(params<T>(n, graph.pointers(), t, const_data<T>(upstream), slope, out), memory, scope);
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("edge_sum", TORCH_BOX(&polygraph::edge_sum_cuda));
  m.impl("edge_values", TORCH_BOX(&polygraph::edge_values_cuda));
  m.impl("edge_dot", TORCH_BOX(&polygraph::edge_dot_cuda));
}

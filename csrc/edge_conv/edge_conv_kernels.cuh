// Kernels of sums over edges (edge_conv.h): float32, float64, and half types that accumulate in float32.
#pragma once

#include "common/segments.cuh"
#include "edge_conv/edge_conv.h"

namespace polygraph {
namespace {

template <class T>
struct EdgeConvCudaParams : EdgeConvParams<T> {
  Bend<Acc<T>> bend;
  uint32_t row_bytes;
  SegmentWork work = {};
  Acc<T>* partial = nullptr;  // [places, D], edge_sum only

  EdgeConvCudaParams(const EdgeConvParams<T>& given, double slope)
      : EdgeConvParams<T>(given),
        bend(bend_at_zero<Acc<T>>(slope)),
        row_bytes(static_cast<uint32_t>(given.n.D * static_cast<int64_t>(sizeof(T)))) {}
};

// What a kernel was compiled for.
enum class Form {
  plain,       // no masks, no edges' values
  edges,       // edges' values alone
  activation,  // masks, which are the values as well: each row is read once
  masked,      // masks, no edges' values
  any          // all that may be absent is looked at
};

// A pack of channels c .. of the rows of a segment and of its slots, and the values of their edges. kAtOnce slots are
// read before the first is used, as many as fit into the registers. kPacked: a pack is one load; else it may lie at any
// address, and channels from D on are 0.
template <class T, int kWidth, bool kPacked, Form kForm>
struct EdgeRows {
  static constexpr bool kMasks = kForm == Form::activation || kForm == Form::masked || kForm == Form::any;
  static constexpr bool kNodes = kForm == Form::plain || kForm == Form::masked || kForm == Form::any;
  static constexpr bool kEdges = kForm == Form::edges || kForm == Form::any;
  static constexpr int kAtOnce = !kPacked || kForm == Form::any ? 1 : kForm == Form::masked ? 2 : 4;
  using Part = Pack<T, kWidth>;

  const EdgeConvCudaParams<T>& p;
  int64_t left;  // channels from c on
  const T *far_mask, *far, *per_edge;
  Acc<T> near_sign[kWidth] = {}, near_value[kWidth] = {};

  struct Slot {
    Part sign, node, edge;
    bool filled;
  };

  __device__ __forceinline__ explicit EdgeRows(const EdgeConvCudaParams<T>& p_) : p(p_) {}

  // Those of the segment; a group without a segment has zeros.
  __device__ __forceinline__ void read_segment(int32_t segment, int64_t c) {
    left = p.n.D - c;
    far_mask = from_channel(p.far_mask, c);
    far = from_channel(p.far, c);
    per_edge = from_channel(p.per_edge, c);
#pragma unroll
    for (int v = 0; v < kWidth; ++v) {
      near_sign[v] = near_value[v] = 0;
    }
    if (kMasks && segment >= 0 && p.near_mask != nullptr) {
      add(near_sign, read(p.near_mask + c, segment));
    }
    if (kNodes && segment >= 0 && p.near != nullptr) {
      add(near_value, read(p.near + c, segment));
    }
  }

  // Those of a slot; of an empty one zeros.
  __device__ __forceinline__ Slot read_slot(int32_t other, int32_t row) const {
    Slot slot{{}, {}, {}, other >= 0};
    if (slot.filled) {
      if (kForm == Form::any ? p.far_mask != nullptr : kMasks) {
        slot.sign = read(far_mask, other);
      }
      if (kNodes && p.far != nullptr) {
        slot.node = read(far, other);
      }
      if (kForm == Form::any ? p.per_edge != nullptr : kEdges) {
        slot.edge = read(per_edge, row);
      }
    }
    return slot;
  }

  // m * (the values) of a slot; 0 if it is empty.
  __device__ __forceinline__ void value(const Slot& slot, Acc<T> (&value)[kWidth]) const {
    Acc<T> mask[kWidth];
#pragma unroll
    for (int v = 0; v < kWidth; ++v) {
      mask[v] = near_sign[v];
      value[v] = near_value[v];
    }
    if (kForm == Form::any ? p.far_mask != nullptr : kMasks) {
      add(mask, slot.sign);
    }
    if (kNodes && p.far != nullptr) {
      add(value, slot.node);
    }
    if (kForm == Form::any ? p.per_edge != nullptr : kEdges) {
      add(value, slot.edge);
    }
#pragma unroll
    for (int v = 0; v < kWidth; ++v) {
      if (kForm == Form::activation) {
        value[v] = p.bend.of(mask[v]);
      } else if (kForm == Form::any ? p.far_mask != nullptr : kMasks) {
        value[v] = p.bend.of(mask[v], value[v]);
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
  __device__ __forceinline__ static const T* from_channel(const T* rows, int64_t c) {
    return rows == nullptr ? nullptr : rows + c;
  }

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
// masks than values, mostly from the L2. Safe: no shared memory, one writer per element; all lanes of a warp pass every
// shuffle, because the walk is as long as the warp's longest unit.
template <class T, int kVec, Form kForm>
__global__ void __launch_bounds__(kSegmentThreads, kBlocks<kVec>)
    edge_sum_kernel(const __grid_constant__ EdgeConvCudaParams<T> p) {
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

// edge_sum_kernel without the sum: each value goes to its edge's row. Rows that no slot names are zero before.
template <class T, int kVec, Form kForm>
__global__ void __launch_bounds__(kSegmentThreads, kBlocks<kVec>)
    edge_values_kernel(const __grid_constant__ EdgeConvCudaParams<T> p) {
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
// alone; kPacked says whether a part is one load, kFar whether there is an far_grad. Reading and safety as of
// edge_sum_kernel; one writer per element.
template <class T, bool kPacked, Form kForm, bool kFar>
__global__ void __launch_bounds__(kSegmentThreads, kBlocks<kPackWidth<T>>)
    edge_dot_kernel(const __grid_constant__ EdgeConvCudaParams<T> p) {
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
      Pack<T, kWidth> far[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        slot[u] = rows.read_slot(other[u], row[u]);
        if (kFar) {
          far[u] = {};
          if (other[u] >= 0) {
            far[u] = rows.read(p.far_grad + c, other[u]);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        Acc<T> value[kWidth];
        rows.value(slot[u], value);
#pragma unroll
        for (int v = 0; v < kWidth; ++v) {
          const Acc<T> near = static_cast<Acc<T>>(grad.lane[v]);
          sum[u] = fused(kFar ? near + static_cast<Acc<T>>(far[u].lane[v]) : near, value[v], sum[u]);
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

}  // namespace
}  // namespace polygraph

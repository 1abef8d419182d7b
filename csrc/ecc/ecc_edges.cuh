// What the CUDA kernels of ECC's edge-wise halves share: their arguments, slots, and the operands of a slot.
#pragma once

#include "common/graph.cuh"
#include "ecc/ecc.h"

namespace polygraph {

template <class T>
struct EccParams {
  EccSizes n;
  GraphPointers graph;
  const T* phi;      // [E', H], null: from the nodes
  const T* seg_phi;  // [S, H]
  const T* oth_phi;  // [O, H]
  Acc<T> slope;
  const T* x;      // [O, C] or [E', C]
  const T* seg_x;  // [S, C], null: x is as it is
  const T* G;      // [last - first, H', C], edge_inner only
  T* out;          // [last - first, H', C], edge_outer only
  T* a;            // [E', H'], null: not wanted
  T* y;            // [E', C], likewise
  int64_t a_step;  // from row to row of a
  bool add;        // to y
};

namespace {  // each source has its own copy: kernels are registered source by source

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kFew = 1024;        // numbers of a segment's Z or G that the kernels for few of them take
constexpr int kFewThreads = 256;  // of these kernels
constexpr int kColumns = 4;       // of a thread, in all kernels

template <class T>
constexpr int kWide = kPackWidth<T> < kColumns ? kPackWidth<T> : kColumns;  // columns in one load

__device__ __forceinline__ int64_t hidden_of(const EccSizes& n) {
  return n.H + n.ones;
}

// A slot that has been checked; row -1: none.
struct EccSlot {
  int64_t other, row;
};

// The slot at a position, none from `end` on.
template <class T>
__device__ __forceinline__ EccSlot ecc_slot(const EccParams<T>& p, int64_t position, int64_t end) {
  if (position >= end) {
    return {-1, -1};
  }
  const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
  return {at.other, at.other < 0 ? -1 : at.row};
}

// phi'[h] of a slot of segment s; 0 past the end, and 0 without a slot.
template <class T>
__device__ __forceinline__ Acc<T> phi_at(const EccParams<T>& p, const EccSlot& slot, int64_t s, int64_t h) {
  if (slot.row < 0 || h >= hidden_of(p.n)) {
    return 0;
  }
  if (h >= p.n.H) {
    return 1;
  }
  if (p.phi != nullptr) {
    return static_cast<Acc<T>>(p.phi[slot.row * p.n.H + h]);
  }
  const Acc<T> sum =
      static_cast<Acc<T>>(p.seg_phi[s * p.n.H + h]) + static_cast<Acc<T>>(p.oth_phi[slot.other * p.n.H + h]);
  return sum > 0 ? sum : p.slope * sum;
}

// kVec channels from c on of a slot's row of x; 0 past the end, of which kVec is a divisor, and 0 without a slot.
template <class T, int kVec>
__device__ __forceinline__ Pack<Acc<T>, kVec> x_at(const EccParams<T>& p, const EccSlot& slot, int64_t s, int64_t c) {
  Pack<Acc<T>, kVec> x = {};
  if (slot.row < 0 || c >= p.n.C) {
    return x;
  }
  const auto given = load_pack<T, kVec>(p.x + (p.n.x_per_edge ? slot.row : slot.other) * p.n.C + c);
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    x.lane[v] = static_cast<Acc<T>>(given.lane[v]);
  }
  if (p.seg_x != nullptr) {
    const auto near = load_pack<T, kVec>(p.seg_x + s * p.n.C + c);
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      const Acc<T> sum = static_cast<Acc<T>>(near.lane[v]) + x.lane[v];
      x.lane[v] = sum > 0 ? sum : p.slope * sum;
    }
  }
  return x;
}

// Positions of `count` segments from s on: ends [count + 1], checked by the threads that read them. A barrier follows
// in the caller.
template <class T>
__device__ __forceinline__ void list_segments(const EccParams<T>& p, int64_t s, int count, int64_t* ends) {
  for (int j = static_cast<int>(threadIdx.x); j < count; j += kFewThreads) {
    const int64_t begin = p.graph.ptr[s + j];
    const int64_t end = p.graph.ptr[s + j + 1];
    POLYGRAPH_CHECK_SEGMENT("ecc", begin, end, p.n.g.E);
    if (j == 0) {
      ends[0] = begin;
    }
    ends[j + 1] = end;
  }
}

// The slots from position `at` on as far as the warps of a block stage them: warp w has slots w, w + warps, ..., the
// l-th of which lane l reads and checks. Calls stage(k, slot) for each of them below `count`, by whole warps.
template <int kSlots, class T, class F>
__device__ __forceinline__ void stage_slots(
    const EccParams<T>& p, int64_t at, int64_t end, int count, int64_t* rows, const F& stage) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  EccSlot mine{-1, -1};
  if (warp + warps * lane < kSlots) {
    mine = ecc_slot(p, at + warp + warps * lane, end);
    if (rows != nullptr) {
      rows[warp + warps * lane] = mine.row;
    }
  }
  for (int i = 0; warp + warps * i < count; ++i) {
    const EccSlot slot{__shfl_sync(kAllLanes, mine.other, i), __shfl_sync(kAllLanes, mine.row, i)};
    stage(warp + warps * i, slot);
  }
}

}  // namespace
}  // namespace polygraph

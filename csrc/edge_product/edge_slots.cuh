// What the CUDA kernels of ECC's edge-wise halves share: their arguments, slots, and the operands of a slot.
#pragma once

#include "common/graph.cuh"
#include "edge_product/edge_product.h"

namespace polygraph {

template <class T>
using ProductParams = EdgeProductParams<T, Acc<T>>;

namespace {  // each source has its own copy: kernels are registered source by source

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kFew = 1024;        // elements of a segment's Z or G that the kernels for few of them take
constexpr int kFewThreads = 256;  // of these kernels
constexpr int kColumns = 4;       // of a thread, in all kernels

template <class T>
constexpr int kWide = kPackWidth<T> < kColumns ? kPackWidth<T> : kColumns;  // columns in one load

// Sizes of rows, which launch_* keep below 2^31.
__device__ __forceinline__ int hidden_of(const EdgeProductSizes& n) {
  return static_cast<int>(n.H + n.ones);
}

__device__ __forceinline__ int channels_of(const EdgeProductSizes& n) {
  return static_cast<int>(n.C);
}

// A slot that has been checked: where its rows of x and of phi (or far) begin, and its row of edge features; all -1
// without one.
struct alignas(16) ProductSlot {
  int64_t x, phi, row;
};

// The slot at a position, none from `end` on.
template <class T>
__device__ __forceinline__ ProductSlot product_slot(const ProductParams<T>& p, int64_t position, int64_t end) {
  if (position >= end) {
    return {-1, -1, -1};
  }
  const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
  if (at.other < 0) {
    return {-1, -1, -1};
  }
  return {(p.n.x_per_edge ? at.row : at.other) * p.n.C, (p.phi != nullptr ? at.row : at.other) * p.n.H, at.row};
}

// A bend at 0. Not Bend::of: with the bound of its product the kernels spill, in double precision.
template <class A>
__device__ __forceinline__ A activated(A sum, A slope) {
  return sum <= 0 ? (slope == 0 ? A(0) : slope * sum) : sum;
}

// phi'[h] of a slot of segment s; 0 past the end, anything finite without a slot. kPlain: operands are as stored.
template <class T, bool kPlain>
__device__ __forceinline__ Acc<T> phi_at(const ProductParams<T>& p, const ProductSlot& slot, int64_t s, int h) {
  Acc<T> value = h < hidden_of(p.n) ? 1 : 0;
  if (slot.x < 0 || h >= static_cast<int>(p.n.H)) {
    return value;
  }
  if (kPlain || p.phi != nullptr) {
    value = static_cast<Acc<T>>(p.phi[slot.phi + h]);
  } else {
    value = static_cast<Acc<T>>(p.near[s * p.n.H + h]) + static_cast<Acc<T>>(p.far[slot.phi + h]);
    value = activated(value, p.slope);
  }
  return value;
}

// kVec channels from c on of a slot's row of x; 0 past the end, of which kVec is a divisor, and 0 without a slot.
template <class T, int kVec, bool kPlain>
__device__ __forceinline__ Pack<Acc<T>, kVec> x_at(
    const ProductParams<T>& p, const ProductSlot& slot, int64_t s, int c) {
  Pack<T, kVec> given = {};
  const bool there = slot.x >= 0 && c < channels_of(p.n);
  if (there) {
    given = load_pack<T, kVec>(p.x + slot.x + c);
  }
  Pack<Acc<T>, kVec> x;
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    x.lane[v] = static_cast<Acc<T>>(given.lane[v]);
  }
  if (!kPlain && there && p.near_x != nullptr) {
    const auto near = load_pack<T, kVec>(p.near_x + s * p.n.C + c);
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      const Acc<T> sum = static_cast<Acc<T>>(near.lane[v]) + x.lane[v];
      x.lane[v] = activated(sum, p.slope);
    }
  }
  return x;
}

// Calls fn with whether operands are as stored: then nothing else is asked in loops over slots.
template <class T, class F>
__device__ __forceinline__ void with_operands(const ProductParams<T>& p, const F& fn) {
  if (p.near == nullptr && p.near_x == nullptr) {
    fn(std::true_type());
  } else {
    fn(std::false_type());
  }
}

// Positions of `count` segments from s on: ends [count + 1], checked by the threads that read them. A barrier follows
// in the caller.
template <class T>
__device__ __forceinline__ void list_segments(const ProductParams<T>& p, int64_t s, int count, int64_t* ends) {
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
// l-th of which lane l reads and checks. Calls stage(k, slot) for each of them below `count`, by whole warps, with a
// slot that does not know its row.
template <int kSlots, class T, class F>
__device__ __forceinline__ void stage_slots(
    const ProductParams<T>& p, int64_t at, int64_t end, int count, int64_t* rows, const F& stage) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  ProductSlot mine{-1, -1, -1};
  if (warp + warps * lane < kSlots) {
    mine = product_slot(p, at + warp + warps * lane, end);
    if (rows != nullptr) {
      rows[warp + warps * lane] = mine.row;
    }
  }
  for (int i = 0; warp + warps * i < count; ++i) {
    const ProductSlot slot{__shfl_sync(kAllLanes, mine.x, i), __shfl_sync(kAllLanes, mine.phi, i), -1};
    stage(warp + warps * i, slot);
  }
}

}  // namespace
}  // namespace polygraph

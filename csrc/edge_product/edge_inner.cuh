// CUDA kernels of edge_inner_: a[e, h] = sum_c G[s, h, c] x[r, c] and y[e, c] = sum_h phi'[e, h] G[s, h, c].
//
// In both a thread has kColumns channels: adjacent ones, read as packs, where C is a multiple of kColumns (kPacks);
// else as many apart as threads share a row. A sum over h is that of one thread, or of four whose sums are added
// pairwise; one over c is that of threads whose sums are added pairwise. What adds what follows from H' and C alone.
#pragma once

#include "edge_product/edge_inner_few.cuh"

namespace polygraph {
namespace {

constexpr int kLines = 4;        // rows of G that a warp reads at once
constexpr int kLineLanes = 8;    // lanes along a row
constexpr int kDeep = 4;         // times kLines rows
constexpr int kMostDepth = 288;  // of the summed dimension, in shared memory at a time
constexpr int kMostWarps = 6;
constexpr int kHalf = 8;                             // slots that are guarded together
constexpr int kLineColumns = kLineLanes * kColumns;  // columns of a warp
constexpr int kWarpRows = kLines * kDeep;            // rows of a warp

template <class T>
constexpr int kInnerHalves = sizeof(Acc<T>) == 8 ? 1 : 2;
template <class T>
constexpr int kInnerSlots = kInnerHalves<T> * kHalf;
template <class T>
constexpr int kInnerPad = kPackWidth<Acc<T>>;  // between lines in shared memory

template <class T>
struct InnerParams {
  ProductParams<T> e;
  int tiles;  // of a segment: warps that its results need
  int parts;  // blocks that these are in
  int depth;  // of the summed dimension at a time, a multiple of kLineColumns
};

// Adds v over the lanes whose numbers differ in the bits kBit, kBit / 2, ... of as many: in the end the lane with these
// bits i has in v[0 .. kCount / 2^bits) the i-th part of the sums.
template <int kBit, int kLast, int kCount, class A, int kSize>
__device__ __forceinline__ void fold(A (&v)[kSize], int lane) {
  const bool upper = (lane & kBit) != 0;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    const A given = upper ? v[i] : v[i + kCount / 2];
    const A kept = upper ? v[i + kCount / 2] : v[i];
    v[i] = kept + __shfl_xor_sync(kAllLanes, given, kBit);
  }
  if constexpr (kBit > kLast) {
    fold<kBit / 2, kLast, kCount / 2>(v, lane);
  }
}

// Some slots' part of `a`, from kDeep rows of G: sum [slot, row]. `x` is the first slot's at the thread's channels.
template <bool kPacks, class A>
__device__ __forceinline__ void multiply_to_phi(
    const A (&g)[kDeep][kColumns], const A* x, int x_step, A (&sum)[kHalf * kDeep]) {
  constexpr int kPack = kPacks ? kPackWidth<A> : 1;
#pragma unroll
  for (int k = 0; k < kHalf; ++k) {
#pragma unroll
    for (int v = 0; v < kColumns; v += kPack) {
      const auto some = load_pack<A, kPack>(x + k * x_step + (kPacks ? v : v * kLineLanes));
#pragma unroll
      for (int j = 0; j < kDeep; ++j) {
#pragma unroll
        for (int u = 0; u < kPack; ++u) {
          sum[k * kDeep + j] += g[j][v + u] * some.lane[u];
        }
      }
    }
  }
}

// Some slots' part of `y`, from kDeep rows of G: sum [slot, column]. `phi` is that of the thread's first row.
template <int kPhiStep, class A>
__device__ __forceinline__ void multiply_to_y(const A (&g)[kDeep][kColumns], const A* phi, A (&sum)[kHalf * kColumns]) {
  constexpr int kPack = kPackWidth<A>;
#pragma unroll
  for (int j = 0; j < kDeep; ++j) {
#pragma unroll
    for (int k = 0; k < kHalf; k += kPack) {
      const auto some = load_pack<A, kPack>(phi + j * kLines * kPhiStep + k);
#pragma unroll
      for (int u = 0; u < kPack; ++u) {
#pragma unroll
        for (int v = 0; v < kColumns; ++v) {
          sum[(k + u) * kColumns + v] += some.lane[u] * g[j][v];
        }
      }
    }
  }
}

// Folds and writes some slots' sums of the warp's tile.
template <bool kPacks, bool kToPhi, class T>
__device__ __forceinline__ void store_slots(
    const ProductParams<T>& p, const int64_t* rows, int tile, Acc<T> (&sum)[kHalf * kColumns]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int along = lane % kLineLanes;
  const int line = lane / kLineLanes;
  if constexpr (kToPhi) {
    fold<kLineLanes / 2, 1, kHalf * kDeep>(sum, lane);
    const int64_t row = rows[along];
    const int h = tile * kWarpRows + line * kDeep;
#pragma unroll
    for (int j = 0; j < kDeep; ++j) {
      if (row >= 0 && h + j < hidden_of(p.n)) {
        p.a[row * p.a_step + h + j] = static_cast<T>(sum[j]);
      }
    }
  } else {
    fold<kWarp / 2, kLineLanes, kHalf * kColumns>(sum, lane);
    constexpr int kMine = kHalf / kLines;
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const int64_t row = rows[line * kMine + k];
      Acc<T> part[kColumns];
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        part[v] = sum[k * kColumns + v];
      }
      if (row >= 0) {
        store_channels<T, kPacks>(p, row, tile * kLineColumns, along, kLineLanes, part);
      }
    }
  }
}

// Copies x or phi' of `count` slots, from d0 on along the depth, and the slots' rows, to shared memory.
template <bool kPacks, bool kToPhi, class T>
__device__ __forceinline__ void stage_factor(
    const InnerParams<T>& params, int64_t s, int64_t at, int64_t end, int count, int d0, Acc<T>* factor,
    int64_t* rows) {
  using A = Acc<T>;
  constexpr int kStep = kPacks && kToPhi ? kWide<T> : 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  with_operands(params.e, [&](auto plain) {
    constexpr bool kPlain = decltype(plain)::value;
    stage_slots<kInnerSlots<T>>(params.e, at, end, count, rows, [&](int k, const ProductSlot& slot) {
#pragma unroll 2
      for (int d = lane * kStep; d < params.depth; d += kWarp * kStep) {
        if constexpr (kToPhi) {
          A* to = factor + k * (params.depth + kInnerPad<T>)+d;
          store_pack<A, kStep>(to, x_at<T, kStep, kPlain>(params.e, slot, s, d0 + d));
        } else {
          factor[d * (kInnerSlots<T> + kInnerPad<T>)+k] = phi_at<T, kPlain>(params.e, slot, s, d0 + d);
        }
      }
    });
  });
}

// A block computes columns of `a` (of phi', the depth runs over C) or of `y` (channels, the depth runs over H') for the
// slots of one segment, a warp 16 or 32 columns. The other factor, x or phi', is in shared memory, some slots and some
// of the depth at a time. G is read once for 8 or 16 slots, straight to registers: a warp reads 4 rows of G, 32
// channels of each, in whole sectors, 4 times at once, and multiplies each element with all slots, so that a load from
// shared memory serves 16 products. For `a` a lane adds over its channels, and the 8 lanes of a line are folded at the
// end; for `y` over its rows, and the 4 lines are folded. Safe: the factor and the slots' rows are replaced after a
// barrier that follows their last use; each row of the results belongs to one slot. Bound by reading G up to about 12
// slots, beyond that by its multiplications.
template <class T, bool kPacks, bool kToPhi>
__global__ void __launch_bounds__(kMostWarps* kWarp, 2) edge_inner_kernel(InnerParams<T> params) {
  using A = Acc<T>;
  constexpr int kSlots = kInnerSlots<T>;
  constexpr int kPhiStep = kSlots + kInnerPad<T>;
  const ProductParams<T>& p = params.e;
  int64_t* rows = reinterpret_cast<int64_t*>(polygraph_shared_memory);  // [kSlots]
  A* factor = reinterpret_cast<A*>(rows + kSlots);                      // x [kSlots, x_step] or phi' [depth, kPhiStep]
  const int x_step = params.depth + kInnerPad<T>;
  const int along = static_cast<int>(threadIdx.x) % kLineLanes;
  const int line = static_cast<int>(threadIdx.x) / kLineLanes % kLines;
  const int hidden = hidden_of(p.n);
  const int C = channels_of(p.n);
  const int depth = kToPhi ? C : hidden;
  const int depth_step = kToPhi ? kLineColumns : kWarpRows;
  const int row_step = (kToPhi ? 1 : kLines) * C;  // from one of a thread's rows to the next
  const int64_t items = (p.n.last - p.n.first) * params.parts;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t i = quotient(item, params.parts);
    const int64_t s = p.n.first + i;
    const int part = static_cast<int>(item - i * params.parts);
    const int tile = part * static_cast<int>(blockDim.x / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
    const int first_row = kToPhi ? tile * kWarpRows + line * kDeep : line;
    const int first_channel = channel_of<kPacks>(kToPhi ? 0 : tile * kLineColumns, along, kLineLanes, 0);
    const int64_t begin = p.graph.ptr[s];
    const int64_t end = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("ecc", begin, end, p.n.g.E);
    for (int64_t at = begin; at < end; at += kSlots) {
      const int count = static_cast<int>(min(end - at, static_cast<int64_t>(kSlots)));
      A sum[kInnerHalves<T>][kHalf * kColumns] = {};  // [slot, row of a line or column of a lane]
      const T* from = p.G + i * hidden * C + (first_row * C + first_channel);
      int d0 = 0;
      do {
        __syncthreads();
        stage_factor<kPacks, kToPhi>(params, s, at, end, count > kHalf ? kSlots : kHalf, d0, factor, rows);
        __syncthreads();
        const int left = min(depth - d0, params.depth);
        for (int d = 0; tile < params.tiles && d < left; d += depth_step) {
          A g[kDeep][kColumns];
#pragma unroll
          for (int j = 0; j < kDeep; ++j) {
            const int h = first_row + (kToPhi ? j : d0 + d + j * kLines);
            const int c = first_channel + (kToPhi ? d0 + d : 0);
            load_channels<T, kPacks>(from + j * row_step, c, kLineLanes, h < hidden ? C : 0, g[j]);
          }
          from += kToPhi ? depth_step : depth_step * C;
#pragma unroll
          for (int half = 0; half < kInnerHalves<T>; ++half) {
            if (half * kHalf >= count) {
              continue;
            }
            if constexpr (kToPhi) {
              const A* x = factor + half * kHalf * x_step + channel_of<kPacks>(d, along, kLineLanes, 0);
              multiply_to_phi<kPacks>(g, x, x_step, sum[half]);
            } else {
              multiply_to_y<kPhiStep>(g, factor + (d + line) * kPhiStep + half * kHalf, sum[half]);
            }
          }
        }
        d0 += params.depth;
      } while (d0 < depth);
#pragma unroll
      for (int half = 0; half < kInnerHalves<T>; ++half) {
        if (tile < params.tiles && half * kHalf < count) {
          store_slots<kPacks, kToPhi>(p, rows + half * kHalf, tile, sum[half]);
        }
      }
    }
  }
}

template <class T, bool kPacks, bool kToPhi>
void launch_inner(const ProductParams<T>& p, const DeviceScope& scope) {
  const int64_t tiles = kToPhi ? ceil_div(p.n.hidden(), kWarpRows) : ceil_div(p.n.C, kLineColumns);
  if (tiles == 0 || p.n.first == p.n.last) {
    return;
  }
  constexpr int64_t kSlots = kInnerSlots<T>;
  constexpr int64_t kPad = kInnerPad<T>;
  const int64_t all = std::max<int64_t>(kToPhi ? p.n.C : p.n.hidden(), 1);
  const int64_t depth = ceil_div(ceil_div(all, ceil_div(all, kMostDepth)), kLineColumns) * kLineColumns;
  const int64_t parts = ceil_div(tiles, kMostWarps);
  const InnerParams<T> params{p, static_cast<int>(tiles), static_cast<int>(parts), static_cast<int>(depth)};
  const int64_t numbers = kToPhi ? kSlots * (depth + kPad) : depth * (kSlots + kPad);
  const int64_t shared = kSlots * int64_t(sizeof(int64_t)) + numbers * int64_t(sizeof(Acc<T>));
  const int threads = static_cast<int>(ceil_div(tiles, parts)) * kWarp;
  const int64_t blocks = std::min((p.n.last - p.n.first) * parts, kMaxBlocksX);
  start_kernel({blocks, 1, threads, shared}, scope, edge_inner_kernel<T, kPacks, kToPhi>, params);
}

template <class T, bool kPacks>
void launch_inner_by_shape(const ProductParams<T>& p, const DeviceScope& scope) {
  if (p.n.hidden() * p.n.C <= kFew && p.n.C <= kWarp * kColumns) {
    launch_inner_few<T, kPacks>(p, scope);
    return;
  }
  if (p.a != nullptr) {
    launch_inner<T, kPacks, true>(p, scope);
  }
  if (p.y != nullptr) {
    launch_inner<T, kPacks, false>(p, scope);
  }
}

}  // namespace

// Where C is a multiple of kColumns all that is read or written in packs must be aligned to `kInnerBytes`.
template <class T>
constexpr int64_t kInnerBytes = kWide<T> * int64_t(sizeof(T));

template <class T>
void launch_edge_inner(const ProductParams<T>& p, const DeviceScope& scope) {
  if constexpr (sizeof(T) >= sizeof(float)) {
    if (p.n.C % kColumns == 0) {
      return launch_inner_by_shape<T, true>(p, scope);
    }
  }
  launch_inner_by_shape<T, false>(p, scope);
}

}  // namespace polygraph

// CUDA kernels of edge_inner_: a[e, h] = sum_c G[s, h, c] x[r, c] and y[e, c] = sum_h phi'[e, h] G[s, h, c].
//
// In both a thread has kColumns channels: neighbours, read as packs, where C is a multiple of kColumns (kPacks); else
// as many apart as threads share a row. A sum over h is that of one thread, or of four whose sums are added pairwise;
// one over c is that of threads whose sums are added pairwise. What adds what follows from H' and C alone.
#pragma once

#include "ecc/ecc_edges.cuh"

namespace polygraph {
namespace {

// The v-th channel, from the c-th on, of the thread at `lane` among `lanes` that share a row of channels.
template <bool kPacks>
__device__ __forceinline__ int channel_of(int c, int lane, int lanes, int v) {
  return c + (kPacks ? lane * kColumns + v : lane + v * lanes);
}

// The thread's channels of a row of G, of which `from` is the first and has number c; 0 past the end, at C.
template <class T, bool kPacks>
__device__ __forceinline__ void load_channels(const T* from, int c, int lanes, int C, Acc<T> (&to)[kColumns]) {
  constexpr int kStep = kPacks ? kWide<T> : 1;
#pragma unroll
  for (int v = 0; v < kColumns; v += kStep) {
    const int further = kPacks ? v : v * lanes;
    Pack<T, kStep> pack = {};
    if (kPacks ? c < C : c + further < C) {
      pack = load_pack<T, kStep>(from + further);
    }
#pragma unroll
    for (int i = 0; i < kStep; ++i) {
      to[v + i] = static_cast<Acc<T>>(pack.lane[i]);
    }
  }
}

// The thread's channels of a row of y.
template <class T, bool kPacks>
__device__ __forceinline__ void store_channels(
    const EccParams<T>& p, int64_t row, int c, int lane, int lanes, const Acc<T> (&sum)[kColumns]) {
  constexpr int kStep = kPacks ? kWide<T> : 1;
#pragma unroll
  for (int v = 0; v < kColumns; v += kStep) {
    const int channel = channel_of<kPacks>(c, lane, lanes, v);
    if (channel >= channels_of(p.n)) {
      continue;
    }
    T* to = p.y + row * p.n.C + channel;
    Acc<T> part[kStep] = {};
    if (p.add) {
      add_row<T, kStep>(part, to);
    }
#pragma unroll
    for (int i = 0; i < kStep; ++i) {
      part[i] += sum[v + i];
    }
    store_row<T, kStep>(to, part);
  }
}

// ---- few numbers a segment ----

constexpr int kMostSegments = 64;  // of a block
constexpr int kRowsAtOnce = 4;     // of G

template <class T>
struct EccFewParams {
  EccParams<T> e;
  int shift;     // 1 << shift threads share a slot
  int segments;  // of a block
};

// What the threads of a group compute for their slot: see edge_inner_few_kernel. All threads of a warp come here.
template <class T, bool kPacks, bool kPlain>
__device__ __forceinline__ void few_of_slot(const EccFewParams<T>& params, EccSlot slot, int64_t s) {
  using A = Acc<T>;
  const EccParams<T>& p = params.e;
  const int lanes = 1 << params.shift;
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
  const int hidden = hidden_of(p.n);
  const bool there = slot.row >= 0;
  const int C = channels_of(p.n);
  const int mine = channel_of<kPacks>(0, lane, lanes, 0);
  const T* row = p.G + (s - p.n.first) * hidden * C + mine;
  A x[kColumns] = {};
  if (p.a != nullptr) {
    constexpr int kStep = kPacks ? kWide<T> : 1;
#pragma unroll
    for (int v = 0; v < kColumns; v += kStep) {
      const auto some = x_at<T, kStep, kPlain>(p, slot, s, channel_of<kPacks>(0, lane, lanes, v));
#pragma unroll
      for (int i = 0; i < kStep; ++i) {
        x[v + i] = some.lane[i];
      }
    }
  }
  EccSlot factor = slot;
  factor.x = p.y == nullptr ? -1 : slot.x;  // then phi is not read
  A y[kColumns] = {};
  for (int h = 0; h < hidden; h += kRowsAtOnce) {
    A dot[kRowsAtOnce] = {};
    A g[kRowsAtOnce][kColumns];
    A phi[kRowsAtOnce];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      load_channels<T, kPacks>(row + r * C, mine, lanes, there && h + r < hidden ? C : 0, g[r]);
      phi[r] = phi_at<T, kPlain>(p, factor, s, h + r);
    }
    row += static_cast<int64_t>(kRowsAtOnce) * C;
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma unroll
      for (int v = 0; v < kColumns; ++v) {
        y[v] += phi[r] * g[r][v];
        dot[r] += x[v] * g[r][v];
      }
    }
    if (p.a == nullptr) {
      continue;
    }
    for (int half = lanes / 2; half > 0; half /= 2) {
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        dot[r] += __shfl_xor_sync(kAllLanes, dot[r], half);
      }
    }
    if (!there) {
      continue;
    }
    T* to = p.a + slot.row * p.a_step + h;
    if (lanes >= kRowsAtOnce) {  // neighbouring threads write neighbours
      const A low = lane % 2 == 0 ? dot[0] : dot[1];
      const A high = lane % 2 == 0 ? dot[2] : dot[3];
      if (lane < kRowsAtOnce && h + lane < hidden) {
        to[lane] = static_cast<T>(lane < 2 ? low : high);
      }
    } else if (lane == 0) {
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        if (h + r < hidden) {
          to[r] = static_cast<T>(dot[r]);
        }
      }
    }
  }
  if (p.y != nullptr && there) {
    store_channels<T, kPacks>(p, slot.row, 0, lane, lanes, y);
  }
}

// A group of threads, which share the channels, computes both rows of a slot: each row of G that it reads, from the L1
// after the first slot of a segment, serves both. A block takes the slots of some neighbouring segments, which it lists
// in shared memory, a thread a slot, and its groups take slots from the list in turn, whatever segment they are of.
// Safe: the list is replaced behind a barrier that follows its last use; a row of the results belongs to one slot.
// Bound by memory: with 9 x 16 numbers and 7 slots a node, 576 bytes of G and 1,500 of rows of slots; 41,000 nodes
// should take 25 us at 3.35 TB/s.
template <class T, bool kPacks>
__global__ void __launch_bounds__(kFewThreads, sizeof(T) == 8 ? 2 : 4) edge_inner_few_kernel(EccFewParams<T> params) {
  const EccParams<T>& p = params.e;
  int64_t* ends = reinterpret_cast<int64_t*>(polygraph_shared_memory);   // [kMostSegments + 2]
  EccSlot* list = reinterpret_cast<EccSlot*>(ends + kMostSegments + 2);  // [kFewThreads]
  int* segment = reinterpret_cast<int*>(list + kFewThreads);  // [kFewThreads], counted from the block's first
  const int thread = static_cast<int>(threadIdx.x);
  const int groups = kFewThreads >> params.shift;
  for (int64_t s = p.n.first + static_cast<int64_t>(blockIdx.x) * params.segments; s < p.n.last;
       s += static_cast<int64_t>(gridDim.x) * params.segments) {
    const int count = static_cast<int>(min(p.n.last - s, static_cast<int64_t>(params.segments)));
    __syncthreads();
    list_segments(p, s, count, ends);
    __syncthreads();
    for (int64_t at = ends[0]; at < ends[count]; at += kFewThreads) {
      const int64_t position = at + thread;
      list[thread] = ecc_slot(p, position, ends[count]);
      int low = 0;  // the last segment that begins at or before the position
      for (int high = count; high - low > 1;) {
        const int middle = (low + high) / 2;
        (ends[middle] <= position ? low : high) = middle;
      }
      segment[thread] = low;
      __syncthreads();
      const int listed = static_cast<int>(min(ends[count] - at, static_cast<int64_t>(kFewThreads)));
      with_operands(p, [&](auto plain) {
        for (int first = 0; first < listed; first += groups) {  // no further than the list, which groups divide
          const int k = first + (thread >> params.shift);
          few_of_slot<T, kPacks, decltype(plain)::value>(params, list[k], s + segment[k]);
        }
      });
      __syncthreads();
    }
  }
}

// ---- many numbers a segment ----

constexpr int kLines = 4;        // rows of G that a warp reads at once
constexpr int kLineLanes = 8;    // lanes along a row
constexpr int kDeep = 4;         // times kLines rows
constexpr int kMostDepth = 288;  // of the summed dimension, in shared memory at a time
constexpr int kMostWarps = 8;
constexpr int kHalf = 8;                             // slots that are guarded together
constexpr int kLineColumns = kLineLanes * kColumns;  // columns of a warp
constexpr int kWarpRows = kLines * kDeep;            // rows of a warp

template <class T>
constexpr int kInnerHalves = sizeof(Acc<T>) == 8 ? 1 : 2;

template <class T>
struct EccInnerParams {
  EccParams<T> e;
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

// A block computes columns of `a` (of phi', the depth runs over C) or of `y` (channels, the depth runs over H') for the
// slots of one segment, a warp 16 or 32 columns. The other factor, x or phi', is in shared memory, some slots and some
// of the depth at a time. G is read once for 8 or 16 slots, straight to registers: a warp reads 4 rows of G, 32
// channels of each, in whole sectors, 4 times at once, and multiplies each number with all slots, so that a load from
// shared memory serves 16 products. For `a` a lane adds over its channels, and the 8 lanes of a line are folded at the
// end; for `y` over its rows, and the 4 lines are folded. Safe: the factor and the slots' rows are replaced behind a
// barrier that follows their last use; each row of the results belongs to one slot. Bound by reading G up to about 12
// slots, beyond that by its multiplications.
template <class T, bool kPacks, bool kToPhi>
__global__ void __launch_bounds__(kMostWarps* kWarp, sizeof(T) == 8 ? 1 : 2)
    edge_inner_kernel(EccInnerParams<T> params) {
  using A = Acc<T>;
  constexpr int kHalves = kInnerHalves<T>;
  constexpr int kSlots = kHalves * kHalf;
  constexpr int kPad = kPackWidth<A>;
  constexpr int kPack = kPackWidth<A>;
  constexpr int kStep = kPacks ? kWide<T> : 1;  // channels of a load
  const EccParams<T>& p = params.e;
  int64_t* rows = reinterpret_cast<int64_t*>(polygraph_shared_memory);  // [kSlots]
  A* factor = reinterpret_cast<A*>(rows + kSlots);  // x [kSlots, depth + kPad] or phi' [depth, kSlots + kPad]
  const int x_step = params.depth + kPad;
  constexpr int kPhiStep = kSlots + kPad;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int along = lane % kLineLanes;
  const int line = lane / kLineLanes;
  const int hidden = hidden_of(p.n);
  const int depth = kToPhi ? channels_of(p.n) : hidden;
  const int64_t items = (p.n.last - p.n.first) * params.parts;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t i = quotient(item, params.parts);
    const int64_t s = p.n.first + i;
    const int64_t tile = (item - i * params.parts) * (blockDim.x / kWarp) + static_cast<int64_t>(threadIdx.x) / kWarp;
    const int64_t begin = p.graph.ptr[s];
    const int64_t end = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("ecc", begin, end, p.n.g.E);
    const int C = channels_of(p.n);
    // The thread's first number of G, and from one of its rows, and of its steps along the depth, to the next.
    const int first_row = kToPhi ? tile * kWarpRows + line * kDeep : line;
    const int first_channel = channel_of<kPacks>(kToPhi ? 0 : tile * kLineColumns, along, kLineLanes, 0);
    const int row_step = (kToPhi ? 1 : kLines) * C;
    const int depth_step = kToPhi ? kLineColumns : kWarpRows;
    for (int64_t at = begin; at < end; at += kSlots) {
      const int count = static_cast<int>(min(end - at, static_cast<int64_t>(kSlots)));
      A sum[kHalves][kHalf * kColumns] = {};  // [slot, row of a line or column of a lane]
      const T* from = p.G + i * hidden * C + (first_row * C + first_channel);
      int d0 = 0;
      do {
        __syncthreads();
        with_operands(p, [&](auto plain) {
          constexpr bool kPlain = decltype(plain)::value;
          const int staged = count > kHalf ? kSlots : kHalf;
          stage_slots<kSlots>(p, at, end, staged, rows, [&](int k, const EccSlot& slot) {
            if constexpr (kToPhi) {
#pragma unroll 2
              for (int d = lane * kStep; d < params.depth; d += kWarp * kStep) {
                store_pack<A, kStep>(factor + k * x_step + d, x_at<T, kStep, kPlain>(p, slot, s, d0 + d));
              }
            } else {
#pragma unroll 2
              for (int d = lane; d < params.depth; d += kWarp) {
                factor[d * kPhiStep + k] = phi_at<T, kPlain>(p, slot, s, d0 + d);
              }
            }
          });
        });
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
          for (int half = 0; half < kHalves; ++half) {
            if (half * kHalf >= count) {
              continue;
            }
            if constexpr (kToPhi) {
#pragma unroll
              for (int k = 0; k < kHalf; ++k) {
                const A* x = factor + (half * kHalf + k) * x_step + channel_of<kPacks>(d, along, kLineLanes, 0);
#pragma unroll
                for (int v = 0; v < kColumns; v += kPacks ? kPack : 1) {
                  const auto some = load_pack<A, kPacks ? kPack : 1>(x + (kPacks ? v : v * kLineLanes));
#pragma unroll
                  for (int j = 0; j < kDeep; ++j) {
#pragma unroll
                    for (int u = 0; u < (kPacks ? kPack : 1); ++u) {
                      sum[half][k * kDeep + j] += g[j][v + u] * some.lane[u];
                    }
                  }
                }
              }
            } else {
#pragma unroll
              for (int j = 0; j < kDeep; ++j) {
                const A* phi = factor + (d + j * kLines + line) * kPhiStep + half * kHalf;
#pragma unroll
                for (int k = 0; k < kHalf; k += kPack) {
                  const auto some = load_pack<A, kPack>(phi + k);
#pragma unroll
                  for (int u = 0; u < kPack; ++u) {
#pragma unroll
                    for (int v = 0; v < kColumns; ++v) {
                      sum[half][(k + u) * kColumns + v] += some.lane[u] * g[j][v];
                    }
                  }
                }
              }
            }
          }
        }
        d0 += params.depth;
      } while (d0 < depth);
      if (tile >= params.tiles) {
        continue;
      }
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        if (half * kHalf >= count) {
          continue;
        }
        if constexpr (kToPhi) {
          fold<kLineLanes / 2, 1, kHalf * kDeep>(sum[half], lane);
          const int64_t row = rows[half * kHalf + along];
          const int h = tile * kWarpRows + line * kDeep;
#pragma unroll
          for (int j = 0; j < kDeep; ++j) {
            if (row >= 0 && h + j < hidden) {
              p.a[row * p.a_step + h + j] = static_cast<T>(sum[half][j]);
            }
          }
        } else {
          fold<kWarp / 2, kLineLanes, kHalf * kColumns>(sum[half], lane);
          constexpr int kMine = kHalf / kLines;
#pragma unroll
          for (int k = 0; k < kMine; ++k) {
            const int64_t row = rows[half * kHalf + line * kMine + k];
            A part[kColumns];
#pragma unroll
            for (int v = 0; v < kColumns; ++v) {
              part[v] = sum[half][k * kColumns + v];
            }
            if (row >= 0) {
              store_channels<T, kPacks>(p, row, tile * kLineColumns, along, kLineLanes, part);
            }
          }
        }
      }
    }
  }
}

// ---- launches ----

template <class T, bool kPacks>
void launch_inner_few(const EccParams<T>& p, const DeviceScope& scope) {
  if (p.n.first == p.n.last || (p.a == nullptr && p.y == nullptr)) {
    return;
  }
  int shift = 0;
  while (kColumns << shift < p.n.C) {
    ++shift;
  }
  // Segments whose slots take the block's groups about two turns.
  const int64_t segments = 2 * (kFewThreads >> shift) * p.n.g.S / std::max<int64_t>(p.n.g.E, 1);
  const EccFewParams<T> params{p, shift, static_cast<int>(std::clamp<int64_t>(segments, 1, kMostSegments))};
  const int64_t shared =
      (kMostSegments + 2) * int64_t(sizeof(int64_t)) + kFewThreads * (int64_t(sizeof(EccSlot)) + int64_t(sizeof(int)));
  const int64_t blocks = std::min(ceil_div(p.n.last - p.n.first, params.segments), kMaxBlocksX);
  start_kernel({blocks, 1, kFewThreads, shared}, scope, edge_inner_few_kernel<T, kPacks>, params);
}

template <class T, bool kPacks, bool kToPhi>
void launch_inner(const EccParams<T>& p, const DeviceScope& scope) {
  const int64_t tiles = kToPhi ? ceil_div(p.n.hidden(), kWarpRows) : ceil_div(p.n.C, kLineColumns);
  if (tiles == 0 || p.n.first == p.n.last) {
    return;
  }
  constexpr int64_t kSlots = kInnerHalves<T> * kHalf;
  constexpr int64_t kPad = kPackWidth<Acc<T>>;
  const int64_t all = std::max<int64_t>(kToPhi ? p.n.C : p.n.hidden(), 1);
  const int64_t depth = ceil_div(ceil_div(all, ceil_div(all, kMostDepth)), kLineColumns) * kLineColumns;
  const int64_t parts = ceil_div(tiles, kMostWarps);
  const EccInnerParams<T> params{p, static_cast<int>(tiles), static_cast<int>(parts), static_cast<int>(depth)};
  const int64_t numbers = kToPhi ? kSlots * (depth + kPad) : depth * (kSlots + kPad);
  const int64_t shared = kSlots * int64_t(sizeof(int64_t)) + numbers * int64_t(sizeof(Acc<T>));
  const int threads = static_cast<int>(ceil_div(tiles, parts)) * kWarp;
  const int64_t blocks = std::min((p.n.last - p.n.first) * parts, kMaxBlocksX);
  start_kernel({blocks, 1, threads, shared}, scope, edge_inner_kernel<T, kPacks, kToPhi>, params);
}

template <class T, bool kPacks>
void launch_inner_by_shape(const EccParams<T>& p, const DeviceScope& scope) {
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
void launch_edge_inner(const EccParams<T>& p, const DeviceScope& scope) {
  if constexpr (sizeof(T) >= sizeof(float)) {
    if (p.n.C % kColumns == 0) {
      return launch_inner_by_shape<T, true>(p, scope);
    }
  }
  launch_inner_by_shape<T, false>(p, scope);
}

}  // namespace polygraph

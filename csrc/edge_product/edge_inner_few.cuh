// CUDA kernel of edge_inner_ where a segment has few elements, and the channels of a thread, as edge_inner.cuh has them
// too.
#pragma once

#include "edge_product/edge_slots.cuh"

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
    const ProductParams<T>& p, int64_t row, int c, int lane, int lanes, const Acc<T> (&sum)[kColumns]) {
  constexpr int kStep = kPacks ? kWide<T> : 1;
#pragma unroll
  for (int v = 0; v < kColumns; v += kStep) {
    const int channel = channel_of<kPacks>(c, lane, lanes, v);
    if (channel >= channels_of(p.n)) {
      continue;
    }
    T* to = p.y + row * p.n.C + channel;
    Pack<T, kStep> before = {};
    if (p.add) {
      before = load_pack<T, kStep>(to);
    }
    Acc<T> part[kStep];
#pragma unroll
    for (int i = 0; i < kStep; ++i) {
      part[i] = static_cast<Acc<T>>(before.lane[i]) + sum[v + i];
    }
    store_row<T, kStep>(to, part);
  }
}

constexpr int kMostSegments = 64;  // of a block
constexpr int kRowsAtOnce = 4;     // of G

template <class T>
struct FewParams {
  ProductParams<T> e;
  int shift;     // 1 << shift threads share a slot
  int segments;  // of a block
};

// What the threads of a group compute for their slot: see edge_inner_few_kernel. All threads of a warp come here.
template <class T, bool kPacks, bool kPlain>
__device__ __forceinline__ void few_of_slot(const FewParams<T>& params, ProductSlot slot, int64_t s) {
  using A = Acc<T>;
  const ProductParams<T>& p = params.e;
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
  ProductSlot factor = slot;
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
    if (lanes >= kRowsAtOnce) {  // adjacent threads write adjacent elements
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
// after the first slot of a segment, serves both. A block takes the slots of some adjacent segments, which it lists
// in shared memory, a thread a slot, and its groups take slots from the list in turn, whatever segment they are of.
// Safe: the list is replaced after a barrier that follows its last use; a row of the results belongs to one slot.
// Bound by memory: with 9 x 16 elements and 7 slots a node, 576 bytes of G and 1,500 of rows of slots; 41,000 nodes
// should take 25 us at 3.35 TB/s.
template <class T, bool kPacks>
__global__ void __launch_bounds__(
    kFewThreads, sizeof(T) == 8 ? 2
                 : kPacks       ? 4
                                : 3) edge_inner_few_kernel(FewParams<T> params) {
  const ProductParams<T>& p = params.e;
  int64_t* ends = reinterpret_cast<int64_t*>(polygraph_shared_memory);           // [kMostSegments + 2]
  ProductSlot* list = reinterpret_cast<ProductSlot*>(ends + kMostSegments + 2);  // [kFewThreads]
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
      list[thread] = product_slot(p, position, ends[count]);
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

template <class T, bool kPacks>
void launch_inner_few(const ProductParams<T>& p, const DeviceScope& scope) {
  if (p.n.first == p.n.last || (p.a == nullptr && p.y == nullptr)) {
    return;
  }
  int shift = 0;
  while (kColumns << shift < p.n.C) {
    ++shift;
  }
  // Segments whose slots take the block's groups about two turns.
  const int64_t segments = 2 * (kFewThreads >> shift) * p.n.g.S / std::max<int64_t>(p.n.g.E, 1);
  const FewParams<T> params{p, shift, static_cast<int>(std::clamp<int64_t>(segments, 1, kMostSegments))};
  const int64_t shared = (kMostSegments + 2) * int64_t(sizeof(int64_t)) +
                         kFewThreads * (int64_t(sizeof(ProductSlot)) + int64_t(sizeof(int)));
  const int64_t blocks = std::min(ceil_div(p.n.last - p.n.first, params.segments), kMaxBlocksX);
  start_kernel({blocks, 1, kFewThreads, shared}, scope, edge_inner_few_kernel<T, kPacks>, params);
}

}  // namespace
}  // namespace polygraph

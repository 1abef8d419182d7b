// CUDA kernels of the spiral convolution's derivative in x; spiral_conv_cuda.cu launches one of the two.
//
// Both gather gradients through the transposed table: nothing is scattered, so results repeat bit for bit. The tile
// product multiplies every slot of every source, and runs at more than half of the rate of multiplications; the walk
// over lists multiplies nothing that is not there, at less than a third of it.
#pragma once

#include "common/tile_product.cuh"
#include "spiral_conv/spiral_conv.h"

namespace polygraph {

// ---- a tile product ----

constexpr int kSlotWindow = 32;   // slots that a tile sorts its entries by at a time: bits of a word
constexpr int kMostSamples = 16;  // samples of a tile

template <class T>
struct SpiralBackwardXTileParams {
  SpiralBackwardXParams<T> x;
  int64_t column_tiles;   // tiles along C
  int64_t sample_groups;  // groups that the samples are cut into
  int lanes_shift;        // a source has 1 << lanes_shift neighboring row lanes, of kThreadRows samples each
  int chunk;              // entries that a tile sorts at a time
};

// An entry in a list of shared memory: where its target's row begins in a sample of grad, and the position of the
// list's next entry. -1: none.
struct SpiralEntry {
  int at, next;
};

// The entries of a chunk by source and slot, in shared memory: a list for each pair, in the order of t_entry.
template <class T, class Shape>
struct SpiralLists {
  static constexpr int kMostSources = Shape::kRows / 8;

  SpiralEntry* heads;    // [kMostSources, kSlotWindow], the lists' first entries
  int64_t* begin;        // [kMostSources + 1], where the sources' entries begin in t_entry
  SpiralEntry* entries;  // [chunk]
  int* list;             // [chunk], the list of an entry: source * kSlotWindow + slot in the window; -1: none
  int sources;

  static int64_t bytes(int64_t chunk) {
    return kMostSources * kSlotWindow * int64_t(sizeof(SpiralEntry)) + (kMostSources + 1) * int64_t(sizeof(int64_t)) +
           chunk * int64_t(sizeof(SpiralEntry) + sizeof(int));
  }

  __device__ __forceinline__ SpiralLists(unsigned char* memory, int sources_, int chunk) : sources(sources_) {
    heads = reinterpret_cast<SpiralEntry*>(memory);
    begin = reinterpret_cast<int64_t*>(heads + kMostSources * kSlotWindow);
    entries = reinterpret_cast<SpiralEntry*>(begin + kMostSources + 1);
    list = reinterpret_cast<int*>(entries + chunk);
  }

  // Where the entries of sources u0, u0 + 1, ... begin; sources past the end have none.
  __device__ __forceinline__ void find(const SpiralBackwardXParams<T>& p, int64_t u0) {
    for (int j = threadIdx.x; j <= sources; j += Shape::kThreads) {
      const int64_t u = u0 + j < p.n.V ? u0 + j : p.n.V;
      const int64_t first = p.t_ptr[u];
      const int64_t last = u < p.n.V ? p.t_ptr[u + 1] : first;
      POLYGRAPH_CHECK_LIST("spiral_conv_backward_x", first, last, p.n.M * p.n.S);
      begin[j] = first;
    }
  }

  // Makes lists of the entries first .. first + count - 1 of t_entry whose slots are in the window of s0. All threads
  // call it. Its loops are left rolled: they are short, and would take registers that the product needs.
  __device__ __forceinline__ void sort(const SpiralBackwardXParams<T>& p, int64_t first, int count, int s0) {
    __syncthreads();  // the last lists have been read
    for (int i = threadIdx.x; i < kMostSources * kSlotWindow; i += Shape::kThreads) {
      heads[i] = {-1, -1};
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += Shape::kThreads) {
      const int64_t position = p.t_entry[first + i];
      POLYGRAPH_CHECK_POSITION("spiral_conv_backward_x", position, p.n.M * p.n.S);
      const int64_t m = quotient(position, p.n.S);
      const int64_t s = position - m * p.n.S - s0;
      int source = 0;
#pragma unroll 1
      while (source + 1 < sources && begin[source + 1] <= first + i) {
        ++source;
      }
      entries[i].at = static_cast<int>(m * p.n.D);
      list[i] = s >= 0 && s < kSlotWindow ? source * kSlotWindow + static_cast<int>(s) : -1;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += Shape::kThreads) {
      const int mine = list[i];
      if (mine < 0) {
        continue;
      }
      // Entries of one source are adjacent; some of them may belong to no list.
      const int source = mine / kSlotWindow;
      const int64_t from = begin[source] - first;
      const int64_t to = begin[source + 1] - first;
      int before = i - 1;
#pragma unroll 1
      while (before >= from && before >= 0 && list[before] != mine) {
        --before;
      }
      int after = i + 1;
#pragma unroll 1
      while (after < to && after < count && list[after] != mine) {
        ++after;
      }
      entries[i].next = after < to && after < count ? after : -1;
      if (before < from || before < 0) {
        heads[mine] = entries[i];
      }
    }
    __syncthreads();
  }

  // The slots, as bits, that any source of the tile has entries at, and those of source `own`. All threads call it.
  // Rolled as above.
  __device__ __forceinline__ unsigned slots(int own, unsigned& own_slots) const {
    const int lane = static_cast<int>(threadIdx.x) % kSlotWindow;
    unsigned any = 0;
#pragma unroll 1
    for (int j = 0; j < sources; ++j) {
      const unsigned found = __ballot_sync(0xffffffffU, heads[j * kSlotWindow + lane].at >= 0);
      any |= found;
      own_slots = j == own ? found : own_slots;
    }
    return any;
  }
};

// As SpiralStage of the forward. The summed dimension is d within one slot s: left is, for each row (source, sample),
// the sum of grad over the targets in the row's list at s; right is W_s. fetch reads the first target of each list, and
// store, behind the product of the stage before, the few others.
template <class T, class Shape, int kVec>
struct SpiralSourceStage {
  using Value = typename Shape::Value;
  static constexpr int kLanes = Shape::kDepth / kVec;
  static constexpr int kPassRows = Shape::kThreads / kLanes;
  static constexpr int kPasses = ceil_div(Shape::kRows, kPassRows);
  // From pass to pass the sample changes only where the place among a lane's rows does, or where a pass is no multiple
  // of a source's lanes.
  static constexpr int kSpan = Shape::kRowLanes * Shape::kRowGroup;
  static constexpr bool kKeepsSample = kPassRows / Shape::kRowGroup % (kMostSamples / Shape::kThreadRows) == 0;
  static constexpr int kSamples = kKeepsSample ? ceil_div(Shape::kRows, kSpan) : kPasses;
  static constexpr int kColLanes = Shape::kCols / kVec;
  static constexpr int kColPassLines = Shape::kThreads / kColLanes;
  static constexpr int kColPasses = ceil_div(Shape::kDepth, kColPassLines);

  Pack<T, kVec> left[kPasses];
  Pack<T, kVec> right[kColPasses];
  int head[kPasses];   // where a row's source has its heads
  int from[kSamples];  // where a row's sample begins in grad, plus this thread's column d
  int next[kPasses];   // the row's next entry, or -1
  int d0;              // of what was fetched last

  __device__ __forceinline__ SpiralSourceStage(const SpiralBackwardXTileParams<T>& p, int64_t b0) {
    const int last = p.x.n.B - b0 < Shape::kRows ? static_cast<int>(p.x.n.B - b0) - 1 : Shape::kRows;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int row = min(static_cast<int>(threadIdx.x) / kLanes + pass * kPassRows, Shape::kRows - 1);
      const int lane = Shape::row_lane_of(row);
      const int source = lane >> p.lanes_shift;
      const int sample = (lane - (source << p.lanes_shift)) * Shape::kThreadRows + Shape::row_place_of(row);
      head[pass] = source * kSlotWindow;
      from[sample_of(pass)] = min(sample, last) * static_cast<int>(p.x.n.M * p.x.n.D) + column();
    }
  }

  static __device__ __forceinline__ constexpr int sample_of(int pass) {
    return kKeepsSample ? pass * kPassRows / kSpan : pass;
  }

  static __device__ __forceinline__ int column() {
    return static_cast<int>(threadIdx.x) % kLanes * kVec;
  }

  // grad is that of the group's first sample.
  __device__ __forceinline__ void fetch(
      const SpiralBackwardXParams<T>& p, const SpiralLists<T, Shape>& lists, const T* grad, int s0, int s, int d0_,
      int c0) {
    d0 = d0_;
    const int D = static_cast<int>(p.n.D);
    const int C = static_cast<int>(p.n.C);
    const bool inside = d0 + column() < D;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const SpiralEntry first = lists.heads[head[pass] + s];
      next[pass] = inside ? first.next : -1;
      left[pass] = Pack<T, kVec>{};
      if (inside && first.at >= 0) {
        left[pass] = load_pack<T, kVec>(grad + (first.at + from[sample_of(pass)] + d0));
      }
    }
    const int c = c0 + static_cast<int>(threadIdx.x) % kColLanes * kVec;
#pragma unroll
    for (int pass = 0; pass < kColPasses; ++pass) {
      const int line = static_cast<int>(threadIdx.x) / kColLanes + pass * kColPassLines;
      right[pass] = Pack<T, kVec>{};
      if ((Shape::kDepth % kColPassLines == 0 || line < Shape::kDepth) && d0 + line < D && c < C) {
        right[pass] = load_pack<T, kVec>(p.weight + (((d0 + line) * static_cast<int>(p.n.S) + s0 + s) * C + c));
      }
    }
  }

  // left [kDepth, kRowStride] and right [kDepth, kColStride] of the stage.
  __device__ __forceinline__ void store(const SpiralLists<T, Shape>& lists, const T* grad, Value* stage) {
    Value sum[kPasses][kVec];
    bool more = false;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      more = more || next[pass] >= 0;
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        sum[pass][v] = static_cast<Value>(left[pass].lane[v]);
      }
    }
    while (more) {
      Pack<T, kVec> other[kPasses];
      more = false;
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        other[pass] = Pack<T, kVec>{};
        if (next[pass] >= 0) {
          const SpiralEntry entry = lists.entries[next[pass]];
          next[pass] = entry.next;
          other[pass] = load_pack<T, kVec>(grad + (entry.at + from[sample_of(pass)] + d0));
        }
        more = more || next[pass] >= 0;
      }
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          sum[pass][v] += static_cast<Value>(other[pass].lane[v]);
        }
      }
    }
    const int lane = static_cast<int>(threadIdx.x) % kLanes * kVec;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int row = static_cast<int>(threadIdx.x) / kLanes + pass * kPassRows;
      if (Shape::kRows % kPassRows == 0 || row < Shape::kRows) {
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          stage[(lane + v) * Shape::kRowStride + row] = sum[pass][v];
        }
      }
    }
    constexpr int kGroup = kVec < Shape::kGroup ? kVec : Shape::kGroup;
    Value* right_side = stage + Shape::kDepth * Shape::kRowStride;
    const int column = static_cast<int>(threadIdx.x) % kColLanes * kVec;
#pragma unroll
    for (int pass = 0; pass < kColPasses; ++pass) {
      const int line = static_cast<int>(threadIdx.x) / kColLanes + pass * kColPassLines;
      if (Shape::kDepth % kColPassLines == 0 || line < Shape::kDepth) {
#pragma unroll
        for (int v = 0; v < kVec; v += kGroup) {
          Pack<Value, kGroup> pack;
#pragma unroll
          for (int g = 0; g < kGroup; ++g) {
            pack.lane[g] = static_cast<Value>(right[pass].lane[v + g]);
          }
          store_pack<Value, kGroup>(right_side + line * Shape::kColStride + column + v, pack);
        }
      }
    }
  }
};

// A block computes Shape::kRows rows (source, sample) times Shape::kCols channels of out. It sorts its sources' entries
// by slot, a chunk at a time (nearly always one), then goes through the slots that occur: gradients are gathered, kVec
// columns d a load (C and D multiples of kVec, grad and weight aligned to it), summed over the row's targets at that
// slot, and multiplied by W_s. The rows of a thread are samples of one source, and a thread leaves out the slots at
// which its source has no entry, so that an infinity in their weights stays away. The order of a sum: chunk, slot, d,
// and within these t_entry; chunks depend on the sizes and on t_ptr. Safe: a stage is written only after the barrier
// that follows the last product that read it, lists only after one that follows the last fetch, and every out element
// has one writer. Bound by FMAs and by reads of the stages; the floor is the forward's, 6 us at 16 x 5023 x 9, 16 to 16
// channels, and 50 us at 18 slots, 32 to 32 (H100).
template <class T, class Shape, int kVec>
__global__ void __launch_bounds__(Shape::kThreads, kTileBlocks<Shape, kVec, 2>)
    spiral_conv_backward_x_tile_kernel(SpiralBackwardXTileParams<T> q) {
  using Value = typename Shape::Value;
  const SpiralBackwardXParams<T>& p = q.x;
  Value* stages = reinterpret_cast<Value*>(polygraph_shared_memory);
  const int sources = Shape::kRowLanes >> q.lanes_shift;
  SpiralLists<T, Shape> lists(polygraph_shared_memory + Shape::kSharedBytes, sources, q.chunk);
  const int64_t row_tile = quotient(blockIdx.x, q.column_tiles);
  const int c0 = static_cast<int>(blockIdx.x - row_tile * q.column_tiles) * Shape::kCols;
  const int64_t source_tile = quotient(row_tile, q.sample_groups);
  const int64_t u0 = source_tile * sources;
  const int64_t b0 = (row_tile - source_tile * q.sample_groups) * (Shape::kThreadRows << q.lanes_shift);
  const T* grad = p.grad + b0 * p.n.M * p.n.D;
  lists.find(p, u0);
  __syncthreads();
  const int row_lane = Shape::row_lane();
  const int col_lane = Shape::col_lane();
  const int own = row_lane >> q.lanes_shift;
  Value acc[Shape::kThreadRows][Shape::kThreadCols] = {};
  SpiralSourceStage<T, Shape, kVec> next(q, b0);
  int current = 0;
  for (int64_t first = lists.begin[0]; first < lists.begin[sources]; first += q.chunk) {
    const int64_t rest = lists.begin[sources] - first;
    const int count = rest < q.chunk ? static_cast<int>(rest) : q.chunk;
    for (int s0 = 0; s0 < p.n.S; s0 += kSlotWindow) {
      lists.sort(p, first, count, s0);
      unsigned own_slots = 0;
      unsigned slots = lists.slots(own, own_slots);
      if (slots == 0) {
        continue;
      }
      int d0 = 0;
      next.fetch(p, lists, grad, s0, __ffs(static_cast<int>(slots)) - 1, d0, c0);
      next.store(lists, grad, stages + current * Shape::kStage);
      __syncthreads();
      while (true) {
        const bool mine = (own_slots & slots & (0 - slots)) != 0;
        d0 += Shape::kDepth;
        if (d0 >= p.n.D) {
          d0 = 0;
          slots &= slots - 1;
        }
        if (slots == 0) {
          if (mine) {
            Shape::multiply(acc, stages + current * Shape::kStage, row_lane, col_lane);
          }
          break;
        }
        next.fetch(p, lists, grad, s0, __ffs(static_cast<int>(slots)) - 1, d0, c0);
        if (mine) {
          Shape::multiply(acc, stages + current * Shape::kStage, row_lane, col_lane);
        }
        current ^= 1;
        next.store(lists, grad, stages + current * Shape::kStage);
        __syncthreads();
      }
      current ^= 1;
    }
  }
  const int64_t u = u0 + own;
  const int64_t b1 = b0 + (row_lane - (own << q.lanes_shift)) * Shape::kThreadRows;
  if (u < p.n.V) {
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i) {
      if (b1 + i < p.n.B) {
        store_columns<T, Shape>(p.out + ((b1 + i) * p.n.V + u) * p.n.C, acc[i], c0, p.n.C, col_lane);
      }
    }
  }
}

// ---- a walk over lists ----

constexpr int kBackwardXThreads = 128;

template <class T>
constexpr int kNarrowPack = kPackWidth<T> < 4 ? kPackWidth<T> : 4;

// A thread computes kVec channels of one source u in kSamples samples: samples share the list of (target, slot) pairs
// and the weights, which neighboring threads read side by side (they lie along C); the gradients of a target are the
// same address for all threads of a source. Loads are kVec and kDepthVec elements wide (C and D multiples, aligned).
// Samples past the end repeat the last one and are not stored. Safe: no shared memory, one writer per element. Bound by
// the loads: 12 a thread for 128 FMAs.
template <class T, int kVec, int kDepthVec, int kSamples>
__global__ void __launch_bounds__(kBackwardXThreads, kSamples == 8 ? 3 : 4)
    spiral_conv_backward_x_kernel(SpiralBackwardXParams<T> p) {
  using Value = Acc<T>;
  const SpiralSizes n = p.n;
  const int64_t groups = ceil_div(n.C, kVec);
  const int64_t width = n.S * n.C;
  for (int64_t item = first_item(); item < n.V * groups; item += item_stride()) {
    const int64_t u = quotient(item, groups);
    const int64_t c0 = (item - u * groups) * kVec;
    const int64_t first = p.t_ptr[u];
    const int64_t last = p.t_ptr[u + 1];
    POLYGRAPH_CHECK_LIST("spiral_conv_backward_x", first, last, n.M * n.S);
    for (int64_t b0 = int64_t(blockIdx.y) * kSamples; b0 < n.B; b0 += int64_t(gridDim.y) * kSamples) {
      const T* sample[kSamples];
#pragma unroll
      for (int i = 0; i < kSamples; ++i) {
        sample[i] = p.grad + (b0 + i < n.B ? b0 + i : n.B - 1) * n.M * n.D;
      }
      Value acc[kSamples][kVec] = {};
      for (int64_t e = first; e < last; ++e) {
        const int64_t position = p.t_entry[e];
        POLYGRAPH_CHECK_POSITION("spiral_conv_backward_x", position, n.M * n.S);
        const int64_t m = quotient(position, n.S);
        const T* weight = p.weight + (position - m * n.S) * n.C + c0;
        for (int64_t d = 0; d < n.D; d += kDepthVec) {
          Pack<T, kDepthVec> grad[kSamples];
#pragma unroll
          for (int i = 0; i < kSamples; ++i) {
            grad[i] = load_pack<T, kDepthVec>(sample[i] + m * n.D + d);
          }
#pragma unroll
          for (int j = 0; j < kDepthVec; ++j) {
            const auto factor = load_pack<T, kVec>(weight + (d + j) * width);
#pragma unroll
            for (int i = 0; i < kSamples; ++i) {
#pragma unroll
              for (int v = 0; v < kVec; ++v) {
                acc[i][v] += static_cast<Value>(grad[i].lane[j]) * static_cast<Value>(factor.lane[v]);
              }
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kSamples; ++i) {
        if (b0 + i < n.B) {
          Pack<T, kVec> pack;
#pragma unroll
          for (int v = 0; v < kVec; ++v) {
            pack.lane[v] = static_cast<T>(acc[i][v]);
          }
          store_global<T, kVec>(p.out + ((b0 + i) * n.V + u) * n.C + c0, pack);
        }
      }
    }
  }
}

}  // namespace polygraph

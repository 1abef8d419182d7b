// CUDA kernels of edge_outer_: Z[s] = sum over the slots of s of phi' (x) x.
//
// Both give a thread kRows x kColumns elements (or fewer columns) of one segment's Z, a "unit", and number the units
// through, so that blocks are full whatever H' and C are. Each element is the sum of one thread, over the slots in the
// order of their positions: results depend on neither units nor load widths.
#pragma once

#include "edge_product/edge_slots.cuh"

namespace polygraph {
namespace {

// Slots list[from .. to) of segment s, times rows h .. and columns c .. of their products.
template <class T, int kVec, int kRows, bool kPlain>
__device__ __forceinline__ void add_products(
    const ProductParams<T>& p, const ProductSlot* list, int from, int to, int64_t s, int h, int c,
    Acc<T> (&sum)[kRows][kVec]) {
  // Two at a time, to have more loads under way. What is made on the fly spills registers then.
#pragma unroll(kPlain ? 2 : 1)
  for (int k = from; k < to; ++k) {
    const ProductSlot slot = list[k];
    const auto x = x_at<T, kVec, kPlain>(p, slot, s, c);
    Acc<T> phi[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      phi[r] = phi_at<T, kPlain>(p, slot, s, h + r);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        sum[r][v] += phi[r] * x.lane[v];
      }
    }
  }
}

// Few elements per segment, or narrow rows. A unit is kRows x kVec elements; a block takes kFewThreads of them, of some
// adjacent segments. It lists the slots of these in shared memory, a thread a slot, and then each thread reads
// phi and x of its slots where they are: threads of a segment read the same sectors, from the L1. Safe: the list is
// replaced after a barrier that follows its last use.
// Bound by memory: 9 x 16 elements and 7 slots a node, 576 bytes of Z and about 320 of slots and phi, with x from the
// L2; 41,000 nodes should take 12 us at 3.35 TB/s.
template <class T, int kVec, int kRows>
__global__ void __launch_bounds__(
    kFewThreads, sizeof(T) == 8      ? 2
                 : kRows * kVec > 12 ? 3
                                     : 4) edge_outer_few_kernel(ProductParams<T> p) {
  int64_t* ends = reinterpret_cast<int64_t*>(polygraph_shared_memory);         // [kFewThreads + 2]
  ProductSlot* list = reinterpret_cast<ProductSlot*>(ends + kFewThreads + 2);  // [kFewThreads]
  const int hidden = hidden_of(p.n);
  const int packs = channels_of(p.n) / kVec;
  const int64_t units = (static_cast<int64_t>(hidden) + kRows - 1) / kRows * packs;
  const int64_t total = (p.n.last - p.n.first) * units;
  for (int64_t start = static_cast<int64_t>(blockIdx.x) * kFewThreads; start < total;
       start += static_cast<int64_t>(gridDim.x) * kFewThreads) {
    const int64_t i0 = quotient(start, units);
    const int64_t unit = min(start + static_cast<int64_t>(threadIdx.x), total - 1);  // the last one more than once
    const int64_t i = quotient(unit, units);
    const int count = static_cast<int>(quotient(min(start + kFewThreads, total) - 1, units) - i0) + 1;
    __syncthreads();
    list_segments(p, p.n.first + i0, count, ends);
    __syncthreads();
    const int64_t begin = ends[i - i0];
    const int64_t end = ends[i - i0 + 1];
    const int64_t group = quotient(unit - i * units, packs);
    const int h = static_cast<int>(group) * kRows;
    const int c = static_cast<int>(unit - i * units - group * packs) * kVec;
    Acc<T> sum[kRows][kVec] = {};
    for (int64_t at = ends[0]; at < ends[count]; at += kFewThreads) {
      list[threadIdx.x] = product_slot(p, at + static_cast<int64_t>(threadIdx.x), ends[count]);
      __syncthreads();
      const int from = static_cast<int>(min(max(begin - at, int64_t(0)), int64_t(kFewThreads)));
      const int to = static_cast<int>(min(max(end - at, int64_t(0)), int64_t(kFewThreads)));
      with_operands(p, [&](auto plain) {
        add_products<T, kVec, kRows, decltype(plain)::value>(p, list, from, to, p.n.first + i, h, c, sum);
      });
      __syncthreads();
    }
    if (start + static_cast<int64_t>(threadIdx.x) >= total) {
      continue;
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (h + r < hidden) {
        store_row<T, kVec>(p.out + (i * hidden + h + r) * p.n.C + c, sum[r]);
      }
    }
  }
}

constexpr int kOuterThreads = 256;  // at most

// Slots in shared memory at a time, of a product with many elements.
template <class T>
constexpr int kOuterSlots = sizeof(Acc<T>) == 8 ? 8 : 16;

// How blocks cover a segment's Z: the columns in `tiles`, each of `packs` times kColumns; the units of a tile, numbered
// along its columns, in `parts`, one a block, which has at most `span` rows.
struct OuterShape {
  int tiles, packs, parts, threads, span;
};

template <class T>
struct OuterParams {
  ProductParams<T> e;
  OuterShape shape;
};

// Adds the products of `count` slots to a unit: phi and x are where its rows and columns begin in the first slot's.
template <int kVec, int kRows, class A>
__device__ __forceinline__ void multiply_slots(
    const OuterShape& shape, const A* phi, const A* x, int count, A (&sum)[kRows][kColumns]) {
  constexpr int kPack = kPackWidth<A>;
#pragma unroll 2
  for (int k = 0; k < count; ++k) {
    A left[kRows];
    A right[kColumns];
#pragma unroll
    for (int r = 0; r < kRows; r += kPack) {
      const auto some = load_pack<A, kPack>(phi + k * shape.span + r);
#pragma unroll
      for (int v = 0; v < kPack; ++v) {
        left[r + v] = some.lane[v];
      }
    }
#pragma unroll
    for (int c = 0; c < kColumns; c += kVec) {
      const auto some = load_pack<A, kVec>(x + (k * kColumns + c) * shape.packs);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        right[c + v] = some.lane[v];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        sum[r][c] += left[r] * right[c];
      }
    }
  }
}

// Writes a unit of segment first + i, from row h and column c on.
template <int kVec, int kRows, class T>
__device__ __forceinline__ void store_unit(
    const ProductParams<T>& p, int64_t i, int h, int c, int packs, const Acc<T> (&sum)[kRows][kColumns]) {
  const int hidden = hidden_of(p.n);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int v = 0; v < kColumns; v += kVec) {
      if (h + r < hidden && c + v * packs < channels_of(p.n)) {
        Acc<T> part[kVec];
#pragma unroll
        for (int u = 0; u < kVec; ++u) {
          part[u] = sum[r][v + u];
        }
        store_row<T, kVec>(p.out + (i * hidden + h + r) * p.n.C + (c + v * packs), part);
      }
    }
  }
}

// Many elements per segment. A unit is kRows adjacent rows times kColumns columns: packs of kVec, a tile's width
// apart. The block copies phi' of its rows and x of its columns to shared memory, kOuterSlots slots at a time; a slot
// then costs a thread 3 or 4 loads of packs for 32 products (16 in double precision), and the lanes of a warp read the
// same rows of phi'. Safe: the operands are replaced after a barrier that follows their last use.
// Bound by writing Z up to about 16 slots (K / 2 operations a byte), beyond that by its multiplications.
template <class T, int kVec, int kRows>
__global__ void __launch_bounds__(kOuterThreads, sizeof(T) == 8 ? 2 : 3) edge_outer_kernel(OuterParams<T> params) {
  using A = Acc<T>;
  constexpr int kSlots = kOuterSlots<T>;
  const ProductParams<T>& p = params.e;
  const OuterShape& shape = params.shape;
  const int width = kColumns * shape.packs;
  A* phi = reinterpret_cast<A*>(polygraph_shared_memory);  // [kSlots, span]
  A* x = phi + kSlots * shape.span;                        // [kSlots, width]
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int hidden = hidden_of(p.n);
  const int C = channels_of(p.n);
  const int units = (hidden + kRows - 1) / kRows * shape.packs;
  const int blocks = shape.tiles * shape.parts;
  const int64_t items = (p.n.last - p.n.first) * blocks;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t i = quotient(item, blocks);
    const int inside = static_cast<int>(item - i * blocks);
    const int64_t s = p.n.first + i;
    const int tile = inside / shape.parts;
    const int c0 = tile * width;
    const int first_unit = (inside - tile * shape.parts) * shape.threads;
    const int unit = first_unit + static_cast<int>(threadIdx.x);
    const int group = unit / shape.packs;
    const int pack = unit - group * shape.packs;
    const int h0 = first_unit / shape.packs * kRows;
    const int row = group * kRows - h0;
    const int64_t first = p.graph.ptr[s];
    const int64_t last = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("ecc", first, last, p.n.g.E);
    const uint32_t end = static_cast<uint32_t>(last);  // there are fewer than 2^31 slots
    A sum[kRows][kColumns] = {};
    for (uint32_t at = static_cast<uint32_t>(first); at < end; at += kSlots) {
      const int count = min(static_cast<int>(end - at), kSlots);
      with_operands(p, [&](auto plain) {
        constexpr bool kPlain = decltype(plain)::value;
        stage_slots<kSlots>(p, at, end, count, nullptr, [&](int k, const ProductSlot& slot) {
        // Both at a time, to have more loads under way. What is made on the fly spills registers if unrolled.
#pragma unroll(kPlain ? 2 : 1)
          for (int j = lane; j < max(shape.span, width / kVec); j += kWarp) {
            const A factor = phi_at<T, kPlain>(p, slot, s, j < shape.span ? h0 + j : hidden);
            const auto pack = x_at<T, kVec, kPlain>(p, slot, s, j * kVec < width ? c0 + j * kVec : C);
            if (j < shape.span) {
              phi[k * shape.span + j] = factor;
            }
            if (j * kVec < width) {
              store_pack<A, kVec>(x + k * width + j * kVec, pack);
            }
          }
        });
      });
      __syncthreads();
      if (unit < units) {
        multiply_slots<kVec>(shape, phi + row, x + pack * kVec, count, sum);
      }
      __syncthreads();
    }
    if (unit < units) {
      store_unit<kVec>(p, i, h0 + row, c0 + pack * kVec, shape.packs, sum);
    }
  }
}

// ---- launches ----

constexpr int kMostPacks = 128;  // of a tile's columns
constexpr int kNarrow = 32;      // columns that are read where they are, whatever H' is

template <class T, int kVec, int kRows>
void launch_outer_few(const ProductParams<T>& p, const DeviceScope& scope) {
  const int64_t units = (p.n.last - p.n.first) * ceil_div(p.n.hidden(), kRows) * (p.n.C / kVec);
  if (units == 0) {
    return;
  }
  const int64_t shared = (kFewThreads + 2) * int64_t(sizeof(int64_t)) + kFewThreads * int64_t(sizeof(ProductSlot));
  start_kernel(
      {strided_blocks(units, kFewThreads), 1, kFewThreads, shared}, scope, edge_outer_few_kernel<T, kVec, kRows>, p);
}

template <class T, int kVec, int kRows>
void launch_outer(const ProductParams<T>& p, const DeviceScope& scope) {
  if (p.n.first == p.n.last || p.n.hidden() == 0) {
    return;
  }
  const int64_t all = ceil_div(p.n.C, kColumns);
  const int64_t tiles = ceil_div(all, kMostPacks);
  const int64_t packs = ceil_div(all, tiles);
  const int64_t groups = ceil_div(p.n.hidden(), kRows);
  const int64_t parts = ceil_div(groups * packs, kOuterThreads);
  const int64_t threads = ceil_div(ceil_div(groups * packs, parts), kWarp) * kWarp;
  const int64_t span = kRows * std::min(groups, (threads + packs - 2) / packs + 1);
  POLYGRAPH_CHECK(tiles * parts <= kMaxBlocksX, "edge_outer_: ", p.n.hidden(), " x ", p.n.C, " is too large");
  const OuterParams<T> params{
      p,
      {static_cast<int>(tiles), static_cast<int>(packs), static_cast<int>(parts), static_cast<int>(threads),
       static_cast<int>(span)}};
  const int64_t shared = kOuterSlots<T> * (span + kColumns * packs) * int64_t(sizeof(Acc<T>));
  const int64_t blocks = std::min((p.n.last - p.n.first) * tiles * parts, kMaxBlocksX);
  start_kernel({blocks, 1, params.shape.threads, shared}, scope, edge_outer_kernel<T, kVec, kRows>, params);
}

// Rows of a thread: more of them are fewer loads a product, but may waste more of the last group. Half types, which no
// layer brings here, have one kernel of each kind.
template <class T, int kVec>
void launch_outer_by_shape(const ProductParams<T>& p, const DeviceScope& scope) {
  const int64_t hidden = p.n.hidden();
  const auto padded = [&](int64_t rows) { return ceil_div(hidden, rows) * rows; };
  constexpr bool kHalf = sizeof(T) < sizeof(Acc<T>);
  if (hidden * p.n.C <= kFew || p.n.C < kNarrow) {
    if constexpr (!kHalf) {
      if (padded(3) < padded(4)) {
        return launch_outer_few<T, kVec, 3>(p, scope);
      }
    }
    return launch_outer_few<T, kVec, 4>(p, scope);
  }
  if constexpr (kHalf) {
    launch_outer<T, kVec, 8>(p, scope);
  } else if constexpr (sizeof(T) == 8) {
    launch_outer<T, kVec, 4>(p, scope);  // as many registers
  } else if (9 * padded(4) < 8 * padded(8)) {
    launch_outer<T, kVec, 4>(p, scope);
  } else {
    launch_outer<T, kVec, 8>(p, scope);
  }
}

}  // namespace

template <class T>
void launch_edge_outer(const ProductParams<T>& p, const DeviceScope& scope) {
  if constexpr (sizeof(T) >= sizeof(float)) {
    constexpr int64_t kBytes = kWide<T> * int64_t(sizeof(T));
    if (p.n.C % kWide<T> == 0 && is_aligned(p.x, kBytes) && is_aligned(p.near_x, kBytes) && is_aligned(p.out, kBytes)) {
      return launch_outer_by_shape<T, kWide<T>>(p, scope);
    }
  }
  launch_outer_by_shape<T, 1>(p, scope);
}

}  // namespace polygraph

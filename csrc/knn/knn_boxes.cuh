// CUDA k-NN of many points in few dimensions, C <= 4: tiles of points that are too far away are skipped.
//
// Points are sorted along a Hilbert curve through the cells of a grid over all of them, so that kBoxPoints neighbors
// on it lie near each other, and these have a box: the least and the largest of each coordinate. Queries are sorted
// along the same curve. A block takes a tile of queries as knn_list_kernel does, and of the points' tiles only those
// whose box is no farther from the box of its queries than the last entry of one of its lists.
//
// The distance of two boxes is computed as that of two points (knn.h), from the gap between them along each axis. A gap
// is no larger than the difference of any two coordinates, and differences, squares and sums are rounded monotonically,
// so no documented distance of a query and a point is smaller than that of their boxes, to the bit: no neighbor is
// skipped, whatever the cells, and a point as far as the last entry is visited too, since its number may be smaller.
// The order of points decides only how many boxes are near. At worst all are: then each pair is computed, as without
// boxes.
//
// Boxes visited for 32 queries, k = 16, counted on the host: 18 of 7813 for 1M points evenly in a cube, 21 for normal
// ones, 9 on a sphere, 13 of 128 for 16,384 in a cube; along a Morton curve, which jumps, twice as many. Each is about
// 1,000 instructions a warp. Floor for 1M on an H200: 31,250 tiles x 18 x 4 warps x 1,000 / 9.3e11 a second = 2.4 ms;
// expected 5 to 10 ms, of which the boxes' distances, 7813 for each tile of queries, take 1 to 2 ms and the sort 0.2
// ms.
#pragma once

#include "knn/knn_list.cuh"

namespace polygraph {

constexpr int kBoxPoints = 128;
constexpr int kAxes = 4;
constexpr int kExtentBlocks = 256;
constexpr int kExtentThreads = 256;
constexpr int kMostAxisBits = 16;  // cells along an axis, as a power of two

// The least and the largest of each coordinate; 0 along axes that there are not.
template <class A>
struct alignas(16) KnnBox {
  A low[kAxes], high[kAxes];
};

template <class T>
struct KnnBoxParams : KnnParams<T> {
  KnnBox<Acc<T>>* extent;    // [kExtentBlocks] of the points that a block has read
  KnnBox<Acc<T>>* boxes;     // [B, leaves]
  int64_t leaves;            // ceil(N / kBoxPoints)
  const uint32_t* x_key;     // [B*N] ascending: the sample, then the position on the curve
  const uint32_t* y_key;     // [B*M]
  const uint32_t* x_number;  // [B*N] the points' numbers in this order
  const uint32_t* y_number;  // [B*M]
  int axis_bits;             // of a coordinate on the curve
};

template <class T>
struct KnnCurveParams {
  const T* points;               // [B, size, C]
  const KnnBox<Acc<T>>* extent;  // [kExtentBlocks]
  int64_t rows, size, C;         // rows = B * size
  int axis_bits;
  uint32_t* key;     // [rows]
  uint32_t* number;  // [rows]
};

template <class A>
__device__ __forceinline__ KnnBox<A> empty_box() {
  KnnBox<A> box{};
#pragma unroll
  for (int c = 0; c < kAxes; ++c) {
    box.low[c] = infinity<A>();
    box.high[c] = -infinity<A>();
  }
  return box;
}

template <class A>
__device__ __forceinline__ void join_box(KnnBox<A>& box, const KnnBox<A>& other) {
#pragma unroll
  for (int c = 0; c < kAxes; ++c) {
    box.low[c] = min(box.low[c], other.low[c]);
    box.high[c] = max(box.high[c], other.high[c]);
  }
}

template <class T>
__device__ __forceinline__ void join_point(KnnBox<Acc<T>>& box, const T* point, int64_t C) {
#pragma unroll
  for (int c = 0; c < kAxes; ++c) {
    const Acc<T> value = c < C ? static_cast<Acc<T>>(point[c]) : Acc<T>(0);
    CUDA_KERNEL_ASSERT_MSG(is_finite(value), "knn: x and y must be finite");
    box.low[c] = min(box.low[c], value);
    box.high[c] = max(box.high[c], value);
  }
}

// The box around those of all lanes. All threads of the warp call.
template <class A>
__device__ __forceinline__ KnnBox<A> warp_box(KnnBox<A> box) {
#pragma unroll
  for (int half = 16; half > 0; half /= 2) {
#pragma unroll
    for (int c = 0; c < kAxes; ++c) {
      box.low[c] = min(box.low[c], __shfl_xor_sync(kFullWarp, box.low[c], half));
      box.high[c] = max(box.high[c], __shfl_xor_sync(kFullWarp, box.high[c], half));
    }
  }
  return box;
}

// The documented distance of two boxes: no larger than that of any two points in them.
template <class A>
__device__ __forceinline__ A box_distance(const KnnBox<A>& a, const KnnBox<A>& b) {
  A square[kAxes];
#pragma unroll
  for (int c = 0; c < kAxes; ++c) {
    const A above = rounded_difference(a.low[c], b.high[c]);
    const A below = rounded_difference(b.low[c], a.high[c]);
    square[c] = rounded_square(max(max(above, below), A(0)));
  }
  return rounded_sum(rounded_sum(square[0], square[2]), rounded_sum(square[1], square[3]));
}

// The box around those of all threads of the block, which call and have it; once in a kernel.
template <class A>
__device__ __forceinline__ KnnBox<A> block_box(KnnBox<A> mine) {
  KnnBox<A>* shared = reinterpret_cast<KnnBox<A>*>(polygraph_shared_memory);  // [threads / 32]
  mine = warp_box(mine);
  if (threadIdx.x % 32 == 0) {
    shared[threadIdx.x / 32] = mine;
  }
  __syncthreads();
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / 32; ++warp) {
    join_box(mine, shared[warp]);
  }
  return mine;
}

// extent[block] = the box around the points that the block reads, adjacent points by adjacent threads. Safe: one
// writer.
template <class T>
__global__ void __launch_bounds__(kExtentThreads) knn_extent_kernel(KnnBoxParams<T> p) {
  KnnBox<Acc<T>> box = empty_box<Acc<T>>();
  for (int64_t row = first_item(); row < p.n.B * p.n.N; row += item_stride()) {
    join_point(box, p.x + row * p.n.C, p.n.C);
  }
  box = block_box(box);
  if (threadIdx.x == 0) {
    p.extent[blockIdx.x] = box;
  }
}

// The position of a cell of C coordinates of `bits` bits on the Hilbert curve, below `sample` (J. Skilling, Programming
// the Hilbert curve, 2004: the bits of the transposed position, in turn).
__device__ __forceinline__ uint32_t curve_key(uint32_t sample, uint32_t (&cell)[kAxes], int C, int bits) {
  for (uint32_t bit = 1U << (bits - 1); bit > 1; bit /= 2) {
    const uint32_t below = bit - 1;
#pragma unroll
    for (int c = 0; c < kAxes; ++c) {
      if (c < C) {
        const bool inverts = (cell[c] & bit) != 0;
        const uint32_t exchanged = (cell[0] ^ cell[c]) & below;
        cell[c] ^= inverts ? 0U : exchanged;
        cell[0] ^= inverts ? below : exchanged;
      }
    }
  }
  uint32_t last = cell[0];
#pragma unroll
  for (int c = 1; c < kAxes; ++c) {
    if (c < C) {
      cell[c] ^= cell[c - 1];
      last = cell[c];
    }
  }
  uint32_t flips = 0;
  for (uint32_t bit = 1U << (bits - 1); bit > 1; bit /= 2) {
    flips ^= (last & bit) != 0 ? bit - 1 : 0U;
  }
  uint32_t key = sample;
  for (int bit = bits - 1; bit >= 0; --bit) {
#pragma unroll
    for (int c = 0; c < kAxes; ++c) {
      if (c < C) {
        key = key << 1 | ((cell[c] ^ flips) >> bit & 1U);
      }
    }
  }
  return key;
}

// A thread finds the position of a row on the curve, after those of the samples before. Cells are cubes; rows outside
// the points' extent are taken into a cell at its border. Safe: one writer each.
template <class T>
__global__ void __launch_bounds__(kExtentThreads) knn_curve_kernel(KnnCurveParams<T> p) {
  using A = Acc<T>;
  static_assert(kExtentBlocks == kExtentThreads);
  const KnnBox<A> extent = block_box(p.extent[threadIdx.x]);
  A longest = 0;
#pragma unroll
  for (int c = 0; c < kAxes; ++c) {
    longest = max(longest, extent.high[c] - extent.low[c]);
  }
  const int last = (1 << p.axis_bits) - 1;
  const A cells = static_cast<A>(last + 1);
  const bool spread = longest > A(0) && is_finite(longest);  // otherwise every row goes into cell 0
  for (int64_t row = first_item(); row < p.rows; row += item_stride()) {
    const int64_t sample = quotient(row, p.size);
    uint32_t cell[kAxes] = {};
#pragma unroll
    for (int c = 0; c < kAxes; ++c) {
      if (c < p.C && spread) {
        const A along = (static_cast<A>(p.points[row * p.C + c]) - extent.low[c]) / longest * cells;
        cell[c] = static_cast<uint32_t>(min(max(along, A(0)), static_cast<A>(last)));
      }
    }
    p.key[row] = curve_key(static_cast<uint32_t>(sample), cell, static_cast<int>(p.C), p.axis_bits);
    p.number[row] = static_cast<uint32_t>(row - sample * p.size);
  }
}

// A warp finds the box of kBoxPoints points of one sample that follow each other on the curve. Every point passes here,
// so NaN and inf are seen. Safe: one writer each.
template <class T>
__global__ void __launch_bounds__(kExtentThreads) knn_boxes_kernel(KnnBoxParams<T> p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t box = first_item() / 32; box < p.n.B * p.leaves; box += item_stride() / 32) {
    const int64_t sample = quotient(box, p.leaves);
    const int64_t first = (box - sample * p.leaves) * kBoxPoints;
    KnnBox<Acc<T>> mine = empty_box<Acc<T>>();
    for (int64_t i = first + lane; i < min(first + kBoxPoints, p.n.N); i += 32) {
      join_point(mine, p.x + (sample * p.n.N + p.x_number[sample * p.n.N + i]) * p.n.C, p.n.C);
    }
    mine = warp_box(mine);
    if (lane == 0) {
      p.boxes[box] = mine;
    }
  }
}

// The box of points at which the tile's queries lie on the curve: a first guess of which is nearest.
template <class T>
__device__ __forceinline__ int box_of_queries(const KnnBoxParams<T>& p, const KnnRegion& region) {
  if (p.x_number == p.y_number) {
    return region.first_query / kBoxPoints;
  }
  const uint32_t key = p.y_key[region.query_row + region.first_query];
  int low = 0;
  int high = region.points - 1;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (p.x_key[region.point_row + middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low / kBoxPoints;
}

// The block offers the points of one box to the lists of its tile, and returns the largest last entry of a list.
template <class Shape, int kSlots>
__device__ __forceinline__ typename Shape::Value visit_box(
    const KnnBoxParams<typename Shape::Element>& p, const KnnListMemory<Shape>& memory, int box) {
  using A = typename Shape::Value;
  static_assert(Shape::kCols == kBoxPoints && Shape::kRows <= 32 && Shape::kArithmetic == KnnArithmetic::kShort);
  const KnnRegion& region = *memory.region;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kCols; i += kKnnThreads) {
    const int64_t at = int64_t(box) * kBoxPoints + i;
    memory.points[i] = at < region.points ? static_cast<int>(p.x_number[region.point_row + at]) : -1;
  }
  __syncthreads();
  offer_points<Shape, kSlots, 1>(p, memory, false);
  const A last = lane < Shape::kRows && memory.queries[lane] >= 0 ? memory.list(lane).dist[p.length - 1] : A(-1);
  return warp_max(last);
}

// Position `at` of a curve that is `count` long and closed; -count <= at < 2 * count.
__device__ __forceinline__ int around_curve(int at, int count) {
  return at < 0 ? at + count : (at < count ? at : at - count);
}

// The first of kKnnThreads boxes from `from` on that is no farther away than `reach`, or kKnnThreads. All threads of
// the warp call, with the same arguments.
template <class A>
__device__ __forceinline__ int next_box(const A* away, int from, A reach) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int first = from / 32 * 32; first < kKnnThreads; first += 32) {
    const unsigned near = __ballot_sync(kFullWarp, first + lane >= from && away[first + lane] <= reach);
    if (near != 0) {
      return first + __ffs(static_cast<int>(near)) - 1;
    }
  }
  return kKnnThreads;
}

// Shared memory: that of the lists, then the boxes' distances.
template <class Shape>
constexpr int64_t knn_box_shared_bytes(int64_t length) {
  return KnnListMemory<Shape>::bytes(length) + kKnnThreads * int64_t(sizeof(typename Shape::Value));
}

// A block computes the lists of kRows queries that follow each other on the curve, and goes on to the tile gridDim.x
// further. It begins with the box at which they lie, then takes kKnnThreads boxes after the other, a thread each, in
// the order of the curve from a little before that one on and around; of these it visits those that are near enough
// once it is their turn. Safe: as knn_list_kernel; the boxes' distances are replaced after a barrier, and every thread
// of the block chooses the same box, from the same distances.
template <class Shape, int kSlots>
__global__ void __launch_bounds__(kKnnThreads, sizeof(typename Shape::Value) == 8 ? 2 : 4)
    knn_box_list_kernel(KnnBoxParams<typename Shape::Element> p) {
  using A = typename Shape::Value;
  const KnnListMemory<Shape> memory(p.length);
  A* away = memory.template after<A>();  // [kKnnThreads] how far the boxes are; NaN for none
  KnnRegion& region = *memory.region;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    if (threadIdx.x == 0) {
      region = knn_region(p, tile, Shape::kRows);
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kRows; i += kKnnThreads) {
      const int64_t at = int64_t(region.first_query) + i;
      memory.queries[i] = at < region.queries ? static_cast<int>(p.y_number[region.query_row + at]) : -1;
      memory.ceilings[i] = A(-1);
    }
    clear_list(memory.lists, Shape::kRows * p.length, static_cast<int>(threadIdx.x), kKnnThreads);
    __syncthreads();
    KnnBox<A> around = empty_box<A>();
    if (lane < Shape::kRows && memory.queries[lane] >= 0) {
      join_point(around, p.y + (region.query_row + memory.queries[lane]) * p.n.C, p.n.C);
    }
    around = warp_box(around);
    const int boxes = static_cast<int>(p.leaves);
    const KnnBox<A>* sample_boxes = p.boxes + quotient(region.point_row, p.n.N) * p.leaves;
    const int nearest = box_of_queries(p, region);
    const int start = nearest - min(kKnnThreads / 2, boxes / 2);
    A reach = visit_box<Shape, kSlots>(p, memory, nearest);
    for (int first = 0; first < boxes; first += kKnnThreads) {
      const int mine = around_curve(start + first + static_cast<int>(threadIdx.x), boxes);
      const bool other = first + static_cast<int>(threadIdx.x) < boxes && mine != nearest;
      away[threadIdx.x] = other ? box_distance(sample_boxes[mine], around) : static_cast<A>(NAN);
      __syncthreads();
      for (int next = next_box(away, 0, reach); next < kKnnThreads; next = next_box(away, next + 1, reach)) {
        reach = visit_box<Shape, kSlots>(p, memory, around_curve(start + first + next, boxes));
      }
      __syncthreads();
    }
    for (int q = static_cast<int>(threadIdx.x) / 32; q < Shape::kRows; q += kKnnWarps) {
      if (memory.queries[q] >= 0) {
        store_list(p, memory.list(q), region.query_row + memory.queries[q], region.index_base);
      }
    }
    __syncthreads();
  }
}

}  // namespace polygraph

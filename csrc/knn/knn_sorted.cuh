// CUDA k-NN with lists in global memory, for every k: thousands, or all points.
//
// A query has a sorted list of at most k points and after it kFresh unsorted newcomers. A block appends what comes
// before the list's last entry; when a query's newcomers may not hold another tile, the block sorts them and merges
// them into the list. A point is appended k (1 + ln(N/k)) times per query on average, so a list is merged
// k (1 + ln(N/k)) / kFresh + 1 times; in the worst case, points in descending order, N / kFresh times. Scratch is
// 2 k + kFresh entries for each query that some block is working on, whatever N and M.
//
// Most points of the first tiles enter, so distances are exact at once (kShort, kLanes): three instructions a channel
// and pair. Floor on an H200: 3 C pairs / 3.0e13 s, 110 us for 4 x 2048 x 2048 pairs of 64 channels; an A100 takes 1.6
// times as long. Merging takes longer than that: a sort of kFresh entries is 55 steps with a barrier each, and searches
// go to global memory. k = 500 is expected to take 450 to 600 us in all.
#pragma once

#include "knn/knn_list.cuh"

namespace polygraph {

constexpr int kFresh = 1024;  // a power of two, and more than a tile's points

// Scratch entries of one query: the list, the list that a merge writes, the newcomers.
__host__ __device__ __forceinline__ int64_t knn_scratch_entries(int64_t k) {
  return 2 * k + kFresh;
}

// Shared memory of a tile, or of kFresh entries to sort.
template <class Shape>
constexpr int64_t kSortedWorkBytes = std::max<int64_t>(
    Shape::kWork * sizeof(typename Shape::Value), kFresh * (sizeof(typename Shape::Value) + sizeof(int)));

// What a block knows of the queries of its tile, in shared memory.
template <class A>
struct KnnProgress {
  A* last;           // [kRows] the last entry of each full list; (inf, kNoPoint) while it is not full
  int* last_number;  // [kRows]
  int* held;         // [kRows] entries of the list
  int* fresh;        // [kRows] newcomers
  int* side;         // [kRows] which of the two lists is the current one
};

// The number of entries of the sorted list that come before (d, number).
template <class A>
__device__ __forceinline__ int entries_before(const A* dist, const int* numbers, int count, A d, int number) {
  int low = 0;
  int high = count;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (comes_before(dist[middle], numbers[middle], d, number)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Bitonic sort of `size` entries (a power of two, 2 at least) in shared memory by the whole block; ends with a barrier.
// Safe: in each step an entry belongs to one pair and a pair to one thread; a barrier parts the steps.
template <class A>
__device__ __forceinline__ void sort_entries(A* dist, int* number, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int reach = run / 2; reach > 0; reach /= 2) {
      __syncthreads();
      for (int pair = static_cast<int>(threadIdx.x); pair < size / 2; pair += kKnnThreads) {
        const int low = 2 * pair - (pair & (reach - 1));
        const int high = low + reach;
        const A d = dist[low];
        const A e = dist[high];
        const int n = number[low];
        const int m = number[high];
        if (comes_before(e, m, d, n) == ((low & run) == 0)) {
          dist[low] = e;
          dist[high] = d;
          number[low] = m;
          number[high] = n;
        }
      }
    }
  }
  __syncthreads();
}

// The whole block sorts the newcomers of query q of its tile and merges them into the list: every entry of either finds
// its position by counting those of the other that come before it. `sorted` is shared memory for kFresh entries, whose
// contents are lost. Safe: a merge reads one list and writes the other, with barriers before and after; global memory
// written by the block's threads is seen by all of them after a barrier.
template <class A>
__device__ __forceinline__ void settle_newcomers(
    const KnnProgress<A>& progress, int q, const KnnList<A>& scratch, int k, const KnnList<A>& sorted) {
  const int held = progress.held[q];
  const int fresh = progress.fresh[q];
  const int64_t from = progress.side[q] == 0 ? 0 : k;
  const int64_t to = k - from;
  int size = 2;
  while (size < fresh) {
    size *= 2;
  }
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kKnnThreads) {
    sorted.dist[i] = i < fresh ? scratch.dist[2 * int64_t(k) + i] : infinity<A>();
    sorted.number[i] = i < fresh ? scratch.number[2 * int64_t(k) + i] : kNoPoint;
  }
  sort_entries(sorted.dist, sorted.number, size);
  const A* list = scratch.dist + from;
  const int* list_number = scratch.number + from;
  for (int64_t i = threadIdx.x; i < held; i += kKnnThreads) {
    const int64_t place = i + entries_before(sorted.dist, sorted.number, fresh, list[i], list_number[i]);
    if (place < k) {
      scratch.dist[to + place] = list[i];
      scratch.number[to + place] = list_number[i];
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < fresh; i += kKnnThreads) {
    const A d = sorted.dist[i];
    const int64_t place = int64_t(i) + entries_before(list, list_number, held, d, sorted.number[i]);
    if (place < k) {
      scratch.dist[to + place] = d;
      scratch.number[to + place] = sorted.number[i];
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const bool full = k - held <= fresh;
    progress.held[q] = full ? k : held + fresh;
    progress.fresh[q] = 0;
    progress.side[q] ^= 1;
    progress.last[q] = full ? scratch.dist[to + k - 1] : infinity<A>();
    progress.last_number[q] = full ? scratch.number[to + k - 1] : kNoPoint;
  }
  __syncthreads();
}

// One warp appends the candidates of a tile of points to the newcomers of query q, in the order of the points.
template <class Shape>
__device__ __forceinline__ void append_tile(
    const KnnParams<typename Shape::Element>& p, const typename Shape::Value* results, const int* points, int query,
    int q, const KnnProgress<typename Shape::Value>& progress, const KnnList<typename Shape::Value>& newcomers) {
  using A = typename Shape::Value;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const A last = progress.last[q];
  const int last_number = progress.last_number[q];
  int fresh = progress.fresh[q];
#pragma unroll
  for (int v = 0; v < Shape::kPerLane; ++v) {
    const A d = results[v * 32 + lane];
    const int point = points[v * 32 + lane];
    const bool enters = point >= 0 && comes_before(d, point, last, last_number) && knn_allowed(p, query, point);
    const unsigned mask = __ballot_sync(kFullWarp, enters);
    if (enters) {
      const int to = fresh + __popc(mask & ((1U << lane) - 1));
      newcomers.dist[to] = d;
      newcomers.number[to] = point;
    }
    fresh += __popc(mask);
  }
  __syncwarp();
  if (lane == 0) {
    progress.fresh[q] = fresh;
  }
}

// The whole block merges the remaining newcomers and writes the finished lists of its tile.
template <class T>
__device__ __forceinline__ void finish_tile(
    const KnnParams<T>& p, const KnnRegion& region, const int* queries, int rows, const KnnProgress<Acc<T>>& progress,
    const KnnList<Acc<T>>& scratch, const KnnList<Acc<T>>& sorted) {
  const int k = static_cast<int>(p.n.k);
  for (int q = 0; q < rows; ++q) {
    if (queries[q] < 0) {
      continue;
    }
    const int64_t at = q * knn_scratch_entries(k);
    settle_newcomers(progress, q, {scratch.dist + at, scratch.number + at}, k, sorted);
    CUDA_KERNEL_ASSERT_MSG(progress.held[q] == k, "knn: a query has fewer candidates than k");
    const int64_t from = at + (progress.side[q] == 0 ? 0 : k);
    const int64_t row = (region.query_row + queries[q]) * p.n.k;
    for (int64_t i = threadIdx.x; i < k; i += kKnnThreads) {
      p.index[row + i] = region.index_base + scratch.number[from + i];
      p.dist2[row + i] = scratch.dist[from + i];
    }
  }
}

// A block computes the lists of kRows queries over all of their candidates, then those of the tile gridDim.x further:
// there are as many blocks as scratch allows. Reads as knn_list_kernel. Safe: a block's scratch is its own; in it, a
// query's newcomers are appended by one warp and settled by all after a barrier.
template <class Shape, int kVec>
__global__ void __launch_bounds__(kKnnThreads, sizeof(typename Shape::Value) == 8 ? 2 : 3)
    knn_sorted_kernel(KnnParams<typename Shape::Element> p) {
  using A = typename Shape::Value;
  constexpr int kRows = Shape::kRows;
  const int k = static_cast<int>(p.n.k);
  A* work = reinterpret_cast<A*>(polygraph_shared_memory);  // of a tile, or kFresh entries to sort
  const KnnList<A> sorted{work, reinterpret_cast<int*>(work + kFresh)};
  KnnRegion& region = *reinterpret_cast<KnnRegion*>(polygraph_shared_memory + kSortedWorkBytes<Shape>);
  A* last = reinterpret_cast<A*>(&region + 1);
  int* ints = reinterpret_cast<int*>(last + kRows);
  const KnnProgress<A> progress{last, ints, ints + kRows, ints + 2 * kRows, ints + 3 * kRows};
  int* queries = ints + 4 * kRows;  // [kRows]
  int* points = ints + 5 * kRows;   // [kCols]
  const int64_t per_query = knn_scratch_entries(k);
  const int64_t mine = int64_t(blockIdx.x) * kRows * per_query;
  const KnnList<A> scratch{p.part_dist + mine, p.part_number + mine};
  check_knn_pointers(p);
  for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    if (threadIdx.x == 0) {
      region = knn_region(p, tile, kRows);
    }
    __syncthreads();
    const int64_t end = region.empty() ? 0 : region.candidates;
    for (int i = static_cast<int>(threadIdx.x); i < kRows; i += kKnnThreads) {
      queries[i] = knn_query(p, region, i, kRows);
      progress.held[i] = progress.fresh[i] = progress.side[i] = 0;
      progress.last[i] = infinity<A>();
      progress.last_number[i] = kNoPoint;
    }
    for (int64_t first = 0; first < end; first += Shape::kCols) {
      for (int i = static_cast<int>(threadIdx.x); i < Shape::kCols; i += kKnnThreads) {
        points[i] = knn_point(p, region, first + i, end);
      }
      __syncthreads();
      tile_distances<Shape, kVec>(
          p.x + region.point_row * p.n.C, p.y + region.query_row * p.n.C, p.n.C, queries, points, work);
      for (int q = static_cast<int>(threadIdx.x) / 32; q < kRows; q += kKnnWarps) {
        if (queries[q] >= 0) {
          const int64_t at = q * per_query + 2 * int64_t(k);
          append_tile<Shape>(
              p, work + q * Shape::kResultStride, points, queries[q], q, progress,
              {scratch.dist + at, scratch.number + at});
        }
      }
      __syncthreads();
      for (int q = 0; q < kRows; ++q) {
        if (progress.fresh[q] > kFresh - Shape::kCols) {
          const int64_t at = q * per_query;
          settle_newcomers(progress, q, {scratch.dist + at, scratch.number + at}, k, sorted);
        }
      }
    }
    __syncthreads();
    finish_tile(p, region, queries, kRows, progress, scratch, sorted);
    __syncthreads();
  }
}

}  // namespace polygraph

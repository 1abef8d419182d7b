// CUDA k-NN with the lists of the k nearest in shared memory: k <= 32 * kSlots.
//
// A block computes the distances of its tile of queries to one tile of points after the other; after each, a warp takes
// its queries in turn and keeps what belongs in their lists. A candidate enters a list of N points k (1 + ln(N/k))
// times on average, so nearly all of the time goes into the distances: with kChain two instructions a channel and pair,
// with kShort about twelve a pair. Expected floor on an H200 (132 x 128 lanes, 1.8 GHz, 3.0e13 instructions a second):
// 2 C pairs / 3.0e13 s, 37 us for 8 x 1024 x 1024 pairs of 66 channels; an A100 (1.9e13) takes 1.6 times as long.
#pragma once

#include "knn/knn_distance.cuh"

namespace polygraph {

// The list of one query, in shared memory, sorted; entries that hold nothing yet are (inf, kNoPoint), which every point
// comes before, also one whose distance overflowed.
template <class A>
struct KnnList {
  A* dist;      // [k]
  int* number;  // [k]
};

// Merges the candidates of the lanes in `mask` (the same in all lanes, distinct numbers, none listed) into the list.
// Every entry and candidate counts who comes before it, which is its place: no step waits for another, and all entries
// are read before any is written. All threads of the warp call; no other warp knows the list.
template <int kSlots, class A>
__device__ __forceinline__ void merge_candidates(const KnnList<A>& list, int k, A d, int number, unsigned mask) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool candidate = (mask >> lane & 1) != 0;
  A entry[kSlots];
  int entry_number[kSlots];
  int entry_place[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int slot = s * 32 + lane;
    entry[s] = slot < k ? list.dist[slot] : infinity<A>();
    entry_number[s] = slot < k ? list.number[slot] : kNoPoint;
    entry_place[s] = slot;
  }
  int place = 0;
  for (; mask != 0; mask &= mask - 1) {
    const int source = __ffs(static_cast<int>(mask)) - 1;
    const A other = __shfl_sync(kFullWarp, d, source);
    const int other_number = __shfl_sync(kFullWarp, number, source);
    int before = 0;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const bool moves = comes_before(other, other_number, entry[s], entry_number[s]);
      entry_place[s] += moves ? 1 : 0;
      before += __popc(__ballot_sync(kFullWarp, !moves));
    }
    place += lane == source ? before : (comes_before(other, other_number, d, number) ? 1 : 0);
  }
  __syncwarp();
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    if (s * 32 + lane < k && entry_place[s] < k) {
      list.dist[entry_place[s]] = entry[s];
      list.number[entry_place[s]] = entry_number[s];
    }
  }
  if (candidate && place < k) {
    list.dist[place] = d;
    list.number[place] = number;
  }
  __syncwarp();
}

// What a distance of the tile must not exceed if its point may belong before the last entry.
template <class Shape>
__device__ __forceinline__ typename Shape::Value knn_limit(
    const KnnParams<typename Shape::Element>& p, typename Shape::Value last) {
  return Shape::kExact ? last : fused_up(last, p.relative, p.absolute);
}

// One warp offers a tile's distances `results` [kCols] to the list of one query. x and y point to the sample's number
// 0. Most tiles have nothing to offer once the list has filled: that is one load, the comparisons and one vote.
template <class Shape, int kSlots>
__device__ __forceinline__ void offer_tile(
    const KnnParams<typename Shape::Element>& p, const typename Shape::Element* x, const typename Shape::Element* y,
    const typename Shape::Value* results, const int* points, int query, const KnnList<typename Shape::Value>& list) {
  using A = typename Shape::Value;
  constexpr int kPer = Shape::kPerLane;
  constexpr int kGroup = kPer < Shape::kGroup ? kPer : Shape::kGroup;
  const int first = static_cast<int>(threadIdx.x) % 32 * kPer;
  const int last = static_cast<int>(p.n.k) - 1;
  A limit = knn_limit<Shape>(p, list.dist[last]);
  A near[kPer];
  bool any = false;
#pragma unroll
  for (int v = 0; v < kPer; v += kGroup) {
    const auto group = load_pack<A, kGroup>(results + first + v);
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      near[v + g] = group.lane[g];
      any = any || group.lane[g] <= limit;
    }
  }
  if (!__any_sync(kFullWarp, any)) {
    return;
  }
#pragma unroll
  for (int v = 0; v < kPer; ++v) {
    const int point = points[first + v];
    const bool passes = near[v] <= limit && point >= 0 && knn_allowed(p, query, point);
    unsigned mask = __ballot_sync(kFullWarp, passes);
    if (mask == 0) {
      continue;
    }
    A d = near[v];
    if constexpr (!Shape::kExact) {
      d = exact_distances(x, y + query * p.n.C, p.n.C, point, mask);
    }
    const bool enters = passes && comes_before(d, point, list.dist[last], list.number[last]);
    mask = __ballot_sync(kFullWarp, enters);
    if (mask != 0) {
      merge_candidates<kSlots>(list, static_cast<int>(p.n.k), d, point, mask);
      limit = knn_limit<Shape>(p, list.dist[last]);
    }
  }
}

// One warp writes a finished list to its row of the results. An entry that holds nothing never gets out.
template <class T>
__device__ __forceinline__ void store_list(
    const KnnParams<T>& p, const KnnList<Acc<T>>& list, int64_t row, int64_t index_base) {
  for (int64_t i = threadIdx.x % 32; i < p.n.k; i += 32) {
    CUDA_KERNEL_ASSERT_MSG(list.number[i] != kNoPoint, "knn: a query has fewer candidates than k");
    p.index[row * p.n.k + i] = index_base + list.number[i];
    p.dist2[row * p.n.k + i] = list.dist[i];
  }
}

// Likewise to the lists of one share of the points.
template <class T>
__device__ __forceinline__ void store_part(
    const KnnParams<T>& p, const KnnList<Acc<T>>& list, int64_t row, int64_t share) {
  const int64_t to = (row * p.shares + share) * p.n.k;
  for (int64_t i = threadIdx.x % 32; i < p.n.k; i += 32) {
    p.part_dist[to + i] = list.dist[i];
    p.part_number[to + i] = list.number[i];
  }
}

template <class A>
__device__ __forceinline__ KnnList<A> clear_list(const KnnList<A>& list, int64_t size, int first, int step) {
  for (int64_t i = first; i < size; i += step) {
    list.dist[i] = infinity<A>();
    list.number[i] = kNoPoint;
  }
  return list;
}

// A block computes the lists of kRows queries over the share blockIdx.y of their candidates, and goes on to the tile
// gridDim.x further. x and y are read through shared memory (KnnStage), kVec channels a load, and again by the few
// candidates of kChain. Safe: a tile's results and numbers are replaced after a barrier behind the last warp that reads
// them; a list belongs to one warp from the first barrier to the last.
template <class Shape, int kSlots, int kVec>
__global__ void __launch_bounds__(kKnnThreads, sizeof(typename Shape::Value) == 8 ? 2 : 4)
    knn_list_kernel(KnnParams<typename Shape::Element> p) {
  using A = typename Shape::Value;
  const int k = static_cast<int>(p.n.k);
  A* work = reinterpret_cast<A*>(polygraph_shared_memory);  // [kWork]
  A* dists = work + Shape::kWork;                           // [kRows, k]
  KnnRegion& region = *reinterpret_cast<KnnRegion*>(dists + Shape::kRows * k);
  const KnnList<A> lists{dists, reinterpret_cast<int*>(&region + 1)};  // [kRows, k]
  int* queries = lists.number + Shape::kRows * k;                      // [kRows]
  int* points = queries + Shape::kRows;                                // [kCols]
  const int warp = static_cast<int>(threadIdx.x) / 32;
  check_knn_pointers(p);
  for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    if (threadIdx.x == 0) {
      region = knn_region(p, tile, Shape::kRows);
    }
    __syncthreads();
    const int64_t begin = quotient(region.candidates * blockIdx.y, p.shares);
    const int64_t end = region.empty() ? begin : quotient(region.candidates * (blockIdx.y + 1), p.shares);
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kRows; i += kKnnThreads) {
      queries[i] = knn_query(p, region, i, Shape::kRows);
    }
    clear_list(lists, Shape::kRows * k, static_cast<int>(threadIdx.x), kKnnThreads);
    for (int64_t first = begin; first < end; first += Shape::kCols) {
      for (int i = static_cast<int>(threadIdx.x); i < Shape::kCols; i += kKnnThreads) {
        points[i] = knn_point(p, region, first + i, end);
      }
      __syncthreads();
      const auto* x = p.x + region.point_row * p.n.C;
      const auto* y = p.y + region.query_row * p.n.C;
      tile_distances<Shape, kVec>(x, y, p.n.C, queries, points, work);
      for (int q = warp; q < Shape::kRows; q += kKnnWarps) {
        if (queries[q] >= 0) {
          const KnnList<A> list{lists.dist + q * k, lists.number + q * k};
          offer_tile<Shape, kSlots>(p, x, y, work + q * Shape::kResultStride, points, queries[q], list);
        }
      }
      __syncthreads();
    }
    __syncthreads();  // also where a share has no candidates
    for (int q = warp; q < Shape::kRows; q += kKnnWarps) {
      const KnnList<A> list{lists.dist + q * k, lists.number + q * k};
      const int64_t row = region.query_row + queries[q];
      if (queries[q] >= 0 && p.shares == 1) {
        store_list(p, list, row, region.index_base);
      } else if (queries[q] >= 0) {
        store_part(p, list, row, blockIdx.y);
      }
    }
    __syncthreads();
  }
}

// A warp joins the lists of all shares of one query, 32 entries at a time; a share is left as soon as 32 entries bring
// nothing, for they are sorted. Safe: each list in shared memory belongs to one warp.
template <class T, int kSlots>
__global__ void __launch_bounds__(kKnnThreads) knn_join_kernel(KnnParams<T> p) {
  using A = Acc<T>;
  const int k = static_cast<int>(p.n.k);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  A* dist = reinterpret_cast<A*>(polygraph_shared_memory);     // [kKnnWarps, k]
  int* number = reinterpret_cast<int*>(dist + kKnnWarps * k);  // [kKnnWarps, k]
  const KnnList<A> list{dist + warp * k, number + warp * k};
  for (int64_t row = int64_t(blockIdx.x) * kKnnWarps + warp; row < p.n.B * p.n.M;
       row += int64_t(gridDim.x) * kKnnWarps) {
    clear_list(list, k, lane, 32);
    __syncwarp();
    for (int64_t share = 0; share < p.shares; ++share) {
      const int64_t from = (row * p.shares + share) * k;
      for (int first = 0; first < k; first += 32) {
        const bool inside = first + lane < k;
        const A d = inside ? p.part_dist[from + first + lane] : infinity<A>();
        const int point = inside ? p.part_number[from + first + lane] : kNoPoint;
        const unsigned mask = __ballot_sync(kFullWarp, comes_before(d, point, list.dist[k - 1], list.number[k - 1]));
        if (mask == 0) {
          break;
        }
        merge_candidates<kSlots>(list, k, d, point, mask);
      }
    }
    store_list(p, list, row, p.y_ptr == nullptr ? 0 : p.x_ptr[knn_sample_of_row(p, row)]);
    __syncwarp();
  }
}

}  // namespace polygraph

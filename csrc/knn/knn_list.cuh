// CUDA k-NN with the lists of the k nearest in shared memory: k <= 32 * kSlots.
//
// A block computes the distances of its tile of queries to one tile of points after the other; after each, a warp takes
// its queries in turn, collects the candidates of the whole tile and merges them into their lists. A candidate enters a
// list of N points `length` (1 + ln(N / length)) times on average. With kChain the lists are by its distance and a few
// entries longer than k; the documented distance is computed once, at the end.
//
// Counted in the machine code of sm_90: a tile of 128 points with C = 64 is 5,200 instructions a warp for distances (of
// which 4,096 subtract and add). A query with nothing to collect takes 34, one with something 130 to collect, 210 for
// every 32 candidates that are sorted and 24 for one of few that are not; the end takes 125 for every 4 documented
// distances and 300. At N = 1024, C = 64, k = 20 that is 42,000 a warp for distances and 35,000 for the lists of its 8
// queries; for C <= 4 the lists take most of it. An H200 starts 132 x 4 x 1.755e9 = 9.3e11 warp instructions a second:
// 8 x 1024 x 1024 pairs of 66 channels take 37 us at least, k = 8 about 75 us if every cycle starts some, and 100 to
// 130 are expected; 16 x 1024 points, C = 64, k = 20, 170 and 220 to 290. An A100 takes 1.6 times as long.
#pragma once

#include "knn/knn_merge.cuh"

namespace polygraph {

// The points of a tile that the query may take and whose distance does not exceed `limit`, as columns of the tile in
// `picks`, ascending. Returns their number. Most tiles have none once the list has filled: that is one load, the
// comparisons and one vote.
template <class Shape>
__device__ __forceinline__ int pick_points(
    const KnnParams<typename Shape::Element>& p, const typename Shape::Value* results, const int* points, int query,
    typename Shape::Value limit, unsigned char* picks) {
  using A = typename Shape::Value;
  constexpr int kPer = Shape::kPerLane;
  constexpr int kGroup = kPer < Shape::kGroup ? kPer : Shape::kGroup;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  bool near[kPer];
  bool any = false;
#pragma unroll
  for (int v = 0; v < kPer; v += kGroup) {
    const auto group = load_pack<A, kGroup>(results + lane * kPer + v);
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      near[v + g] = group.lane[g] <= limit;
      any = any || near[v + g];
    }
  }
  if (!__any_sync(kFullWarp, any)) {
    return 0;
  }
  int count = 0;
#pragma unroll
  for (int v = 0; v < kPer; ++v) {
    const int col = lane * kPer + v;
    const int point = points[col];
    const bool passes = near[v] && point >= 0 && knn_allowed(p, query, point);
    const unsigned mask = __ballot_sync(kFullWarp, passes);
    if (passes) {
      picks[count + __popc(mask & ((1U << lane) - 1))] = static_cast<unsigned char>(col);
    }
    count += __popc(mask);
  }
  __syncwarp();
  return count;
}

// One warp offers a tile's distances `results` [kCols] to the list of one query, `length` entries by the tile's
// distance, or, with `exactly`, by the documented one. x and y point to the sample's number 0; no point whose distance
// exceeds `ceiling` is wanted.
template <class Shape, int kSlots>
__device__ __forceinline__ void offer_tile(
    const KnnParams<typename Shape::Element>& p, const typename Shape::Element* x, const typename Shape::Element* y,
    const typename Shape::Value* results, const int* points, unsigned char* picks, int query,
    const KnnList<typename Shape::Value>& list, int length, bool exactly, typename Shape::Value ceiling) {
  using A = typename Shape::Value;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  A limit = list.dist[length - 1];
  if (!Shape::kExact && exactly) {
    limit = min(ceiling, fused_up(limit, p.relative, p.absolute));
  }
  const int count = pick_points<Shape>(p, results, points, query, limit, picks);
#pragma unroll 1
  for (int from = 0; from < count; from += 32) {
    const bool inside = from + lane < count;
    const int col = inside ? picks[from + lane] : 0;
    const int point = inside ? points[col] : kNoPoint;
    A d = inside ? results[col] : infinity<A>();
    if (!Shape::kExact && exactly) {
      d = exact_distances(x, y + query * p.n.C, p.n.C, point, 0, min(count - from, 32));
      d = inside ? d : infinity<A>();
    }
    const bool enters = comes_before(d, point, list.dist[length - 1], list.number[length - 1]);
    const unsigned mask = __ballot_sync(kFullWarp, enters);
    if (mask != 0) {
      merge_candidates<kSlots>(list, length, d, point, mask);
    }
  }
  __syncwarp();  // the picks may be replaced
}

// One warp turns a list of `length` > k entries by the distance of kChain into one by the documented distance, of which
// the first k count. Returns -1 if they are the k nearest of all candidates (knn_distance.cuh says when); otherwise the
// list is empty again, and the distance of kChain of all k nearest is at most what is returned.
template <class Shape, int kSlots>
__device__ __forceinline__ typename Shape::Value finish_list(
    const KnnParams<typename Shape::Element>& p, const typename Shape::Element* x, const typename Shape::Element* y,
    int query, const KnnList<typename Shape::Value>& list, int length) {
  using A = typename Shape::Value;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int k = static_cast<int>(p.n.k);
  const bool all_listed = list.number[length - 1] == kNoPoint;  // there are fewer candidates than entries
  const A last = list.dist[length - 1];
  A farthest = 0;
  A ceiling = 0;
  // The first k, then those that may come before them. Both parts are contiguous: real entries come first, by distance.
#pragma unroll 1
  for (int part = 0; part < 2; ++part) {
#pragma unroll 1
    for (int first = 0; first < length; first += 32) {
      const int slot = first + lane;
      A d = slot < length ? list.dist[slot] : infinity<A>();
      const int number = slot < length ? list.number[slot] : kNoPoint;
      const bool wanted = number != kNoPoint && (part == 0 ? slot < k : slot >= k && d <= ceiling);
      const unsigned mask = __ballot_sync(kFullWarp, wanted);
      if (mask != 0) {
        const A exact =
            exact_distances(x, y + query * p.n.C, p.n.C, number, __ffs(static_cast<int>(mask)) - 1, __popc(mask));
        d = wanted ? exact : d;
      }
      if (part == 0 && slot < k) {
        list.dist[slot] = d;
        farthest = max(farthest, d);
      } else if (part == 1 && slot >= k && slot < length) {
        list.dist[slot] = wanted ? d : infinity<A>();
        list.number[slot] = wanted ? number : kNoPoint;
      }
    }
    farthest = warp_max(farthest);
    ceiling = fused_up(farthest, p.relative, p.absolute);
  }
  if (!all_listed && !(last > ceiling) && farthest > A(0)) {
    clear_list(list, length, lane, 32);
    __syncwarp();
    return ceiling;
  }
  sort_list<kSlots>(list, length);
  return A(-1);
}

// One warp writes a finished list to its row of the results. An entry that holds nothing is an error.
template <class T>
__device__ __forceinline__ void store_list(
    const KnnParams<T>& p, const KnnList<Acc<T>>& list, int64_t row, int64_t index_base) {
  for (int64_t i = threadIdx.x % 32; i < p.n.k; i += 32) {
    CUDA_KERNEL_ASSERT_MSG(list.number[i] != kNoPoint, "knn: a query has fewer candidates than k");
    p.index[row * p.n.k + i] = index_base + list.number[i];
    p.dist2[row * p.n.k + i] = list.dist[i];
  }
}

// One warp writes a finished list to the lists of one share of the points.
template <class T>
__device__ __forceinline__ void store_part(
    const KnnParams<T>& p, const KnnList<Acc<T>>& list, int64_t row, int64_t share) {
  const int64_t to = (row * p.shares + share) * p.n.k;
  for (int64_t i = threadIdx.x % 32; i < p.n.k; i += 32) {
    p.part_dist[to + i] = list.dist[i];
    p.part_number[to + i] = list.number[i];
  }
}

// The layout of the shared memory of a block, with lists of `length` entries.
template <class Shape>
struct KnnListMemory {
  using A = typename Shape::Value;

  A* work;           // [kWork]
  KnnList<A> lists;  // [kRows, length]
  A* ceilings;       // [kRows] of the lists that turned out too short, else -1
  KnnRegion* region;
  int* queries;          // [kRows]
  int* points;           // [kCols]
  unsigned char* picks;  // [kKnnWarps, kCols]
  int length;

  __device__ __forceinline__ explicit KnnListMemory(int length_) : length(length_) {
    work = reinterpret_cast<A*>(polygraph_shared_memory);
    lists.dist = work + Shape::kWork;
    ceilings = lists.dist + Shape::kRows * length;
    region = reinterpret_cast<KnnRegion*>(ceilings + Shape::kRows);
    lists.number = reinterpret_cast<int*>(region + 1);
    queries = lists.number + Shape::kRows * length;
    points = queries + Shape::kRows;
    picks = reinterpret_cast<unsigned char*>(points + Shape::kCols);
  }

  // The memory after this layout.
  template <class V>
  __device__ __forceinline__ V* after() const {
    return reinterpret_cast<V*>(picks + kKnnWarps * Shape::kCols);
  }

  static constexpr int64_t bytes(int64_t length) {
    return (Shape::kWork + Shape::kRows * (length + 1)) * int64_t(sizeof(A)) + int64_t(sizeof(KnnRegion)) +
           (Shape::kRows * (length + 1) + Shape::kCols) * int64_t(sizeof(int)) + kKnnWarps * Shape::kCols;
  }

  __device__ __forceinline__ KnnList<A> list(int q) const {
    return {lists.dist + q * length, lists.number + q * length};
  }
};

// The block offers the points of a tile to the lists of its queries. Comes after a barrier, ends with one.
template <class Shape, int kSlots, int kVec>
__device__ __forceinline__ void offer_points(
    const KnnParams<typename Shape::Element>& p, const KnnListMemory<Shape>& memory, bool exactly) {
  using A = typename Shape::Value;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto* x = p.x + memory.region->point_row * p.n.C;
  const auto* y = p.y + memory.region->query_row * p.n.C;
  tile_distances<Shape, kVec>(x, y, p.n.C, memory.queries, memory.points, memory.work);
  for (int q = warp; q < Shape::kRows; q += kKnnWarps) {
    const A ceiling = memory.ceilings[q];
    if (memory.queries[q] >= 0 && (!exactly || ceiling >= A(0))) {
      offer_tile<Shape, kSlots>(
          p, x, y, memory.work + q * Shape::kResultStride, memory.points, memory.picks + warp * Shape::kCols,
          memory.queries[q], memory.list(q), exactly ? static_cast<int>(p.n.k) : p.length, exactly, ceiling);
    }
  }
  __syncthreads();
}

// The block finishes its lists by the distance of kChain; true if some are too short and are to be filled again. Safe:
// a warp writes the lists and ceilings of its queries, and all are read after a barrier.
template <int kSlots, class Shape>
__device__ __forceinline__ bool finish_lists(
    const KnnParams<typename Shape::Element>& p, const KnnListMemory<Shape>& memory) {
  using A = typename Shape::Value;
  const auto* x = p.x + memory.region->point_row * p.n.C;
  const auto* y = p.y + memory.region->query_row * p.n.C;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int q = static_cast<int>(threadIdx.x) / 32; q < Shape::kRows; q += kKnnWarps) {
    if (memory.queries[q] >= 0) {
      const A ceiling = finish_list<Shape, kSlots>(p, x, y, memory.queries[q], memory.list(q), p.length);
      if (lane == 0) {
        memory.ceilings[q] = ceiling;
      }
    }
  }
  __syncthreads();
  static_assert(Shape::kRows <= 32);
  return __any_sync(kFullWarp, lane < Shape::kRows && memory.ceilings[lane] >= A(0)) != 0;
}

// A block computes the lists of kRows queries over the share blockIdx.y of their candidates, and goes on to the tile
// gridDim.x further. x and y are read through shared memory (KnnStage), kVec channels a load, and again by the few
// candidates of kChain. Queries whose lists of kChain turn out too short go through the candidates once more, with the
// documented distance. Safe: a tile's results and numbers are replaced after a barrier that follows the last warp that
// reads them; a list, a ceiling and a warp's picks belong to one warp from the first barrier to the last.
template <class Shape, int kSlots, int kVec>
__global__ void __launch_bounds__(kKnnThreads, sizeof(typename Shape::Value) == 8 ? 2 : 4)
    knn_list_kernel(KnnParams<typename Shape::Element> p) {
  using A = typename Shape::Value;
  const KnnListMemory<Shape> memory(p.length);
  KnnRegion& region = *memory.region;
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
      memory.queries[i] = knn_query(p, region, i, Shape::kRows);
      memory.ceilings[i] = A(-1);
    }
    clear_list(memory.lists, Shape::kRows * p.length, static_cast<int>(threadIdx.x), kKnnThreads);
    bool exactly = false;
    for (bool again = true; again;) {
      for (int64_t first = begin; first < end; first += Shape::kCols) {
        for (int i = static_cast<int>(threadIdx.x); i < Shape::kCols; i += kKnnThreads) {
          memory.points[i] = knn_point(p, region, first + i, end);
        }
        __syncthreads();
        offer_points<Shape, kSlots, kVec>(p, memory, exactly);
      }
      __syncthreads();  // also where a share has no candidates
      again = false;
      if constexpr (!Shape::kExact) {
        again = !exactly && finish_lists<kSlots>(p, memory);
        exactly = true;
      }
    }
    for (int q = warp; q < Shape::kRows; q += kKnnWarps) {
      const int64_t row = region.query_row + memory.queries[q];
      if (memory.queries[q] >= 0 && p.shares == 1) {
        store_list(p, memory.list(q), row, region.index_base);
      } else if (memory.queries[q] >= 0) {
        store_part(p, memory.list(q), row, blockIdx.y);
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
        const int entry = first + 31 - lane;  // descending
        const A d = entry < k ? p.part_dist[from + entry] : infinity<A>();
        const int point = entry < k ? p.part_number[from + entry] : kNoPoint;
        if (!__any_sync(kFullWarp, comes_before(d, point, list.dist[k - 1], list.number[k - 1]))) {
          break;
        }
        merge_descending<kSlots>(list, k, d, point);
      }
    }
    store_list(p, list, row, p.y_ptr == nullptr ? 0 : p.x_ptr[knn_sample_of_row(p, row)]);
    __syncwarp();
  }
}

}  // namespace polygraph

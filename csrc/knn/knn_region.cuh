// The work of a block of the CUDA k-NN kernels: a tile of queries of one sample, and the points that they may take.
#pragma once

#include "common/cuda_utils.cuh"
#include "knn/knn.h"

namespace polygraph {

constexpr int kKnnThreads = 128;
constexpr int kKnnWarps = kKnnThreads / 32;
constexpr unsigned kFullWarp = 0xffffffffU;
constexpr int kNoPoint = std::numeric_limits<int>::max();  // the number of a list entry that holds no point yet

template <class T>
struct KnnParams : KnnTensors<T, Acc<T>> {
  Acc<T>* part_dist;  // the lists of the shares of the points, [B*M, shares, k], or the lists in progress of the blocks
  int* part_number;   // (knn_sorted.cuh): distances and numbers; null where there are neither
  int length;         // entries of a list in shared memory: k, or more where distances are not exact
  int64_t shares;     // parts that the points are cut into
  int64_t tiles;      // of queries, over all samples
  Acc<T> relative, absolute;  // the error bound of the fast distance (knn_distance.cuh)
  bool packs;                 // C and both addresses allow loads of four channels
};

// The n-th tile of queries. A sample's points and queries are numbered from 0; `int` holds them (knn.h). With a search
// radius, a tile of queries is a rectangle of the image, and its candidates are the rectangle that surrounds it;
// otherwise it is a run of queries, and its candidates are all points of the sample. It lies in shared memory.
struct alignas(16) KnnRegion {
  int64_t point_row, query_row;  // the rows of x and y that are number 0
  int64_t index_base;            // index = index_base + number
  int points, queries;           // in the sample
  int first_query, first_row, first_col;
  int box_row, box_col, box_width;
  int64_t candidates;
  bool window;

  __device__ __forceinline__ bool empty() const {
    return first_query >= queries;
  }
};

// A tile of kQueries pixels is kTileRows rows high.
constexpr int kTileRows = 4;

template <class T>
__device__ __forceinline__ KnnRegion knn_window_region(const KnnParams<T>& p, int64_t tile, int tile_cols) {
  const int height = static_cast<int>(p.n.height);
  const int width = static_cast<int>(p.n.width);
  const int reach = static_cast<int>(p.n.search_radius < p.n.N ? p.n.search_radius : p.n.N);
  const int64_t across = (width + tile_cols - 1) / tile_cols;
  const int64_t down = (height + kTileRows - 1) / kTileRows;
  const int64_t sample = quotient(tile, across * down);
  const int64_t inside = tile - sample * across * down;
  const int64_t band = quotient(inside, across);
  KnnRegion region{};
  region.point_row = sample * p.n.N;
  region.query_row = region.point_row;
  region.points = static_cast<int>(p.n.N);
  region.queries = region.points;
  region.first_row = static_cast<int>(band) * kTileRows;
  region.first_col = static_cast<int>(inside - band * across) * tile_cols;
  region.box_row = max(region.first_row - reach, 0);
  region.box_col = max(region.first_col - reach, 0);
  const int64_t row_end = min(static_cast<int64_t>(height), int64_t(region.first_row) + kTileRows + reach);
  const int64_t col_end = min(static_cast<int64_t>(width), int64_t(region.first_col) + tile_cols + reach);
  region.box_width = static_cast<int>(col_end - region.box_col);
  region.candidates = (row_end - region.box_row) * region.box_width;
  region.window = true;
  return region;
}

// The last s of [0, samples) for which fits(s), which holds from 0 on up to there; 0 if nowhere.
template <class Fits>
__device__ __forceinline__ int64_t knn_last_sample(int64_t samples, const Fits& fits) {
  int64_t low = 0;
  int64_t high = samples;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

// The last sample whose y_ptr is at most `row`: the one that query row belongs to.
template <class T>
__device__ __forceinline__ int64_t knn_sample_of_row(const KnnParams<T>& p, int64_t row) {
  return knn_last_sample(p.n.S, [&](int64_t s) { return p.y_ptr[s] <= row; });
}

// Which sample a ragged tile belongs to. Sample s owns the tiles from y_ptr[s] / kQueries + s on: this rises with s and
// is enough for all tiles of every sample, so the launch needs the shapes alone. Some tiles have no queries.
template <class T>
__device__ __forceinline__ int64_t knn_sample_of_tile(const KnnParams<T>& p, int64_t tile, int tile_queries) {
  return knn_last_sample(p.n.S, [&](int64_t s) { return quotient(p.y_ptr[s], tile_queries) + s <= tile; });
}

template <class T>
__device__ __forceinline__ KnnRegion knn_region(const KnnParams<T>& p, int64_t tile, int tile_queries) {
  if (p.n.search_radius >= 0) {
    return knn_window_region(p, tile, tile_queries / kTileRows);
  }
  KnnRegion region{};
  if (p.y_ptr == nullptr) {
    const int64_t tiles = (p.n.M + tile_queries - 1) / tile_queries;
    const int64_t sample = quotient(tile, tiles);
    region.point_row = sample * p.n.N;
    region.query_row = sample * p.n.M;
    region.points = static_cast<int>(p.n.N);
    region.queries = static_cast<int>(p.n.M);
    region.first_query = static_cast<int>((tile - sample * tiles) * tile_queries);
  } else {
    const int64_t sample = knn_sample_of_tile(p, tile, tile_queries);
    region.point_row = p.x_ptr[sample];
    region.query_row = p.y_ptr[sample];
    const int64_t point_end = p.x_ptr[sample + 1];
    const int64_t query_end = p.y_ptr[sample + 1];
    CUDA_KERNEL_ASSERT_MSG(
        region.point_row >= 0 && region.point_row <= point_end && point_end <= p.n.N && region.query_row >= 0 &&
            region.query_row <= query_end && query_end <= p.n.M,
        "knn: ptr must rise from 0 to N, y_ptr from 0 to M");
    region.index_base = region.point_row;
    region.points = static_cast<int>(point_end - region.point_row);
    region.queries = static_cast<int>(query_end - region.query_row);
    const int64_t before = tile - (quotient(region.query_row, tile_queries) + sample);
    region.first_query = static_cast<int>(min(before * tile_queries, int64_t(region.queries)));
    CUDA_KERNEL_ASSERT_MSG(
        region.empty() || p.n.k <= region.points - (p.n.exclude_self ? 1 : 0),
        "knn: a sample has fewer candidates than k");
  }
  region.candidates = region.points;
  return region;
}

// The number of the tile's i-th query, -1 past the end.
template <class T>
__device__ __forceinline__ int knn_query(const KnnParams<T>& p, const KnnRegion& region, int i, int tile_queries) {
  if (!region.window) {
    const int64_t query = int64_t(region.first_query) + i;
    return query < region.queries ? static_cast<int>(query) : -1;
  }
  const int tile_cols = tile_queries / kTileRows;
  const int row = region.first_row + i / tile_cols;
  const int col = region.first_col + i % tile_cols;
  return row < p.n.height && col < p.n.width ? row * static_cast<int>(p.n.width) + col : -1;
}

// The number of the point that is candidate j < end, -1 past the end.
template <class T>
__device__ __forceinline__ int knn_point(const KnnParams<T>& p, const KnnRegion& region, int64_t j, int64_t end) {
  if (j >= end) {
    return -1;
  }
  const int candidate = static_cast<int>(j);
  if (!region.window) {
    return candidate;
  }
  const int row = candidate / region.box_width;
  return (region.box_row + row) * static_cast<int>(p.n.width) + region.box_col + (candidate - row * region.box_width);
}

// Whether the query may take the point. Read after the distance has been found small enough: the divisions are rare.
template <class T>
__device__ __forceinline__ bool knn_allowed(const KnnParams<T>& p, int query, int point) {
  if (p.n.exclude_self) {
    return point != query;
  }
  if (p.n.width == 0) {
    return true;
  }
  const int width = static_cast<int>(p.n.width);
  const int query_row = query / width;
  const int point_row = point / width;
  const int rows = query_row - point_row;
  const int cols = (query - query_row * width) - (point - point_row * width);
  const int apart = max(rows < 0 ? -rows : rows, cols < 0 ? -cols : cols);
  return apart > p.n.exclude_radius && (p.n.search_radius < 0 || apart <= p.n.search_radius);
}

// Both pointers rise from 0 to the number of rows, and are the same if points are their own queries. One block asks.
template <class T>
__device__ __forceinline__ void check_knn_pointers(const KnnParams<T>& p) {
  if (p.y_ptr == nullptr || blockIdx.x != 0 || blockIdx.y != 0) {
    return;
  }
  const int64_t S = p.n.S;
  bool good = p.x_ptr[0] == 0 && p.y_ptr[0] == 0 && p.x_ptr[S] == p.n.N && p.y_ptr[S] == p.n.M;
  for (int64_t s = threadIdx.x; s < S; s += blockDim.x) {
    good = good && p.x_ptr[s] <= p.x_ptr[s + 1] && p.y_ptr[s] <= p.y_ptr[s + 1];
    good = good && (!p.n.exclude_self || p.x_ptr[s] == p.y_ptr[s]);
  }
  CUDA_KERNEL_ASSERT_MSG(good, "knn: ptr must rise from 0 to N, y_ptr from 0 to M, equal with exclude_self");
}

}  // namespace polygraph

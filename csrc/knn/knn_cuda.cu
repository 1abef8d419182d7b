// CUDA nearest neighbors: which kernel, how many blocks, how much scratch. Everything follows from the shapes: the
// values of ptr stay on the device, nothing waits for it, and all memory is torch's, so that a graph can capture it.
#include <bit>

#include "common/radix_sort.cuh"
#include "knn/knn_boxes.cuh"
#include "knn/knn_sorted.cuh"

namespace polygraph {
namespace {

constexpr int kListQueries = 32;    // of a tile with short lists
constexpr int kLongQueries = 16;    // of a tile with long lists, which take more memory
constexpr int64_t kListMost = 128;  // the largest k whose lists lie in shared memory
// More entries than k of a list by the distance of kChain: points about as far as the k-th must all be listed.
constexpr int64_t kSpareEntries = 8;
constexpr int64_t kLeastSpareEntries = 4;
// Blocks to aim at: a few for each multiprocessor, so that they end together.
constexpr int64_t kEnoughBlocks = 1024;
// Points of a share, at least: each share fills its lists from nothing.
constexpr int64_t kSharePoints = 1024;
// From here on a sort and the boxes' distances cost less than the pairs that they save.
constexpr int64_t kBoxLeastPoints = 16384;
constexpr int64_t kBoxLeastQueries = 4096;
// Scratch of the lists in global memory, unless the results themselves are larger.
constexpr int64_t kScratchBytes = int64_t(256) << 20;

int64_t query_tiles(const KnnSizes& n, int64_t queries) {
  if (n.search_radius >= 0) {
    return n.B * ceil_div(n.height, kTileRows) * ceil_div(n.width, queries / kTileRows);
  }
  return n.S >= 0 ? n.M / queries + n.S : n.B * ceil_div(n.M, queries);
}

// A rough number of candidates of a tile, at most.
int64_t most_candidates(const KnnSizes& n, int64_t queries) {
  if (n.search_radius < 0) {
    return n.N;
  }
  const int64_t reach = std::min(n.search_radius, n.N);
  return std::min(n.height, 2 * reach + kTileRows) * std::min(n.width, 2 * reach + queries / kTileRows);
}

template <class Shape, int kSlots, int kVec>
void launch_knn_list(KnnParams<typename Shape::Element> p, const Tensor& like, const DeviceScope& scope) {
  using T = typename Shape::Element;
  using A = Acc<T>;
  constexpr int64_t kSpare = Shape::kExact ? 0 : kSpareEntries;
  constexpr int64_t kLongest = std::min<int64_t>(32 * kSlots, kListMost + kSpare);
  static_assert(KnnListMemory<Shape>::bytes(kLongest) <= kMaxSharedBytes);
  p.length = static_cast<int>(std::min(p.n.k + kSpare, kLongest));
  p.tiles = query_tiles(p.n, Shape::kRows);
  p.shares = std::min(
      ceil_div(kEnoughBlocks, p.tiles), std::max<int64_t>(1, most_candidates(p.n, Shape::kRows) / kSharePoints));
  Tensor part_dist;
  Tensor part_number;
  if (p.shares > 1) {
    const int64_t entries = p.n.B * p.n.M * p.shares * p.n.k;
    part_dist = new_accumulators(like, entries);
    part_number = torch::stable::new_empty(like, {entries}, ScalarType::Int);
    p.part_dist = mutable_data<A>(part_dist);
    p.part_number = mutable_data<int>(part_number);
  }
  const LaunchShape shape{std::min(p.tiles, kMaxBlocksX), p.shares, kKnnThreads, KnnListMemory<Shape>::bytes(p.length)};
  start_kernel(shape, scope, knn_list_kernel<Shape, kSlots, kVec>, p);
  if (p.shares > 1) {
    static_assert(kKnnWarps * kListMost * int64_t(sizeof(A) + sizeof(int)) <= kMaxSharedBytes);
    const LaunchShape join{
        std::min(ceil_div(p.n.B * p.n.M, kKnnWarps), kMaxBlocksX), 1, kKnnThreads,
        kKnnWarps * p.n.k * int64_t(sizeof(A) + sizeof(int))};
    start_kernel(join, scope, knn_join_kernel<T, kSlots>, p);
  }
}

bool takes_boxes(const KnnSizes& n) {
  return n.C >= 1 && n.C <= kAxes && n.k <= kListMost && n.S < 0 && n.height == 0 && n.N >= kBoxLeastPoints &&
         n.M >= kBoxLeastQueries && n.B * std::max(n.N, n.M) <= kMostSorted;
}

// The rows of `points` [B, size, C] in the order of the curve.
template <class T>
SortedPairs launch_knn_curve(
    const KnnBoxParams<T>& p, const T* points, int64_t size, const SortBuffers& buffers, const Tensor& like,
    const DeviceScope& scope) {
  const int64_t rows = p.n.B * size;
  const KnnCurveParams<T> curve{points, p.extent, rows, size, p.n.C, p.axis_bits, buffers.key(0), buffers.value(0)};
  const LaunchShape shape{
      strided_blocks(rows, 4 * kExtentThreads), 1, kExtentThreads,
      kExtentThreads / 32 * int64_t(sizeof(KnnBox<Acc<T>>))};
  start_kernel(shape, scope, knn_curve_kernel<T>, curve);
  return sort_pairs(buffers, rows, (p.n.B << (p.axis_bits * p.n.C)) - 1, like, scope);
}

template <class Shape, int kSlots>
void launch_knn_boxes(const KnnParams<typename Shape::Element>& base, const Tensor& like, const DeviceScope& scope) {
  using T = typename Shape::Element;
  using A = typename Shape::Value;
  static_assert(knn_box_shared_bytes<Shape>(std::min<int64_t>(32 * kSlots, kListMost)) <= kMaxSharedBytes);
  KnnBoxParams<T> p{};
  static_cast<KnnParams<T>&>(p) = base;
  p.length = static_cast<int>(p.n.k);
  p.tiles = query_tiles(p.n, Shape::kRows);
  p.shares = 1;
  p.leaves = ceil_div(p.n.N, kBoxPoints);
  const int sample_bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(p.n.B - 1)));
  p.axis_bits = std::min(kMostAxisBits, (32 - sample_bits) / static_cast<int>(p.n.C));
  constexpr int64_t kBoxValues = sizeof(KnnBox<A>) / sizeof(A);
  const Tensor boxes = new_accumulators(like, (kExtentBlocks + p.n.B * p.leaves) * kBoxValues);
  p.extent = reinterpret_cast<KnnBox<A>*>(mutable_data<A>(boxes));
  p.boxes = p.extent + kExtentBlocks;
  const int64_t warps = kExtentThreads / 32;
  start_kernel({kExtentBlocks, 1, kExtentThreads, warps * int64_t(sizeof(KnnBox<A>))}, scope, knn_extent_kernel<T>, p);
  const bool same = p.x == p.y && p.n.N == p.n.M;
  const SortBuffers x_buffers(like, p.n.B * p.n.N);
  const SortBuffers y_buffers(like, same ? 0 : p.n.B * p.n.M);
  const SortedPairs x = launch_knn_curve(p, p.x, p.n.N, x_buffers, like, scope);
  const SortedPairs y = same ? x : launch_knn_curve(p, p.y, p.n.M, y_buffers, like, scope);
  p.x_key = x.key;
  p.x_number = x.value;
  p.y_key = y.key;
  p.y_number = y.value;
  start_kernel({strided_blocks(p.n.B * p.leaves, warps), 1, kExtentThreads, 0}, scope, knn_boxes_kernel<T>, p);
  const LaunchShape shape{std::min(p.tiles, kMaxBlocksX), 1, kKnnThreads, knn_box_shared_bytes<Shape>(p.length)};
  start_kernel(shape, scope, knn_box_list_kernel<Shape, kSlots>, p);
}

template <class Shape, int kVec>
void launch_knn_sorted(KnnParams<typename Shape::Element> p, const Tensor& like, const DeviceScope& scope) {
  using A = typename Shape::Value;
  p.tiles = query_tiles(p.n, Shape::kRows);
  p.shares = 1;
  const int64_t per_block = Shape::kRows * knn_scratch_entries(p.n.k);
  const int64_t entry = sizeof(A) + sizeof(int);
  const int64_t allowed = std::max(kScratchBytes, p.n.B * p.n.M * p.n.k * entry);
  const int64_t blocks = std::max<int64_t>(1, std::min({p.tiles, kEnoughBlocks, allowed / (per_block * entry)}));
  const Tensor dist = new_accumulators(like, blocks * per_block);
  const Tensor number = torch::stable::new_empty(like, {blocks * per_block}, ScalarType::Int);
  p.part_dist = mutable_data<A>(dist);
  p.part_number = mutable_data<int>(number);
  constexpr int64_t kShared = kSortedWorkBytes<Shape> + sizeof(KnnRegion) + Shape::kRows * int64_t(sizeof(A)) +
                              (5 * Shape::kRows + Shape::kCols) * int64_t(sizeof(int));
  static_assert(kShared <= kMaxSharedBytes);
  start_kernel({blocks, 1, kKnnThreads, kShared}, scope, knn_sorted_kernel<Shape, kVec>, p);
}

// Calls fn(packs) with the width of loads as a type.
template <class F>
void with_loads(bool packs, const F& fn) {
  if (packs) {
    fn(std::integral_constant<int, 4>());
  } else {
    fn(std::integral_constant<int, 1>());
  }
}

template <class Shape, int kSlots, int kVec>
void launch_knn_shape(const KnnParams<typename Shape::Element>& p, const Tensor& like, const DeviceScope& scope) {
  if constexpr (Shape::kArithmetic == KnnArithmetic::kShort) {
    if (takes_boxes(p.n)) {
      launch_knn_boxes<Shape, kSlots>(p, like, scope);
      return;
    }
  }
  launch_knn_list<Shape, kSlots, kVec>(p, like, scope);
}

template <class T>
void launch_knn(const KnnParams<T>& p, const Tensor& like, const DeviceScope& scope) {
  using enum KnnArithmetic;
  const int64_t k = p.n.k;
  const auto lists = [&]<KnnArithmetic kArithmetic, int kVec>() {
    constexpr bool kExact = kArithmetic != kChain;
    constexpr int kMiddleQueries = sizeof(Acc<T>) == 8 ? kLongQueries : kListQueries;
    const int64_t entries = k + (kExact ? 0 : kLeastSpareEntries);
    if (entries <= 32) {
      launch_knn_shape<KnnTile<T, kListQueries, kArithmetic>, 1, kVec>(p, like, scope);
    } else if (entries <= 64) {
      launch_knn_shape<KnnTile<T, kMiddleQueries, kArithmetic>, 2, kVec>(p, like, scope);
    } else {
      launch_knn_shape<KnnTile<T, kLongQueries, kArithmetic>, kExact ? 4 : 5, kVec>(p, like, scope);
    }
  };
  if (p.n.B * p.n.M == 0) {
    return;
  }
  if (p.n.C <= 4 && k <= kListMost) {
    lists.template operator()<kShort, 1>();
  } else if (p.n.C <= 4) {
    launch_knn_sorted<KnnTile<T, kLongQueries, kShort>, 1>(p, like, scope);
  } else {
    with_loads(p.packs, [&](auto width) {
      constexpr int kVec = decltype(width)::value;
      if (k <= kListMost) {
        lists.template operator()<kChain, kVec>();
      } else {
        launch_knn_sorted<KnnTile<T, kLongQueries, kLanes>, kVec>(p, like, scope);
      }
    });
  }
}

}  // namespace

std::tuple<Tensor, Tensor> knn_cuda(
    const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_ptr, const std::optional<Tensor>& y_ptr, int64_t k,
    bool exclude_self, int64_t height, int64_t width, int64_t exclude_radius, int64_t search_radius) {
  const KnnSizes n = check_knn(x, y, x_ptr, y_ptr, k, exclude_self, height, width, exclude_radius, search_radius);
  POLYGRAPH_CHECK(n.C <= kMaxChannels, "knn: x may have at most ", kMaxChannels, " channels on CUDA, got ", n.C);
  POLYGRAPH_CHECK(n.S != 0 || n.M == 0, "knn: y_ptr must end with M = ", n.M, ", got no samples");
  const DeviceScope scope(x);
  const Tensor points = dense(x);
  const Tensor queries = dense(y);
  const std::optional<Tensor> points_ptr = dense(x_ptr);
  const std::optional<Tensor> queries_ptr = dense(y_ptr);
  const ScalarType type = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor index = torch::stable::new_empty(x, {n.B, n.M, k}, ScalarType::Long);
  const Tensor dist2 = torch::stable::new_empty(x, {n.B, n.M, k}, type);
  dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Acc<T>;
    KnnParams<T> p{};
    p.n = n;
    p.x = const_data<T>(points);
    p.y = const_data<T>(queries);
    p.x_ptr = const_data<int64_t>(points_ptr);
    p.y_ptr = const_data<int64_t>(queries_ptr);
    p.index = mutable_data<int64_t>(index);
    p.dist2 = mutable_data<A>(dist2);
    p.relative = knn_relative<A>(n.C);
    p.absolute = knn_absolute<A>(n.C);
    p.packs = n.C % 4 == 0 && is_aligned(p.x, 4 * sizeof(T)) && is_aligned(p.y, 4 * sizeof(T));
    launch_knn<T>(p, points, scope);
  });
  return {index, dist2};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("knn", TORCH_BOX(&polygraph::knn_cuda));
}

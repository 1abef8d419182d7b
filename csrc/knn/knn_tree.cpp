// CPU nearest neighbors through a k-d tree: few channels, many points.
#include "knn/knn_tree.h"

#include <cmath>
#include <limits>

#include "knn/knn_plan.h"
#if POLYGRAPH_HAS_X86
#include <immintrin.h>
#endif

namespace polygraph {
namespace {

#define POLYGRAPH_KERNEL_FILE "knn/knn_tree.inc"
#include "common/each_isa.inc"

// The fewest points for which the tree is faster than brute force. Measured with as many queries, in three channels:
// k = 8 at 750 points, 20 at 1050, 64 at 1900.
int64_t tree_points(int64_t k) {
  return 640 + 20 * k;
}
constexpr int64_t kTreeQueries = 512;           // fewer do not pay for building it
constexpr int64_t kTreeMostK = 1 << 10;         // a packet keeps the candidates of all its queries
constexpr int64_t kSharedTreePoints = 1 << 15;  // from here on the threads share one sample, else each takes its own

// Whether the squares of all coordinates, and the sum of three of them, do not overflow.
template <class T>
bool fits_tree(const T* values, int64_t count) {
  const T most = std::sqrt(std::numeric_limits<T>::max()) / 8;
  bool fits = true;
  for (int64_t i = 0; i < count; ++i) {
    fits &= std::abs(values[i]) <= most;
  }
  return fits;
}

template <class T>
Scratchpad<KnnTreeScratch<T>> tree_scratch(int64_t k, int64_t capacity) {
  return Scratchpad<KnnTreeScratch<T>>([=](Arena& arena) -> KnnTreeScratch<T> {
    return {
        .row = arena.take<T>(knn_row_points(k)),
        .value = arena.take<T>(kLeafPoints * capacity),
        .index = arena.take<int32_t>(kLeafPoints * capacity),
        .order = arena.take<int32_t>(2 * capacity)};
  });
}

// One sample, on all threads or on the calling one.
template <class T>
void run_tree(const KnnBatch<T>& batch, int64_t s, bool all_threads) {
  const KnnSizes& n = batch.n;
  const T* x = batch.x + batch.points_begin(s) * n.C;
  const T* y = batch.y + batch.queries_begin(s) * n.C;
  const KnnTree<T> tree = KnnTreeBuilder<T>::build(x, batch.points(s), n.C, all_threads);
  const bool same = x == y && batch.points(s) == batch.queries(s);
  const KnnTree<T> other = same ? KnnTree<T>{} : KnnTreeBuilder<T>::build(y, batch.queries(s), n.C, all_threads);
  const KnnTreeTask<T> task{
      .tree = tree,
      .queries = same ? tree : other,
      .k = n.k,
      .exclude_self = n.exclude_self,
      .capacity = 2 * n.k + 4 * kLeafPoints,
      .base = batch.index_base(s),
      .index = batch.index + batch.queries_begin(s) * n.k,
      .dist2 = batch.dist2 + batch.queries_begin(s) * n.k};
  const auto walk = [&task](int64_t begin, int64_t end) {
    const Scratchpad<KnnTreeScratch<T>> scratch = tree_scratch<T>(task.k, task.capacity);
    for (int64_t packet = begin; packet < end; ++packet) {
      POLYGRAPH_SIMD_CALL(nearest_in_tree<T>(task, packet, scratch.view()));
    }
  };
  if (all_threads) {
    parallel_tasks(task.queries.leaves, kWorkPerThread / 4, walk);
  } else {
    walk(0, task.queries.leaves);
  }
}

}  // namespace

template <class T>
bool wants_tree(const KnnBatch<T>& batch, int64_t s) {
  const KnnSizes& n = batch.n;
  const int64_t points = batch.points(s);
  return n.C >= 1 && n.C <= 3 && n.width == 0 && n.k <= kTreeMostK && points >= tree_points(n.k) &&
         batch.queries(s) >= kTreeQueries && fits_tree(batch.x + batch.points_begin(s) * n.C, points * n.C) &&
         fits_tree(batch.y + batch.queries_begin(s) * n.C, batch.queries(s) * n.C);
}

template <class T>
void knn_tree(const KnnBatch<T>& batch, const std::vector<int64_t>& samples) {
  std::vector<int64_t> small;
  for (const int64_t s : samples) {
    if (batch.points(s) >= kSharedTreePoints) {
      run_tree(batch, s, true);
    } else {
      small.push_back(s);
    }
  }
  if (small.size() == 1) {
    run_tree(batch, small[0], true);
    return;
  }
  parallel_tasks(static_cast<int64_t>(small.size()), kWorkPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      run_tree(batch, small[static_cast<size_t>(i)], false);
    }
  });
}

template bool wants_tree(const KnnBatch<float>&, int64_t);
template bool wants_tree(const KnnBatch<double>&, int64_t);
template void knn_tree(const KnnBatch<float>&, const std::vector<int64_t>&);
template void knn_tree(const KnnBatch<double>&, const std::vector<int64_t>&);

}  // namespace polygraph

// CPU nearest neighbors by brute force: ranges of queries of one sample, which threads take one after the other.
#include <algorithm>
#include <atomic>

#include "knn/knn_plan.h"
#if POLYGRAPH_HAS_X86
#include <immintrin.h>
#endif

namespace polygraph {
namespace {

#define POLYGRAPH_KERNEL_FILE "knn/knn_brute.inc"
#include "common/each_isa.inc"

struct KnnRange {
  int64_t sample, begin, end;  // queries of a sample
  bool square;                 // all of them, scored at once
};

// Rows [first, last) of the points that the queries of a range may see.
struct PointRange {
  int64_t first, last;
};

template <class T>
PointRange visible_points(const KnnPlan<T>& plan, const KnnRange& range, int64_t points) {
  if (plan.search_radius < 0) {
    return {.first = 0, .last = points};
  }
  const int64_t radius = std::min(plan.search_radius, plan.height);
  return {
      .first = std::max<int64_t>(0, range.begin / plan.width - radius) * plan.width,
      .last = std::min(plan.height, (range.end - 1) / plan.width + radius + 1) * plan.width};
}

template <class T>
void run_range(const KnnBatch<T>& batch, const KnnPlan<T>& plan, const KnnRange& range, const KnnScratch<T>& scratch) {
  const int64_t C = plan.C;
  const int64_t s = range.sample;
  const int64_t points = batch.points(s);
  const int64_t row = batch.queries_begin(s);
  const T* x = batch.x + batch.points_begin(s) * C;
  const std::vector<T> center = plan.direct ? std::vector<T>(static_cast<size_t>(C)) : find_center(x, points, C);
  const PointRange seen = visible_points(plan, range, points);
  const KnnTask<T> task{
      .plan = plan,
      .x = x,
      .y = batch.y + row * C,
      .center = center.data(),
      .begin = range.begin,
      .end = range.end,
      .points_begin = seen.first,
      .points_end = seen.last,
      .base = batch.index_base(s),
      .index = batch.index + row * plan.k,
      .dist2 = batch.dist2 + row * plan.k};
  if (!range.square || !knn_square(task, scratch)) {
    POLYGRAPH_SIMD_CALL(nearest<T>(task, scratch));
  }
}

}  // namespace

template <class T>
void knn_brute(const KnnBatch<T>& batch, const std::vector<int64_t>& samples) {
  int64_t most_points = 0;
  int64_t all_queries = 0;
  for (const int64_t s : samples) {
    most_points = std::max(most_points, batch.points(s));
    all_queries += batch.queries(s);
  }
  KnnPlan<T> plan = make_plan<T>(batch.n, most_points, all_queries);
  const bool square = wants_square(batch, plan, static_cast<int64_t>(samples.size()));
  std::vector<KnnRange> ranges;
  for (const int64_t s : samples) {
    const int64_t queries = batch.queries(s);
    if (square && queries <= plan.chunk && batch.among_themselves(s)) {
      ranges.push_back({.sample = s, .begin = 0, .end = queries, .square = true});
      plan.square_points = plan.chunk;
      continue;
    }
    const int64_t parts = ceil_div(queries, plan.queries);
    const int64_t size = parts == 0 ? 0 : round_up(ceil_div(queries, parts), kRowMultiple);
    for (int64_t begin = 0; begin < queries; begin += size) {
      ranges.push_back({.sample = s, .begin = begin, .end = std::min(queries, begin + size), .square = false});
    }
  }
  plan.queries = std::max(plan.queries, plan.square_points);
  // Threads take the ranges one after the other: they may differ in cost.
  std::atomic<size_t> next{0};
  const int64_t work = all_queries * most_points * (batch.n.C + 4);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), static_cast<int64_t>(ranges.size()));
  parallel_tasks(threads, work / std::max<int64_t>(1, threads), [&](int64_t begin, int64_t end) {
    const Scratchpad<KnnScratch<T>> scratch = knn_scratch(plan);
    for (int64_t thread = begin; thread < end; ++thread) {
      for (size_t i = next++; i < ranges.size(); i = next++) {
        run_range(batch, plan, ranges[i], scratch.view());
      }
    }
  });
}

template void knn_brute(const KnnBatch<float>&, const std::vector<int64_t>&);
template void knn_brute(const KnnBatch<double>&, const std::vector<int64_t>&);

}  // namespace polygraph

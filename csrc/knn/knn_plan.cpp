// The plan of a CPU call: how many points and queries are worked on at a time, and the scratch that takes.
#include "knn/knn_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace polygraph {
namespace {

constexpr int64_t kChunkBytes = 256 << 10;  // of packed points: half of a second-level cache of 512 KiB
constexpr int64_t kKeptBytes = 8 << 20;     // of candidates kept from chunk to chunk, per thread
constexpr int64_t kMostQueries = 43 * kRowMultiple;
constexpr int64_t kFewestQueries = 6 * kRowMultiple;  // fewer are not worth packing the points

}  // namespace

template <class T>
KnnPlan<T> make_plan(const KnnSizes& n, int64_t most_points, int64_t all_queries) {
  const bool direct = n.C >= 1 && n.C <= 3;
  const int64_t bytes = static_cast<int64_t>(sizeof(T));
  const int64_t fits = kChunkBytes / bytes / std::max<int64_t>(1, n.C);
  const int64_t chunk = std::min(std::clamp<int64_t>(fits, kRowPad, kMostChunk), most_points);
  const int64_t most_kept = 2 * n.k + 64;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t share = std::clamp(all_queries / (4 * threads), kFewestQueries, kMostQueries);
  const int64_t affordable = std::max<int64_t>(kRowMultiple, kKeptBytes / (most_kept * (bytes + 4)));
  return {
      .C = n.C,
      .k = n.k,
      .exclude_self = n.exclude_self,
      .height = n.height,
      .width = n.width,
      .exclude_radius = n.exclude_radius,
      .search_radius = n.search_radius,
      .direct = direct,
      .alpha = direct ? T(0) : static_cast<T>(4 * n.C + 32) * std::numeric_limits<T>::epsilon() / 2,
      .beta = direct ? T(0) : static_cast<T>(8 * n.C + 64) * std::numeric_limits<T>::min(),
      .chunk = std::max(kRowPad, round_up(chunk, kRowPad)),
      .queries = std::min(share, affordable) / kRowMultiple * kRowMultiple,
      .most_kept = most_kept};
}

template <class T>
Scratchpad<KnnScratch<T>> knn_scratch(const KnnPlan<T>& plan) {
  return Scratchpad<KnnScratch<T>>([&plan](Arena& arena) -> KnnScratch<T> {
    const int64_t candidates = plan.most_kept + plan.chunk + kRowPad;
    const int64_t stride = plan.chunk + 16;
    const int64_t square = plan.square_points > 0 ? plan.square_points * stride + kRowPad : 0;
    return {
        .panels = arena.take<T>(plan.chunk * plan.C),
        .norms = arena.take<T>(plan.chunk),
        .queries = arena.take<T>(plan.queries * plan.C),
        .query_norms = arena.take<T>(plan.queries),
        .scores = arena.take<T>(8 * stride + kRowPad),
        .stride = stride,
        .square_scores = arena.take<T>(square),
        .state = arena.take<KnnState<T>>(plan.queries),
        .kept_value = arena.take<T>(plan.queries * plan.most_kept),
        .kept_index = arena.take<int32_t>(plan.queries * plan.most_kept),
        .value = arena.take<T>(candidates),
        .index = arena.take<int32_t>(candidates),
        .order = arena.take<int32_t>(2 * candidates),
        .listed_panel = arena.take<int32_t>(plan.chunk),
        .listed_position = arena.take<int32_t>(plan.chunk)};
  });
}

template <class T>
std::vector<T> find_center(const T* x, int64_t n, int64_t C) {
  const int64_t step = std::max<int64_t>(1, n / 64);
  const double weight = 1.0 / static_cast<double>(ceil_div(n, step));
  std::vector<double> sum(static_cast<size_t>(C), 0.0);
  for (int64_t i = 0; i < n; i += step) {
    for (int64_t c = 0; c < C; ++c) {
      sum[static_cast<size_t>(c)] += static_cast<double>(x[i * C + c]) * weight;
    }
  }
  std::vector<T> center(sum.size());
  for (size_t c = 0; c < sum.size(); ++c) {
    center[c] = std::abs(sum[c]) < 0x1p60 ? static_cast<T>(sum[c]) : T(0);
  }
  return center;
}

template KnnPlan<float> make_plan<float>(const KnnSizes&, int64_t, int64_t);
template KnnPlan<double> make_plan<double>(const KnnSizes&, int64_t, int64_t);
template Scratchpad<KnnScratch<float>> knn_scratch(const KnnPlan<float>&);
template Scratchpad<KnnScratch<double>> knn_scratch(const KnnPlan<double>&);
template std::vector<float> find_center(const float*, int64_t, int64_t);
template std::vector<double> find_center(const double*, int64_t, int64_t);

}  // namespace polygraph

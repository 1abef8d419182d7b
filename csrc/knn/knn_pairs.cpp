// CPU nearest neighbors of points among themselves: small samples as squares of scores, large ones as a tournament of
// blocks. Half of the products are enough (knn_pairs.inc).
#include <algorithm>
#include <atomic>
#include <memory>

#include "knn/knn_plan.h"
#if POLYGRAPH_HAS_X86
#include <immintrin.h>
#endif

namespace polygraph {
namespace {

#define POLYGRAPH_KERNEL_FILE "knn/knn_pairs.inc"
#include "common/each_isa.inc"

constexpr int64_t kSquareBytes = 48 << 20;          // of the scores of whole samples, all threads together
constexpr int64_t kPairsBytes = 48 << 20;           // of all lists of a sample; more points do without
constexpr int64_t kPairsBlock = 10 * kRowMultiple;  // the fewest points of a block

// The half of the products that is saved must outweigh the lists. Measured on two threads, float32, the times are equal
// at about: k = 4, 4500 points in 16 channels; k = 16, 7500 points in 16, 2500 in 64, 1300 in 132; k = 64, 7500 in 64
// and 3600 in 132. float64 pays earlier.
bool pairs_pay(int64_t points, int64_t C, int64_t k) {
  return points * (C + 8) >= 80000 + 7500 * k;
}

// The length at which a list is compacted; afterwards it has at most k + k/2 + 8 candidates.
int64_t compaction_length(int64_t k) {
  return round_up(2 * k + 32, 16);
}

// Bytes of one point's list.
template <class T>
int64_t list_bytes(int64_t k) {
  constexpr int64_t bytes = static_cast<int64_t>(sizeof(T));
  return (compaction_length(k) + 16) * (bytes + 4) + static_cast<int64_t>(sizeof(KnnState<T>)) + bytes;
}

// Points of a block. A round has as many pairs as there are threads, at least.
int64_t block_points(int64_t points, int64_t chunk) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t blocks = std::max(ceil_div(points, chunk), 2 * threads);
  return std::min(round_up(ceil_div(points, blocks), kRowMultiple), chunk);
}

// The tournament over the points of one sample, in blocks of equal size (the last may be smaller).
template <class T>
class KnnTournament {
 public:
  KnnTournament(const KnnBatch<T>& batch, int64_t s)
      : batch_(batch),
        sample_(s),
        points_(batch.points(s)),
        threads_(torch::stable::get_num_threads()),
        plan_(make_plan<T>(batch.n, points_, points_)),
        size_(block_points(points_, plan_.chunk)),
        blocks_(ceil_div(points_, size_)),
        center_(find_center(batch.x + batch.points_begin(s) * plan_.C, points_, plan_.C)),
        state_(static_cast<size_t>(points_)),
        squared_norm_(static_cast<size_t>(points_)) {
    plan_.queries = size_;
    plan_.most_kept = plan_.k + plan_.k / 2 + 8;
    plan_.shuffled = true;
    const int64_t compact_at = compaction_length(plan_.k);
    const int64_t capacity = compact_at + 16;
    value_ = std::make_unique_for_overwrite<T[]>(static_cast<size_t>(points_ * capacity));
    index_ = std::make_unique_for_overwrite<int32_t[]>(static_cast<size_t>(points_ * capacity));
    lists_ = {
        .compact_at = compact_at,
        .capacity = capacity,
        .value = value_.get(),
        .index = index_.get(),
        .state = state_.data(),
        .squared_norm = squared_norm_.data()};
    for (int64_t thread = 0; thread < threads_; ++thread) {
      scratch_.push_back(knn_scratch(plan_));
    }
  }

  // Returns false, and writes nothing, where scores tell too little.
  bool run() {
    std::atomic<bool> below_limit{plan_.alpha <= T(1) / 64};
    on_threads(blocks_, [&](int64_t i, const KnnScratch<T>& scratch) {
      bool block_below_limit = false;
      POLYGRAPH_SIMD_CALL(open_lists<T>(task(i, i), scratch, lists_, block_below_limit));
      if (!block_below_limit) {
        below_limit = false;
      }
    });
    // In every round all blocks but one move on by one, so that each meets another opponent.
    const int64_t turning = blocks_ - 1 + blocks_ % 2;
    for (int64_t round = 0; round < turning; ++round) {
      if (!below_limit || too_many_exact()) {
        return false;
      }
      on_threads(turning / 2 + 1, [&](int64_t i, const KnnScratch<T>& scratch) {
        const int64_t a = (round + i) % turning;
        const int64_t b = i == 0 ? turning : (round + turning - i) % turning;
        if (b < blocks_) {
          POLYGRAPH_SIMD_CALL(cross_blocks<T>(task(a, b), scratch, lists_));
        }
      });
    }
    on_threads(blocks_, [&](int64_t i, const KnnScratch<T>& scratch) {
      POLYGRAPH_SIMD_CALL(close_lists<T>(task(i, i), scratch, lists_));
    });
    return true;
  }

 private:
  // The points of block a as queries, those of block b as points.
  KnnTask<T> task(int64_t a, int64_t b) const {
    const int64_t row = batch_.points_begin(sample_);
    const T* x = batch_.x + row * plan_.C;
    return {
        .plan = plan_,
        .x = x,
        .y = x,
        .center = center_.data(),
        .begin = a * size_,
        .end = std::min(points_, (a + 1) * size_),
        .points_begin = b * size_,
        .points_end = std::min(points_, (b + 1) * size_),
        .base = batch_.index_base(sample_),
        .index = batch_.index + row * plan_.k,
        .dist2 = batch_.dist2 + row * plan_.k};
  }

  // Whether an eighth of the lists are kept by exact distances, a few at a time.
  bool too_many_exact() const {
    int64_t exact = 0;
    for (const KnnState<T>& state : state_) {
      exact += state.only_exact;
    }
    return 8 * exact > points_;
  }

  // fn(i, scratch) for all i < count; threads take them one after the other.
  template <class F>
  void on_threads(int64_t count, const F& fn) {
    std::atomic<int64_t> next{0};
    const int64_t threads = std::min(threads_, count);
    parallel_tasks(threads, count * size_ * size_ / threads, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) {
        for (int64_t i = next++; i < count; i = next++) {
          fn(i, scratch_[static_cast<size_t>(thread)].view());
        }
      }
    });
  }

  const KnnBatch<T>& batch_;
  int64_t sample_, points_, threads_;
  KnnPlan<T> plan_;
  int64_t size_, blocks_;
  std::vector<T> center_;             // [C]
  std::vector<KnnState<T>> state_;    // [points]
  std::vector<T> squared_norm_;       // [points]
  std::unique_ptr<T[]> value_;        // [points, capacity]
  std::unique_ptr<int32_t[]> index_;  // [points, capacity]
  KnnLists<T> lists_{};
  std::vector<Scratchpad<KnnScratch<T>>> scratch_;  // one per thread
};

}  // namespace

// Some threads have one sample more to do than others. Measured on two threads, float32, with k = 8 or 16, whole rows
// take 1.06 to 1.65 times as long as squares in 16 to 264 channels; with k = 200 to 500, where selection is most of the
// work, 0.96 to 1.05 times; in 4 channels, 1024 points, 0.9 times.
template <class T>
bool wants_square(const KnnBatch<T>& batch, const KnnPlan<T>& plan, int64_t samples) {
  const KnnSizes& n = batch.n;
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), samples);
  const int64_t most = ceil_div(samples, threads);
  return n.C >= 8 && n.search_radius < 0 && 3 * samples >= 2 * most * torch::stable::get_num_threads() &&
         threads * plan.chunk * plan.chunk * static_cast<int64_t>(sizeof(T)) <= kSquareBytes;
}

template <class T>
bool knn_square(const KnnTask<T>& task, const KnnScratch<T>& scratch) {
  bool below_limit = false;
  POLYGRAPH_SIMD_CALL(nearest_square<T>(task, scratch, below_limit));
  return below_limit;
}

template <class T>
bool wants_pairs(const KnnBatch<T>& batch, int64_t s) {
  const KnnSizes& n = batch.n;
  const int64_t points = batch.points(s);
  return n.C > 3 && n.width == 0 && n.k <= kPairsMostK && pairs_pay(points, n.C, n.k) &&
         points >= 2 * kPairsBlock * torch::stable::get_num_threads() && points * list_bytes<T>(n.k) <= kPairsBytes &&
         batch.among_themselves(s);
}

template <class T>
bool knn_pairs(const KnnBatch<T>& batch, int64_t s) {
  return KnnTournament<T>(batch, s).run();
}

template bool wants_square(const KnnBatch<float>&, const KnnPlan<float>&, int64_t);
template bool wants_square(const KnnBatch<double>&, const KnnPlan<double>&, int64_t);
template bool knn_square(const KnnTask<float>&, const KnnScratch<float>&);
template bool knn_square(const KnnTask<double>&, const KnnScratch<double>&);
template bool wants_pairs(const KnnBatch<float>&, int64_t);
template bool wants_pairs(const KnnBatch<double>&, int64_t);
template bool knn_pairs(const KnnBatch<float>&, int64_t);
template bool knn_pairs(const KnnBatch<double>&, int64_t);

}  // namespace polygraph

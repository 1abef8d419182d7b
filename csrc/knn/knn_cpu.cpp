// CPU nearest neighbours: float32 and float64; half types are widened to float32 first.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "common/parallel.h"
#include "common/simd.h"
#include "knn/knn.h"
#include "knn/knn_tree.h"
#if POLYGRAPH_HAS_X86
#include <immintrin.h>
#endif

namespace polygraph {
namespace {

// What all tasks of a call share.
template <class T>
struct KnnPlan {
  int64_t C, k;
  bool exclude_self;
  int64_t height, width;                  // 0: no grid
  int64_t exclude_radius, search_radius;  // -1: none
  bool direct;                            // scores are the distances themselves
  T alpha, beta;                          // of the error bound
  int64_t chunk;                          // points packed at a time, a multiple of 128
  int64_t queries;                        // at most, of one task
  int64_t soft;                           // candidates a query may keep from chunk to chunk
  int64_t square;                         // the most points that are scored all at once, 0: none
  bool shuffled;                          // candidates do not come in the order of their index
};

// Queries [begin, end) of one sample against its points [points_begin, points_end).
template <class T>
struct KnnTask {
  const KnnPlan<T>& plan;
  const T* x;       // [n, C], the sample's points
  const T* y;       // [m, C], its queries
  const T* centre;  // [C]
  int64_t begin, end;
  int64_t points_begin, points_end;
  int64_t base;    // added to every index
  int64_t* index;  // [m, k]
  T* dist2;        // [m, k]
};

// Candidates of one query.
template <class T>
struct KnnState {
  int64_t count;    // how many
  int64_t exact;    // of these, the first ones have exact distances for values, the others scores
  bool only_exact;  // scores are not worth comparing any more
  T limit;          // no neighbour has a greater score or distance
};

// The panels in a row of scores, of the chunk of points [first, last).
struct KnnPanels {
  int64_t first, last;
  int64_t count;   // panels in the row
  int32_t* panel;  // [count] which
  int32_t* slot;   // panel -> its place in the row
};

template <class T>
struct KnnScratch {
  T* panels;            // [chunk, C] packed
  T* norms;             // [chunk]
  T* queries;           // [queries, C] packed
  T* query_norms;       // [queries]
  T* scores;            // [8 rows, stride]
  int64_t stride;       // chunk and a little, so that rows do not share cache sets
  T* square;            // [square, stride] and a little: scores of all points of a sample
  KnnState<T>* state;   // [queries]
  T* kept_value;        // [queries, soft]
  int32_t* kept_index;  // [queries, soft]
  T* value;             // [soft + chunk + 128] candidates of the query at hand
  int32_t* index;       // [soft + chunk + 128]
  int32_t* order;       // twice as many
  int32_t* listed_panel;
  int32_t* listed_slot;
};

// Candidates of all points of a sample, each of which is a query.
template <class T>
struct KnnLists {
  int64_t full;        // candidates of a point that call for compaction
  int64_t room;        // of a list: whole vectors more
  T* value;            // [n, room]
  int32_t* index;      // [n, room]
  KnnState<T>* state;  // [n]
  T* norm;             // [n] Q
};

constexpr int64_t kPairsMostK = 256;
constexpr int64_t kPairsRoom = 1024 + 2 * kPairsMostK;  // candidates to be sorted, at most: a block's and those kept

#define POLYGRAPH_KERNEL_FILE "knn/knn_kernel.inc"
#include "common/each_isa.inc"

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// Refuses NaN and inf: counts them and names the first.
template <class T>
void check_finite(const char* name, const Tensor& tensor) {
  const T* values = data<T>(tensor);
  const int64_t count = tensor.numel();
  constexpr int64_t kBlock = 4096;
  std::atomic<int64_t> bad{0};
  std::atomic<int64_t> first{count};
  parallel_tasks((count + kBlock - 1) / kBlock, kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t stop = std::min(count, (block + 1) * kBlock);
      bool good = false;
      POLYGRAPH_SIMD_CALL(all_finite<T>(values + block * kBlock, stop - block * kBlock, good));
      for (int64_t i = block * kBlock; !good && i < stop; ++i) {
        if (!std::isfinite(values[i])) {
          ++bad;
          int64_t known = first.load();
          while (i < known && !first.compare_exchange_weak(known, i)) {
          }
        }
      }
    }
  });
  const int64_t C = std::max<int64_t>(1, tensor.size(2));
  const int64_t rows = std::max<int64_t>(1, tensor.size(1));
  const int64_t at = first.load();
  POLYGRAPH_CHECK(
      bad.load() == 0, "knn: ", name, " must be finite, got ", bad.load(), " NaN or inf, the first at [", at / C / rows,
      ", ", at / C % rows, ", ", at % C, "]");
}

// A point amid the sample: of little use if far away, but never wrong.
template <class T>
void find_centre(const T* x, int64_t n, int64_t C, std::vector<T>& centre) {
  const int64_t step = std::max<int64_t>(1, n / 64);
  const double weight = 1.0 / static_cast<double>((n + step - 1) / step);
  std::vector<double> sum(static_cast<size_t>(C), 0.0);
  for (int64_t i = 0; i < n; i += step) {
    for (int64_t c = 0; c < C; ++c) {
      sum[static_cast<size_t>(c)] += static_cast<double>(x[i * C + c]) * weight;
    }
  }
  for (size_t c = 0; c < sum.size(); ++c) {
    centre[c] = std::abs(sum[c]) < 0x1p60 ? static_cast<T>(sum[c]) : T(0);
  }
}

// Numbers that begin undefined.
template <class U>
class Untouched {
 public:
  void resize(size_t count) {
    values_ = std::make_unique_for_overwrite<U[]>(count);
  }
  U* data() const {
    return values_.get();
  }

 private:
  std::unique_ptr<U[]> values_;
};

// Memory of one thread, in one piece.
template <class T>
class KnnMemory {
 public:
  explicit KnnMemory(const KnnPlan<T>& plan) {
    layout(plan);
    bytes_.resize(used_ + kAlign);
    begin_ = bytes_.data() + (kAlign - reinterpret_cast<uintptr_t>(bytes_.data()) % kAlign) % kAlign;
    layout(plan);
  }
  const KnnScratch<T>& scratch() const {
    return scratch_;
  }

 private:
  static constexpr size_t kAlign = 64;
  struct Byte {
    Byte() {}  // leaves memory untouched: most of it is never used
    char value;
  };

  template <class U>
  U* take(int64_t count) {
    U* place = reinterpret_cast<U*>(begin_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(U) + kAlign - 1) / kAlign * kAlign;
    return place;
  }
  void layout(const KnnPlan<T>& plan) {
    used_ = 0;
    const int64_t room = plan.soft + plan.chunk + 128;
    const int64_t stride = plan.chunk + 16;
    scratch_ = {
        take<T>(plan.chunk * plan.C),
        take<T>(plan.chunk),
        take<T>(plan.queries * plan.C),
        take<T>(plan.queries),
        take<T>(8 * stride + 128),
        stride,
        take<T>(plan.square > 0 ? plan.square * stride + 128 : 0),
        take<KnnState<T>>(plan.queries),
        take<T>(plan.queries * plan.soft),
        take<int32_t>(plan.queries * plan.soft),
        take<T>(room),
        take<int32_t>(room),
        take<int32_t>(2 * room),
        take<int32_t>(plan.chunk),
        take<int32_t>(plan.chunk)};
  }

  std::vector<Byte> bytes_;
  Byte* begin_ = nullptr;
  size_t used_ = 0;
  KnnScratch<T> scratch_;
};

constexpr int64_t kChunkBytes = 256 << 10;  // of packed points: half of a second-level cache of 512 KiB
constexpr int64_t kKeptBytes = 8 << 20;     // of candidates kept from chunk to chunk, per thread
constexpr int64_t kRowMultiple = 24;        // queries of a task: whole tiles for every instruction set
constexpr int64_t kMostQueries = 43 * kRowMultiple;
constexpr int64_t kFewestQueries = 6 * kRowMultiple;  // fewer are not worth packing the points

template <class T>
KnnPlan<T> make_plan(const KnnSizes& n, int64_t most_points, int64_t all_queries) {
  KnnPlan<T> plan{};
  plan.C = n.C;
  plan.k = n.k;
  plan.exclude_self = n.exclude_self;
  plan.height = n.height;
  plan.width = n.width;
  plan.exclude_radius = n.exclude_radius;
  plan.search_radius = n.search_radius;
  plan.direct = n.C >= 1 && n.C <= 3;
  const int64_t bytes = static_cast<int64_t>(sizeof(T));
  plan.alpha = plan.direct ? T(0) : static_cast<T>(4 * n.C + 32) * std::numeric_limits<T>::epsilon() / 2;
  plan.beta = plan.direct ? T(0) : static_cast<T>(8 * n.C + 64) * std::numeric_limits<T>::min();
  const int64_t fits = kChunkBytes / bytes / std::max<int64_t>(1, n.C);
  plan.chunk = std::clamp<int64_t>(fits, 128, 1024);
  plan.chunk = std::min(plan.chunk, most_points);
  plan.chunk = std::max<int64_t>(128, (plan.chunk + 127) / 128 * 128);
  plan.soft = 2 * n.k + 64;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t share = std::clamp(all_queries / (4 * threads), kFewestQueries, kMostQueries);
  const int64_t kept = std::max<int64_t>(kRowMultiple, kKeptBytes / (plan.soft * (bytes + 4)));
  plan.queries = std::min(share, kept) / kRowMultiple * kRowMultiple;
  return plan;
}

// The samples of a call: points, queries and results of each.
template <class T>
struct KnnBatch {
  KnnSizes n;
  const T* x;
  const T* y;
  const int64_t* x_ptr;  // [S+1] or null
  const int64_t* y_ptr;
  int64_t* index;
  T* dist2;

  int64_t samples() const {
    return x_ptr != nullptr ? n.S : n.B;
  }
  int64_t points_begin(int64_t s) const {
    return x_ptr != nullptr ? x_ptr[s] : s * n.N;
  }
  int64_t points(int64_t s) const {
    return x_ptr != nullptr ? x_ptr[s + 1] - x_ptr[s] : n.N;
  }
  int64_t queries_begin(int64_t s) const {
    return y_ptr != nullptr ? y_ptr[s] : s * n.M;
  }
  int64_t queries(int64_t s) const {
    return y_ptr != nullptr ? y_ptr[s + 1] - y_ptr[s] : n.M;
  }
  // Whether the queries of the sample are its points.
  bool among_themselves(int64_t s) const {
    return x == y && queries(s) == points(s) && queries_begin(s) == points_begin(s);
  }
};

struct KnnRange {
  int64_t sample, begin, end;  // queries of a sample
  bool square;                 // all of them, scored at once
};

template <class T>
void run_range(const KnnBatch<T>& batch, const KnnPlan<T>& plan, const KnnRange& range, const KnnScratch<T>& scratch) {
  const int64_t C = plan.C;
  const int64_t s = range.sample;
  const int64_t n = batch.points(s);
  const T* x = batch.x + batch.points_begin(s) * C;
  std::vector<T> centre(static_cast<size_t>(C), T(0));
  if (!plan.direct) {
    find_centre(x, n, C, centre);
  }
  int64_t first = 0;
  int64_t last = n;
  if (plan.search_radius >= 0) {
    const int64_t radius = std::min(plan.search_radius, plan.height);
    first = std::max<int64_t>(0, range.begin / plan.width - radius) * plan.width;
    last = std::min(plan.height, (range.end - 1) / plan.width + radius + 1) * plan.width;
  }
  const int64_t row = batch.queries_begin(s);
  const KnnTask<T> task{
      plan,
      x,
      batch.y + row * C,
      centre.data(),
      range.begin,
      range.end,
      first,
      last,
      batch.x_ptr != nullptr ? batch.points_begin(s) : 0,
      batch.index + row * plan.k,
      batch.dist2 + row * plan.k};
  if (range.square) {
    POLYGRAPH_SIMD_CALL(nearest_square<T>(task, scratch));
  } else {
    POLYGRAPH_SIMD_CALL(nearest<T>(task, scratch));
  }
}

constexpr int64_t kSquareBytes = 48 << 20;  // of the scores of whole samples, all threads together

// Whether samples are worth a thread each, which scores all pairs of its points at once. `samples` is how many there
// are: some threads have one more to do than others. Measured on two threads, float32, with k = 8 or 16, whole rows
// take 1.06 to 1.65 times as long in 16 to 264 channels; with k = 200 to 500, where selection is most of the work, 0.96
// to 1.05 times; in 4 channels, 1024 points, 0.9 times.
template <class T>
bool wants_square(const KnnBatch<T>& batch, const KnnPlan<T>& plan, int64_t samples) {
  const KnnSizes& n = batch.n;
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), samples);
  const int64_t most = (samples + threads - 1) / threads;
  return n.C >= 8 && n.search_radius < 0 && 3 * samples >= 2 * most * torch::stable::get_num_threads() &&
         threads * plan.chunk * plan.chunk * static_cast<int64_t>(sizeof(T)) <= kSquareBytes;
}

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
      ranges.push_back({s, 0, queries, true});
      plan.square = plan.chunk;
      continue;
    }
    const int64_t parts = (queries + plan.queries - 1) / plan.queries;
    const int64_t size =
        parts == 0 ? 0 : ((queries + parts - 1) / parts + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
    for (int64_t begin = 0; begin < queries; begin += size) {
      ranges.push_back({s, begin, std::min(queries, begin + size), false});
    }
  }
  plan.queries = std::max(plan.queries, plan.square);
  // Threads take the ranges one after the other: they may differ in cost.
  std::atomic<size_t> next{0};
  const int64_t work = all_queries * most_points * (batch.n.C + 4);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), static_cast<int64_t>(ranges.size()));
  parallel_tasks(threads, work / std::max<int64_t>(1, threads), [&](int64_t begin, int64_t end) {
    const KnnMemory<T> memory(plan);
    for (int64_t thread = begin; thread < end; ++thread) {
      for (size_t i = next++; i < ranges.size(); i = next++) {
        run_range(batch, plan, ranges[i], memory.scratch());
      }
    }
  });
}

// ---- the points among themselves ----

// The half of the products that is saved must outweigh the lists. Measured on two threads, float32, the times are equal
// at about: k = 4, 4500 points in 16 channels; k = 16, 7500 points in 16, 2500 in 64, 1300 in 132; k = 64, 7500 in 64
// and 3600 in 132. float64 pays earlier.
inline bool knn_pairs_pay(int64_t points, int64_t C, int64_t k) {
  return points * (C + 8) >= 80000 + 7500 * k;
}
constexpr int64_t kPairsBytes = 48 << 20;           // of all lists of a sample; more points do without
constexpr int64_t kPairsBlock = 10 * kRowMultiple;  // the fewest points of a block

// Candidates that make a list full, after compaction there are at most k + k/2 + 8.
inline int64_t knn_pairs_full(int64_t k) {
  return (2 * k + 32 + 15) / 16 * 16;
}

// Memory of one point's list.
template <class T>
constexpr int64_t knn_pairs_bytes(int64_t k) {
  constexpr int64_t bytes = static_cast<int64_t>(sizeof(T));
  return (knn_pairs_full(k) + 16) * (bytes + 4) + static_cast<int64_t>(sizeof(KnnState<T>)) + bytes;
}

// Points of a block. A round has as many pairs as there are threads, at least.
inline int64_t knn_pairs_block(int64_t points, int64_t chunk) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t blocks = std::max((points + chunk - 1) / chunk, 2 * threads);
  return std::min(((points + blocks - 1) / blocks + kRowMultiple - 1) / kRowMultiple * kRowMultiple, chunk);
}

template <class T>
bool wants_pairs(const KnnBatch<T>& batch, int64_t s) {
  const KnnSizes& n = batch.n;
  const int64_t points = batch.points(s);
  return n.C > 3 && n.width == 0 && n.k <= kPairsMostK && knn_pairs_pay(points, n.C, n.k) &&
         points >= 2 * kPairsBlock * torch::stable::get_num_threads() &&
         points * knn_pairs_bytes<T>(n.k) <= kPairsBytes && batch.among_themselves(s);
}

// The points of one sample in blocks of equal size, but the last.
template <class T>
class KnnPairs {
 public:
  KnnPairs(const KnnBatch<T>& batch, int64_t s)
      : batch_(batch),
        sample_(s),
        points_(batch.points(s)),
        threads_(torch::stable::get_num_threads()),
        plan_(make_plan<T>(batch.n, points_, points_)),
        size_(knn_pairs_block(points_, plan_.chunk)),
        blocks_((points_ + size_ - 1) / size_),
        state_(static_cast<size_t>(points_)),
        norm_(static_cast<size_t>(points_)),
        centre_(static_cast<size_t>(plan_.C), T(0)) {
    plan_.queries = size_;
    plan_.soft = plan_.k + plan_.k / 2 + 8;
    plan_.shuffled = true;
    const int64_t full = knn_pairs_full(plan_.k);
    const int64_t room = full + 16;
    value_.resize(static_cast<size_t>(points_ * room));
    index_.resize(static_cast<size_t>(points_ * room));
    lists_ = {full, room, value_.data(), index_.data(), state_.data(), norm_.data()};
    find_centre(batch.x + batch.points_begin(s) * plan_.C, points_, plan_.C, centre_);
    for (int64_t thread = 0; thread < threads_; ++thread) {
      memory_.push_back(std::make_unique<KnnMemory<T>>(plan_));
    }
  }

  // Returns false, and writes nothing, where scores tell too little: then whole rows of them are the better way.
  bool run() {
    std::atomic<bool> good{plan_.alpha <= T(1) / 64};
    on_threads(blocks_, [&](int64_t i, const KnnScratch<T>& scratch) {
      bool block_good = false;
      POLYGRAPH_SIMD_CALL(open_lists<T>(task(i, i), scratch, lists_, block_good));
      if (!block_good) {
        good = false;
      }
    });
    // A tournament: in every round all but one turn by one place, and opposites meet.
    const int64_t turning = blocks_ - 1 + blocks_ % 2;
    for (int64_t round = 0; round < turning; ++round) {
      if (!good || too_many_exact()) {
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
        plan_,
        x,
        x,
        centre_.data(),
        a * size_,
        std::min(points_, (a + 1) * size_),
        b * size_,
        std::min(points_, (b + 1) * size_),
        batch_.x_ptr != nullptr ? row : 0,
        batch_.index + row * plan_.k,
        batch_.dist2 + row * plan_.k};
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
          fn(i, memory_[static_cast<size_t>(thread)]->scratch());
        }
      }
    });
  }

  const KnnBatch<T>& batch_;
  int64_t sample_, points_, threads_;
  KnnPlan<T> plan_;
  int64_t size_, blocks_;
  std::vector<KnnState<T>> state_;
  std::vector<T> norm_, centre_;
  Untouched<T> value_;
  Untouched<int32_t> index_;
  KnnLists<T> lists_{};
  std::vector<std::unique_ptr<KnnMemory<T>>> memory_;
};

// ---- few channels, many points ----

// From so many points on the tree is quicker than looking at all of them. Measured with as many queries, in three
// channels: k = 8 at 750 points, 20 at 1050, 64 at 1900.
inline int64_t knn_tree_points(int64_t k) {
  return 640 + 20 * k;
}
constexpr int64_t kTreeQueries = 512;           // fewer do not pay for building it
constexpr int64_t kTreeMostK = 1 << 10;         // a packet keeps the candidates of all its queries
constexpr int64_t kSharedTreePoints = 1 << 15;  // from here on the threads share one sample, else each takes its own

// Squares of coordinates below it do not overflow, nor their sum.
template <class T>
bool fits_tree(const T* values, int64_t count) {
  const T most = std::sqrt(std::numeric_limits<T>::max()) / 8;
  bool good = true;
  for (int64_t i = 0; i < count; ++i) {
    good &= std::abs(values[i]) <= most;
  }
  return good;
}

template <class T>
bool wants_tree(const KnnBatch<T>& batch, int64_t s) {
  const KnnSizes& n = batch.n;
  const int64_t points = batch.points(s);
  return n.C >= 1 && n.C <= 3 && n.width == 0 && n.k <= kTreeMostK && points >= knn_tree_points(n.k) &&
         batch.queries(s) >= kTreeQueries && fits_tree(batch.x + batch.points_begin(s) * n.C, points * n.C) &&
         fits_tree(batch.y + batch.queries_begin(s) * n.C, batch.queries(s) * n.C);
}

template <class T>
void run_tree(const KnnBatch<T>& batch, int64_t s, bool shared) {
  const KnnSizes& n = batch.n;
  const T* x = batch.x + batch.points_begin(s) * n.C;
  const T* y = batch.y + batch.queries_begin(s) * n.C;
  const KnnTree<T> tree = KnnTreeBuilder<T>::build(x, batch.points(s), n.C, shared);
  const bool same = x == y && batch.points(s) == batch.queries(s);
  const KnnTree<T> other = same ? KnnTree<T>{} : KnnTreeBuilder<T>::build(y, batch.queries(s), n.C, shared);
  const KnnTree<T>& queries = same ? tree : other;
  const int64_t room = 2 * n.k + 4 * kLeafPoints;
  const KnnTreeTask<T> task{
      tree,
      queries,
      n.k,
      n.exclude_self,
      room,
      batch.x_ptr != nullptr ? batch.points_begin(s) : 0,
      batch.index + batch.queries_begin(s) * n.k,
      batch.dist2 + batch.queries_begin(s) * n.k};
  const auto walk = [&](int64_t begin, int64_t end) {
    std::vector<T> values(static_cast<size_t>(kLeafPoints * room + knn_row_points(n.k)));
    std::vector<int32_t> order(static_cast<size_t>(2 * room));
    std::vector<int32_t> index(static_cast<size_t>(kLeafPoints * room));
    const KnnTreeScratch<T> scratch{values.data() + kLeafPoints * room, values.data(), index.data(), order.data()};
    for (int64_t packet = begin; packet < end; ++packet) {
      POLYGRAPH_SIMD_CALL(nearest_in_tree<T>(task, packet, scratch));
    }
  };
  if (shared) {
    parallel_tasks(queries.leaves, kWorkPerThread / 4, walk);
  } else {
    walk(0, queries.leaves);
  }
}

template <class T>
void knn_samples(const KnnBatch<T>& batch) {
  std::vector<int64_t> brute;
  std::vector<int64_t> trees;
  for (int64_t s = 0; s < batch.samples(); ++s) {
    if (batch.queries(s) == 0) {
      continue;
    }
    if (wants_pairs(batch, s) && KnnPairs<T>(batch, s).run()) {
      continue;
    }
    if (!wants_tree(batch, s)) {
      brute.push_back(s);
    } else if (batch.points(s) < kSharedTreePoints) {
      trees.push_back(s);
    } else {
      run_tree(batch, s, true);
    }
  }
  if (trees.size() == 1) {
    run_tree(batch, trees[0], true);
  } else {
    parallel_tasks(static_cast<int64_t>(trees.size()), kWorkPerThread, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        run_tree(batch, trees[static_cast<size_t>(i)], false);
      }
    });
  }
  if (!brute.empty()) {
    knn_brute(batch, brute);
  }
}

// Whether both are the same numbers in memory.
bool same_tensor(const Tensor& x, const Tensor& y) {
  bool same = x.const_data_ptr() == y.const_data_ptr();
  for (int64_t i = 0; same && i < x.dim(); ++i) {
    same = x.size(i) == y.size(i) && x.stride(i) == y.stride(i);
  }
  return same;
}

}  // namespace

std::tuple<Tensor, Tensor> knn_cpu(
    const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_ptr, const std::optional<Tensor>& y_ptr, int64_t k,
    bool exclude_self, int64_t height, int64_t width, int64_t exclude_radius, int64_t search_radius) {
  const KnnSizes n = check_knn(x, y, x_ptr, y_ptr, k, exclude_self, height, width, exclude_radius, search_radius);
  std::optional<Tensor> points_ptr;
  std::optional<Tensor> queries_ptr;
  if (n.S >= 0) {
    points_ptr = dense(*x_ptr);
    queries_ptr = dense(*y_ptr);
    check_knn_samples(n, data<int64_t>(*points_ptr), data<int64_t>(*queries_ptr));
  }
  const Tensor points = widened(dense(x));
  const Tensor queries = same_tensor(x, y) ? points : widened(dense(y));
  Tensor index = torch::stable::new_empty(points, {n.B, n.M, k}, ScalarType::Long);
  Tensor dist2 = torch::stable::new_empty(points, {n.B, n.M, k});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("x", points);
    if (data<T>(queries) != data<T>(points) || n.M != n.N) {
      check_finite<T>("y", queries);
    }
    knn_samples<T>(
        {n, data<T>(points), data<T>(queries), n.S >= 0 ? data<int64_t>(*points_ptr) : nullptr,
         n.S >= 0 ? data<int64_t>(*queries_ptr) : nullptr, static_cast<int64_t*>(index.mutable_data_ptr()),
         static_cast<T*>(dist2.mutable_data_ptr())});
  };
  if (points.scalar_type() == ScalarType::Double) {
    run(double{});
  } else {
    run(float{});
  }
  return {index, dist2};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("knn", TORCH_BOX(&polygraph::knn_cpu));
}

// What the CPU's ways share: a call, its plan, a task, and the scratch of a thread. knn.h says which way runs when.
#pragma once

#include <vector>

#include "common/arena.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "knn/knn.h"

namespace polygraph {

constexpr int64_t kMostChunk = 1024;  // points packed at a time, at most
constexpr int64_t kRowPad = 128;      // a row of scores is padded to a multiple of it
constexpr int64_t kRowMultiple = 24;  // queries of a task: whole tiles for every instruction set
constexpr int64_t kPairsMostK = 256;
constexpr int64_t kMostSorted = 1024 + 2 * kPairsMostK;  // candidates sorted by index: those of a block and those kept

// A call on the CPU, sample by sample.
template <class T>
struct KnnBatch : KnnTensors<T> {
  int64_t samples() const {
    return this->x_ptr != nullptr ? this->n.S : this->n.B;
  }
  int64_t points_begin(int64_t s) const {
    return this->x_ptr != nullptr ? this->x_ptr[s] : s * this->n.N;
  }
  int64_t points(int64_t s) const {
    return this->x_ptr != nullptr ? this->x_ptr[s + 1] - this->x_ptr[s] : this->n.N;
  }
  int64_t queries_begin(int64_t s) const {
    return this->y_ptr != nullptr ? this->y_ptr[s] : s * this->n.M;
  }
  int64_t queries(int64_t s) const {
    return this->y_ptr != nullptr ? this->y_ptr[s + 1] - this->y_ptr[s] : this->n.M;
  }
  // Added to the numbers of a sample's points: the index holds rows of x where samples are ragged.
  int64_t index_base(int64_t s) const {
    return this->x_ptr != nullptr ? this->x_ptr[s] : 0;
  }
  // Whether the queries of the sample are its points.
  bool among_themselves(int64_t s) const {
    return this->x == this->y && queries(s) == points(s) && queries_begin(s) == points_begin(s);
  }
};

// What all tasks of a call share.
template <class T>
struct KnnPlan {
  int64_t C, k;
  bool exclude_self;
  int64_t height, width;                  // 0: no grid
  int64_t exclude_radius, search_radius;  // -1: none
  bool direct;                            // scores are the distances themselves
  T alpha, beta;                          // of the error bound (knn_scores.inc)
  int64_t chunk;                          // points packed at a time, a multiple of kRowPad
  int64_t queries;                        // of one task, at most
  int64_t most_kept;                      // candidates that a query keeps from chunk to chunk, at most
  int64_t square_points = 0;              // the most points whose scores are in memory all at once; 0: none
  bool shuffled = false;                  // candidates do not come in the order of their index
};

// Queries [begin, end) of one sample against its points [points_begin, points_end).
template <class T>
struct KnnTask {
  const KnnPlan<T>& plan;
  const T* x;       // [n, C], the sample's points
  const T* y;       // [m, C], its queries
  const T* center;  // [C]
  int64_t begin, end;
  int64_t points_begin, points_end;
  int64_t base;    // added to every index
  int64_t* index;  // [m, k]
  T* dist2;        // [m, k]
};

// Candidates of one query.
template <class T>
struct KnnState {
  int64_t count;    // candidates
  int64_t exact;    // the first `exact` of them have exact distances as values, the others scores
  bool only_exact;  // scores are not worth comparing any more
  T limit;          // no neighbor has a greater score or distance
};

// The panels that a row of scores holds, of the chunk of points [first, last).
struct KnnPanels {
  int64_t first, last;
  int64_t count;      // panels in the row
  int32_t* panel;     // [count], position in the row -> panel of the chunk
  int32_t* position;  // [panels of the chunk], panel -> position in the row
};

// Per-thread scratch; every buffer is uninitialised.
template <class T>
struct KnnScratch {
  T* panels;                 // [chunk, C] packed points
  T* norms;                  // [chunk]
  T* queries;                // [queries, C] packed queries
  T* query_norms;            // [queries]
  T* scores;                 // [8 rows, stride]
  int64_t stride;            // chunk and a little, so that rows do not share cache sets
  T* square_scores;          // [square_points, stride] and a row's padding: scores of all pairs of points of a sample
  KnnState<T>* state;        // [queries]
  T* kept_value;             // [queries, most_kept]
  int32_t* kept_index;       // [queries, most_kept]
  T* value;                  // [most_kept + chunk + kRowPad], candidates of the query at hand
  int32_t* index;            // [most_kept + chunk + kRowPad]
  int32_t* order;            // twice as many
  int32_t* listed_panel;     // [chunk]
  int32_t* listed_position;  // [chunk]
};

// Lists of candidates of all points of a sample, each of which is a query.
template <class T>
struct KnnLists {
  int64_t compact_at;  // candidates of a point at which its list is compacted
  int64_t capacity;    // of a list: compact_at and whole vectors more
  T* value;            // [n, capacity]
  int32_t* index;      // [n, capacity]
  KnnState<T>* state;  // [n]
  T* squared_norm;     // [n], Q of each point: |p|^2 about the center, inf above the limit of norms
};

// No panels yet, of the points [first, last).
template <class T>
KnnPanels listed_panels(const KnnScratch<T>& s, int64_t first, int64_t last) {
  return {.first = first, .last = last, .count = 0, .panel = s.listed_panel, .position = s.listed_position};
}

// The plan for samples of at most `most_points` points and `all_queries` queries together.
template <class T>
KnnPlan<T> make_plan(const KnnSizes& n, int64_t most_points, int64_t all_queries);

template <class T>
Scratchpad<KnnScratch<T>> knn_scratch(const KnnPlan<T>& plan);

// A point amid the sample x [n, C]. Far from the points it makes scores of little use, but never wrong.
template <class T>
std::vector<T> find_center(const T* x, int64_t n, int64_t C);

// ---- the ways (knn.h): wants_... says whether a sample is worth one ----

template <class T>
void knn_brute(const KnnBatch<T>& batch, const std::vector<int64_t>& samples);

// Whether samples are worth a thread each, which scores all pairs of its points at once; `samples` is their number.
template <class T>
bool wants_square(const KnnBatch<T>& batch, const KnnPlan<T>& plan, int64_t samples);

// Both return false, and write nothing, where scores tell too little: then brute force is the better way.
template <class T>
bool knn_square(const KnnTask<T>& task, const KnnScratch<T>& scratch);
template <class T>
bool wants_pairs(const KnnBatch<T>& batch, int64_t s);
template <class T>
bool knn_pairs(const KnnBatch<T>& batch, int64_t s);

template <class T>
bool wants_tree(const KnnBatch<T>& batch, int64_t s);
template <class T>
void knn_tree(const KnnBatch<T>& batch, const std::vector<int64_t>& samples);

}  // namespace polygraph

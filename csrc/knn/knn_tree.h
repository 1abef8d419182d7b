// A k-d tree over the points of one sample of at most three channels, for the CPU. It only says where to look: which
// points are found, and in what order they are listed, is decided by distances (knn_tree.inc).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/parallel.h"
#include "common/rounding.h"

namespace polygraph {

// Points of a leaf, and queries that go through the tree together: whole vectors of every instruction set.
constexpr int64_t kLeafPoints = 32;

template <class T>
struct KnnBox {
  T low[3], high[3];
};

// Nodes are in preorder: the left child of a node follows it, the right child comes after the left subtree. A subtree
// of l leaves has 2 l - 1 nodes, and its leaves are consecutive. Missing channels are zeros.
template <class T>
struct KnnTree {
  int64_t points = 0;
  int64_t leaves = 0;
  std::vector<KnnBox<T>> nodes;  // [2 leaves - 1], tight bounds
  std::vector<T> coordinates;    // [leaves, 3, kLeafPoints]; inf after the last point
  std::vector<int32_t> id;       // [leaves, kLeafPoints], rows of the sample; -1 after the last point
};

template <class T>
class KnnTreeBuilder {
 public:
  // Tree over x [n, C], 1 <= C <= 3, n >= 1, on all threads if `all_threads`, else on the calling one.
  static KnnTree<T> build(const T* x, int64_t n, int64_t C, bool all_threads) {
    KnnTreeBuilder builder(x, n, C);
    std::vector<Range> open{{0, 0, builder.tree_.leaves}};
    const int64_t threads = all_threads ? static_cast<int64_t>(torch::stable::get_num_threads()) : 1;
    while (threads > 1 && static_cast<int64_t>(open.size()) < 4 * threads && open[0].leaves > 64) {
      std::vector<Range> halves(2 * open.size());
      parallel_tasks(static_cast<int64_t>(open.size()), kWorkPerThread, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const auto at = static_cast<size_t>(i);
          builder.split(open[at], halves[2 * at], halves[2 * at + 1]);
        }
      });
      open.swap(halves);
    }
    parallel_tasks(
        static_cast<int64_t>(open.size()), all_threads ? kWorkPerThread : 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            builder.finish(open[static_cast<size_t>(i)]);
          }
        });
    return std::move(builder.tree_);
  }

 private:
  struct Point {
    T at[3];
    int32_t id;
  };
  struct Range {
    int64_t node, leaf, leaves;
  };

  KnnTreeBuilder(const T* x, int64_t n, int64_t C) : points_(static_cast<size_t>(n)) {
    for (int64_t i = 0; i < n; ++i) {
      Point& point = points_[static_cast<size_t>(i)];
      for (int64_t c = 0; c < 3; ++c) {
        point.at[c] = c < C ? x[i * C + c] : T(0);
      }
      point.id = static_cast<int32_t>(i);
    }
    tree_.points = n;
    tree_.leaves = ceil_div(n, kLeafPoints);
    tree_.nodes.resize(static_cast<size_t>(2 * tree_.leaves - 1));
    tree_.coordinates.resize(static_cast<size_t>(tree_.leaves * 3 * kLeafPoints));
    tree_.id.resize(static_cast<size_t>(tree_.leaves * kLeafPoints));
  }

  Point* begin(const Range& range) {
    return points_.data() + range.leaf * kLeafPoints;
  }
  Point* end(const Range& range) {
    return points_.data() + std::min(tree_.points, (range.leaf + range.leaves) * kLeafPoints);
  }

  const KnnBox<T>& bound(const Range& range) {
    KnnBox<T>& box = tree_.nodes[static_cast<size_t>(range.node)];
    for (int c = 0; c < 3; ++c) {
      box.low[c] = std::numeric_limits<T>::infinity();
      box.high[c] = -box.low[c];
    }
    for (const Point* point = begin(range); point != end(range); ++point) {
      for (int c = 0; c < 3; ++c) {
        box.low[c] = std::min(box.low[c], point->at[c]);
        box.high[c] = std::max(box.high[c], point->at[c]);
      }
    }
    return box;
  }

  // Halves the leaves at the median of the longest side.
  void split(const Range& range, Range& left, Range& right) {
    const KnnBox<T>& box = bound(range);
    int side = 0;
    for (int c = 1; c < 3; ++c) {
      side = box.high[c] - box.low[c] > box.high[side] - box.low[side] ? c : side;
    }
    const int64_t half = range.leaves / 2;
    left = {range.node + 1, range.leaf, half};
    right = {range.node + 2 * half, range.leaf + half, range.leaves - half};
    std::nth_element(begin(range), begin(right), end(range), [side](const Point& a, const Point& b) {
      return a.at[side] < b.at[side];
    });
  }

  void finish(const Range& range) {
    if (range.leaves > 1) {
      Range left;
      Range right;
      split(range, left, right);
      finish(left);
      finish(right);
      return;
    }
    bound(range);
    T* coordinates = tree_.coordinates.data() + range.leaf * 3 * kLeafPoints;
    int32_t* id = tree_.id.data() + range.leaf * kLeafPoints;
    const int64_t count = end(range) - begin(range);
    for (int64_t i = 0; i < kLeafPoints; ++i) {
      for (int64_t c = 0; c < 3; ++c) {
        coordinates[c * kLeafPoints + i] = i < count ? begin(range)[i].at[c] : std::numeric_limits<T>::infinity();
      }
      id[i] = i < count ? begin(range)[i].id : -1;
    }
  }

  std::vector<Point> points_;
  KnnTree<T> tree_;
};

// The queries of one sample, in packets of queries that lie close together, against the tree of its points.
template <class T>
struct KnnTreeTask {
  const KnnTree<T>& tree;
  const KnnTree<T>& queries;  // the same one where the points are the queries
  int64_t k;
  bool exclude_self;
  int64_t capacity;  // candidates of one query
  int64_t base;      // added to every index
  int64_t* index;    // [m, k]
  T* dist2;          // [m, k]
};

struct KnnOpenNode {
  int64_t node, leaf, leaves;
  uint32_t queries;  // bits: the queries of the packet whose limit reaches it
  int64_t epoch;     // of the limits that `queries` was found with
};

// Per-thread scratch; every buffer is uninitialised.
template <class T>
struct KnnTreeScratch {
  T* row;          // [knn_row_points(k)]
  T* value;        // [kLeafPoints, capacity] candidates of each query
  int32_t* index;  // [kLeafPoints, capacity]
  int32_t* order;  // [2 capacity]
};

// Leaves searched for a first bound of the k-th distance: more make a better bound, and cost more.
inline int64_t knn_first_leaves(int64_t k) {
  return std::max<int64_t>(3, (k + k / 2 + kLeafPoints) / kLeafPoints);
}

// Points of the largest subtree that nearest_subtree finds, in whole steps of kth_bound_of_row; at least k.
inline int64_t knn_row_points(int64_t k) {
  return (2 * knn_first_leaves(k) + 1) * kLeafPoints + 128;
}

// Sorts positions [count] of candidates at equal distances by the index of each.
inline void sort_positions(int32_t* positions, int64_t count, const int32_t* index) {
  std::sort(positions, positions + count, [index](int32_t a, int32_t b) { return index[a] < index[b]; });
}

}  // namespace polygraph

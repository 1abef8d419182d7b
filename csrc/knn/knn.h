// The k nearest points of every query, Euclidean, exactly ordered.
//
//   knn(x, y, ...) -> index [B, M, k] int64, dist2 [B, M, k]
//
// x [B, N, C] points, y [B, M, C] queries; T = float32 (half types are widened) or float64, the dtype of dist2.
//   dense   x_ptr, y_ptr absent: query m of sample b sees the points of sample b; index holds rows in [0, N).
//   ragged  B = 1, x_ptr and y_ptr [S+1] int64: the queries y_ptr[s] .. y_ptr[s+1] see the points
//           x_ptr[s] .. x_ptr[s+1]; index holds rows of x. Samples may be empty.
// Candidates of a query: all points it sees, but
//   exclude_self              point m is not a candidate of query m (M = N, y_ptr = x_ptr);
//   height, width             > 0: points and queries are the pixels of an image, row by row (dense,
//                             M = N = height*width);
//   exclude_radius r >= 0     pixels at most r rows and at most r columns away are no candidates (-1: all are);
//   search_radius R >= 0      pixels more than R rows or columns away are no candidates (-1: all are).
//
// The distance is defined to the bit, the same on every device, path, instruction set and number of threads:
//   diff_c = y_c - x_c and sq_c = diff_c * diff_c, each rounded to T (no fused multiply-add);
//   lane[l] = sum of sq_c over c = l, l + 8, l + 16, ... in this order, each sum rounded to T, from 0;
//   d = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7])).
// A row lists the k smallest by (d, index), ascending: ties take the smaller index. A finite point whose d overflows to
// inf is a candidate like any other. NaN or inf in x or y is an error on the CPU and a device-side assertion on CUDA.
//
// Which way runs on the CPU: for each sample the first that fits (knn_cpu.cpp; all give the same bits).
//   pairs   knn_pairs.cpp  points among themselves, C > 3, many of them (C = 64, k = 16: 2500): half of the products
//   tree    knn_tree.cpp   C <= 3, at least 640 + 20 k points: a k-d tree passes over most points
//   square  knn_pairs.cpp  points among themselves, C >= 8, at most a chunk (1024), a sample or more per thread: half
//   too brute   knn_brute.cpp  all else, also images: rows of scores like a matrix product, then selection
// On CUDA, for the whole call (knn_cuda.cu): lists in shared memory (k <= 128), with boxes around the points for C <= 3
// and many points; for larger k sorted lists in global memory.
#pragma once

#include "common/check.h"

namespace polygraph {

// Points of a sample, at most: the number of a point plus the size of a tile fits into 32 bits.
constexpr int64_t kMostPoints = (int64_t(1) << 31) - (int64_t(1) << 16);

struct KnnSizes {
  int64_t B, N, M, C;                     // samples (1 if ragged), points and queries of each, channels
  int64_t S;                              // ragged samples, -1 if dense
  int64_t k;                              // neighbors wanted
  bool exclude_self;                      // never set with a grid: exclude_radius 0 says the same
  int64_t height, width;                  // 0: no grid
  int64_t exclude_radius, search_radius;  // -1: none
};

// The tensors of a call, on both devices. Distance: the type of dist2, float for half types.
template <class T, class Distance = T>
struct KnnTensors {
  KnnSizes n;
  const T* x;            // [B, N, C]
  const T* y;            // [B, M, C]
  const int64_t* x_ptr;  // [S+1], null if dense
  const int64_t* y_ptr;  // [S+1], null if dense
  int64_t* index;        // [B, M, k]
  Distance* dist2;       // [B, M, k]
};

// How many of `size` rows (or columns) lie at most `radius` away from row i; all of them if radius is -1.
inline int64_t knn_window(int64_t i, int64_t radius, int64_t size) {
  if (radius < 0 || radius >= size) {
    return size;
  }
  const int64_t before = i < radius ? i : radius;
  const int64_t after = size - 1 - i < radius ? size - 1 - i : radius;
  return before + after + 1;
}

inline void check_knn_candidates(int64_t sample, int64_t candidates, int64_t k) {
  POLYGRAPH_CHECK(k <= candidates, "knn: sample ", sample, " has ", candidates, " candidates, k is ", k);
}

// Every pixel has k candidates. By symmetry, and because all pixels far from the border are alike, few are checked.
inline void check_knn_grid_candidates(const KnnSizes& n) {
  const int64_t reach = (n.search_radius > n.exclude_radius ? n.search_radius : n.exclude_radius) + 1;
  const int64_t rows = (n.height + 1) / 2 < reach ? (n.height + 1) / 2 : reach;
  const int64_t columns = (n.width + 1) / 2 < reach ? (n.width + 1) / 2 : reach;
  for (int64_t r = 0; r < (rows < 1 ? 1 : rows); ++r) {
    for (int64_t c = 0; c < (columns < 1 ? 1 : columns); ++c) {
      const int64_t seen = knn_window(r, n.search_radius, n.height) * knn_window(c, n.search_radius, n.width);
      const int64_t inner =
          n.search_radius >= 0 && n.search_radius < n.exclude_radius ? n.search_radius : n.exclude_radius;
      const int64_t dropped = inner < 0 ? 0 : knn_window(r, inner, n.height) * knn_window(c, inner, n.width);
      POLYGRAPH_CHECK(
          n.k <= seen - dropped, "knn: sample 0 has ", seen - dropped, " candidates at pixel (", r, ", ", c, "), k is ",
          n.k);
    }
  }
}

// Checks everything that can be told without reading the tensors' values, on every device.
inline KnnSizes check_knn(
    const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_ptr, const std::optional<Tensor>& y_ptr, int64_t k,
    bool exclude_self, int64_t height, int64_t width, int64_t exclude_radius, int64_t search_radius) {
  const char* op = "knn";
  check_floating(op, "x", x);
  check_shape(op, "x", x, "[B, N, C]", {-1, -1, -1});
  check_dtype(op, "y", y, "x", x);
  check_shape(op, "y", y, "[B, M, C]", {x.size(0), -1, x.size(2)});
  check_device(op, "y", y, x);
  KnnSizes n{
      .B = x.size(0),
      .N = x.size(1),
      .M = y.size(1),
      .C = x.size(2),
      .S = -1,
      .k = k,
      .exclude_self = exclude_self,
      .height = height,
      .width = width,
      .exclude_radius = exclude_radius,
      .search_radius = search_radius};
  POLYGRAPH_CHECK(k >= 1, op, ": k must be at least 1, got ", k);
  POLYGRAPH_CHECK(
      n.N <= kMostPoints && n.M <= kMostPoints, op, ": a batch may hold at most 2^31 - 2^16 points, got N = ", n.N,
      " and M = ", n.M);
  POLYGRAPH_CHECK(
      !exclude_self || n.M == n.N, op, ": exclude_self needs as many queries as points, got M = ", n.M,
      " and N = ", n.N);
  POLYGRAPH_CHECK(
      x_ptr.has_value() == y_ptr.has_value(), op, ": x_ptr and y_ptr must be given together, got ",
      x_ptr.has_value() ? "x_ptr" : "y_ptr", " alone");
  if (x_ptr.has_value()) {
    POLYGRAPH_CHECK(n.B == 1, op, ": with ptr, x must have shape [1, N, C], got ", shape_string(x));
    check_dtype(op, "x_ptr", *x_ptr, ScalarType::Long);
    check_shape(op, "x_ptr", *x_ptr, "[S+1]", {-1});
    check_device(op, "x_ptr", *x_ptr, x);
    POLYGRAPH_CHECK(x_ptr->size(0) > 0, op, ": x_ptr must have shape [S+1], got [0]");
    check_dtype(op, "y_ptr", *y_ptr, ScalarType::Long);
    check_shape(op, "y_ptr", *y_ptr, "[S+1]", {x_ptr->size(0)});
    check_device(op, "y_ptr", *y_ptr, x);
    n.S = x_ptr->size(0) - 1;
  }
  POLYGRAPH_CHECK(
      exclude_radius >= -1 && search_radius >= -1, op, ": exclude_radius and search_radius must be at least -1, got ",
      exclude_radius, " and ", search_radius);
  if (height == 0 && width == 0) {
    POLYGRAPH_CHECK(exclude_radius == -1 && search_radius == -1, op, ": exclude_radius and search_radius need a grid");
    if (n.S < 0 && n.B * n.M > 0) {
      check_knn_candidates(0, n.N - (exclude_self ? 1 : 0), k);
    }
    return n;
  }
  POLYGRAPH_CHECK(n.S < 0, op, ": a grid cannot be combined with ptr");
  POLYGRAPH_CHECK(
      height > 0 && width > 0 && height <= n.N && width <= n.N && height * width == n.N && n.M == n.N, op, ": grid ",
      height, " x ", width, " needs N = M = ", height, " * ", width, ", got N = ", n.N, " and M = ", n.M);
  if (exclude_self && exclude_radius < 0) {
    n.exclude_radius = 0;
  }
  n.exclude_self = false;
  // No two pixels are so many rows or columns apart, and sums with radii cannot overflow.
  const int64_t side = height > width ? height : width;
  n.exclude_radius = n.exclude_radius < side ? n.exclude_radius : side;
  n.search_radius = n.search_radius < side ? n.search_radius : side;
  if (n.B > 0) {
    check_knn_grid_candidates(n);
  }
  return n;
}

// A ragged pointer on the CPU, contiguous: rises from 0 to `rows`.
inline void check_knn_ptr(const char* name, const int64_t* ptr, int64_t samples, const char* meaning, int64_t rows) {
  POLYGRAPH_CHECK(ptr[0] == 0, "knn: ", name, " must begin with 0, got ", ptr[0]);
  for (int64_t s = 0; s < samples; ++s) {
    POLYGRAPH_CHECK(
        ptr[s] <= ptr[s + 1], "knn: ", name, " must not fall, got ", ptr[s + 1], " after ", ptr[s], " at position ",
        s + 1);
  }
  POLYGRAPH_CHECK(ptr[samples] == rows, "knn: ", name, " must end with ", meaning, " = ", rows, ", got ", ptr[samples]);
}

// Values of both pointers on the CPU, contiguous; the CUDA kernel asserts the same.
inline void check_knn_samples(const KnnSizes& n, const int64_t* x_ptr, const int64_t* y_ptr) {
  check_knn_ptr("x_ptr", x_ptr, n.S, "N", n.N);
  check_knn_ptr("y_ptr", y_ptr, n.S, "M", n.M);
  for (int64_t s = 0; s < n.S; ++s) {
    POLYGRAPH_CHECK(
        !n.exclude_self || x_ptr[s + 1] == y_ptr[s + 1], "knn: exclude_self needs y_ptr equal to x_ptr, got ",
        y_ptr[s + 1], " and ", x_ptr[s + 1], " at position ", s + 1);
    if (y_ptr[s] < y_ptr[s + 1]) {
      check_knn_candidates(s, x_ptr[s + 1] - x_ptr[s] - (n.exclude_self ? 1 : 0), n.k);
    }
  }
}

}  // namespace polygraph

// Distances of a tile of queries to a tile of points, and the error bound of those that are not exact.
//
// Three arithmetics, all on the same differences diff_c = y_c - x_c, rounded:
//   kShort    C <= 4: the documented order itself, which is then (s0 + s2) + (s1 + s3).
//   kLanes    any C: the documented order, eight lanes in registers. 3 instructions a channel.
//   kChain    any C: one chain of fused multiply-adds, c ascending. 2 instructions a channel, and not exact; what it
//             lets through is computed again, by exact_distances.
// Bound of kChain, with f the chain's sum and d the documented distance, u = 2^-24 (2^-53), e half the least subnormal,
// n = ceil(C/8) + 3: a point with d <= last has f <= up(last * relative + absolute), relative = 1 + 2 (C + n + 1) u,
// absolute = 16 C e. A list by f holds the k nearest of all candidates if its last f exceeds that bound of the largest
// d of its first k, or if all candidates are listed, or if that d is 0. docs/design/knn.md has the proofs, and why
// neither a matrix product nor tensor cores are used.
#pragma once

#include "common/tile_product.cuh"
#include "knn/knn_region.cuh"

namespace polygraph {

enum class KnnArithmetic { kShort, kLanes, kChain };

constexpr int64_t kMaxChannels = int64_t(1) << 22;  // (C + n + 1) u <= 1 by far

template <class A>
A knn_relative(int64_t C) {
  return A(1) + static_cast<A>(C + (C + 7) / 8 + 4) * std::numeric_limits<A>::epsilon();
}

template <class A>
A knn_absolute(int64_t C) {
  return static_cast<A>(8 * C) * std::numeric_limits<A>::denorm_min();
}

// Each rounded on its own, never fused.
__device__ __forceinline__ float rounded_difference(float a, float b) {
  return __fsub_rn(a, b);
}
__device__ __forceinline__ double rounded_difference(double a, double b) {
  return __dsub_rn(a, b);
}
__device__ __forceinline__ float rounded_sum(float a, float b) {
  return __fadd_rn(a, b);
}
__device__ __forceinline__ double rounded_sum(double a, double b) {
  return __dadd_rn(a, b);
}
__device__ __forceinline__ float rounded_square(float a) {
  return __fmul_rn(a, a);
}
__device__ __forceinline__ double rounded_square(double a) {
  return __dmul_rn(a, a);
}
__device__ __forceinline__ float fused(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
__device__ __forceinline__ double fused(double a, double b, double c) {
  return __fma_rn(a, b, c);
}
__device__ __forceinline__ float fused_up(float a, float b, float c) {
  return __fmaf_ru(a, b, c);
}
__device__ __forceinline__ double fused_up(double a, double b, double c) {
  return __fma_ru(a, b, c);
}

template <class A>
__device__ __forceinline__ A infinity() {
  return static_cast<A>(INFINITY);
}

template <class A>
__device__ __forceinline__ bool is_finite(A value) {
  return !(value - value != A(0));  // inf - inf and NaN are not 0
}

template <class A>
__device__ __forceinline__ A warp_max(A value) {
#pragma unroll
  for (int half = 16; half > 0; half /= 2) {
    value = max(value, __shfl_xor_sync(kFullWarp, value, half));
  }
  return value;
}

// The order of the lists.
template <class A>
__device__ __forceinline__ bool comes_before(A d, int number, A other_d, int other_number) {
  return d < other_d || (d == other_d && number < other_number);
}

// kRows queries times kCols points; a thread owns kThreadRows x kThreadCols pairs, laid out as common/tile_product.cuh
// says. The results of a tile replace the stages in shared memory, [kRows, kResultStride].
template <class T, int kQueries, KnnArithmetic kArithmetic_>
struct KnnTile : Tile<
                     T, kQueries, kArithmetic_ == KnnArithmetic::kLanes ? 64 : 128, kQueries / 8,
                     kArithmetic_ == KnnArithmetic::kLanes ? 4 : 8> {
  using Base = Tile<
      T, kQueries, kArithmetic_ == KnnArithmetic::kLanes ? 64 : 128, kQueries / 8,
      kArithmetic_ == KnnArithmetic::kLanes ? 4 : 8>;
  using Element = T;
  using Value = typename Base::Value;
  static constexpr KnnArithmetic kArithmetic = kArithmetic_;
  static constexpr bool kExact = kArithmetic != KnnArithmetic::kChain;
  static constexpr int kDepth = kArithmetic == KnnArithmetic::kShort ? 4 : Base::kDepth;
  static constexpr int kStage = kDepth * (Base::kRowStride + Base::kColStride);
  static constexpr int kResultStride = Base::kCols + 4;
  static constexpr int kWork = std::max(2 * kStage, Base::kRows* kResultStride);  // Values of shared memory
  static constexpr int kPerLane = Base::kCols / 32;  // results of one query that a lane of a warp reads
  static_assert(Base::kThreads == kKnnThreads && kDepth % 4 == 0);
};

// One thread's part of a stage on its way from global to shared memory, with the stage before being summed meanwhile.
// kVec adjacent channels a load; a row's kDepth channels arrive in whole sectors. Channels past C and rows that
// hold nothing are 0. Every value that is ever used passes here, so NaN and inf are seen here.
template <class Shape, int kVec>
struct KnnStage {
  using T = typename Shape::Element;
  using A = typename Shape::Value;
  static constexpr int kLanes = Shape::kDepth / kVec;
  static constexpr int kPassRows = kKnnThreads / kLanes;
  static constexpr int kRowPasses = (Shape::kRows + kPassRows - 1) / kPassRows;
  static constexpr int kColPasses = (Shape::kCols + kPassRows - 1) / kPassRows;

  Pack<T, kVec> left[kRowPasses];
  Pack<T, kVec> right[kColPasses];

  __device__ __forceinline__ static Pack<T, kVec> fetch_one(
      const T* base, const int* numbers, int i, int count, int64_t c, int64_t C) {
    Pack<T, kVec> pack{};
    const int number = i < count ? numbers[i] : -1;
    if (number >= 0 && c < C) {
      pack = load_pack<T, kVec>(base + number * C + c);
    }
    return pack;
  }

  // x and y point to the sample's number 0; queries [kRows] and points [kCols] are numbers, -1 for nothing.
  __device__ __forceinline__ void fetch(
      const T* x, const T* y, const int* queries, const int* points, int64_t c0, int64_t C) {
    const int64_t c = c0 + static_cast<int>(threadIdx.x) % kLanes * kVec;
    const int first = static_cast<int>(threadIdx.x) / kLanes;
#pragma unroll
    for (int pass = 0; pass < kRowPasses; ++pass) {
      left[pass] = fetch_one(y, queries, first + pass * kPassRows, Shape::kRows, c, C);
    }
#pragma unroll
    for (int pass = 0; pass < kColPasses; ++pass) {
      right[pass] = fetch_one(x, points, first + pass * kPassRows, Shape::kCols, c, C);
    }
  }

  __device__ __forceinline__ void store(A* stage) const {
    const int lane = static_cast<int>(threadIdx.x) % kLanes * kVec;
    const int first = static_cast<int>(threadIdx.x) / kLanes;
    A* right_side = stage + Shape::kDepth * Shape::kRowStride;
    bool finite = true;
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
#pragma unroll
      for (int pass = 0; pass < kRowPasses; ++pass) {
        const A value = static_cast<A>(left[pass].lane[v]);
        finite = finite && is_finite(value);
        if (first + pass * kPassRows < Shape::kRows) {
          stage[(lane + v) * Shape::kRowStride + first + pass * kPassRows] = value;
        }
      }
#pragma unroll
      for (int pass = 0; pass < kColPasses; ++pass) {
        const A value = static_cast<A>(right[pass].lane[v]);
        finite = finite && is_finite(value);
        if (first + pass * kPassRows < Shape::kCols) {
          right_side[(lane + v) * Shape::kColStride + first + pass * kPassRows] = value;
        }
      }
    }
    CUDA_KERNEL_ASSERT_MSG(finite, "knn: x and y must be finite");
  }
};

// The sums of a thread's pairs.
template <class Shape>
struct KnnSums {
  using A = typename Shape::Value;
  static constexpr int kRows = Shape::kThreadRows;
  static constexpr int kCols = Shape::kThreadCols;
  static constexpr int kSums = Shape::kArithmetic == KnnArithmetic::kLanes ? 8 : 1;

  A sum[kRows][kCols][kSums] = {};

  // Channel k of a stage for all of the thread's rows and columns.
  static __device__ __forceinline__ void read(
      const A* stage, int k, int row_lane, int col_lane, A (&left)[kRows], A (&right)[kCols]) {
    constexpr int kRowGroup = Shape::kRowGroup;
    constexpr int kColGroup = Shape::kColGroup;
#pragma unroll
    for (int i = 0; i < kRows; i += kRowGroup) {
      const auto group = load_pack<A, kRowGroup>(stage + k * Shape::kRowStride + Shape::row(row_lane, i));
#pragma unroll
      for (int g = 0; g < kRowGroup; ++g) {
        left[i + g] = group.lane[g];
      }
    }
    const A* right_side = stage + Shape::kDepth * Shape::kRowStride;
#pragma unroll
    for (int j = 0; j < kCols; j += kColGroup) {
      const auto group = load_pack<A, kColGroup>(right_side + k * Shape::kColStride + Shape::col(col_lane, j));
#pragma unroll
      for (int g = 0; g < kColGroup; ++g) {
        right[j + g] = group.lane[g];
      }
    }
  }

  // Adds a stage of which the first `depth` channels hold something; the others are 0 and change no sum.
  __device__ __forceinline__ void add_stage(const A* stage, int64_t depth, int row_lane, int col_lane) {
#pragma unroll
    for (int k = 0; k < Shape::kDepth; ++k) {
      if (k % 4 == 0 && k >= depth) {
        return;
      }
      A left[kRows];
      A right[kCols];
      read(stage, k, row_lane, col_lane, left, right);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kCols; ++j) {
          const A diff = rounded_difference(left[i], right[j]);
          A& to = sum[i][j][k % kSums];
          to = Shape::kExact ? rounded_sum(to, rounded_square(diff)) : fused(diff, diff, to);
        }
      }
    }
  }

  __device__ __forceinline__ A total(int i, int j) const {
    const A(&s)[kSums] = sum[i][j];
    if constexpr (kSums == 8) {
      const A even = rounded_sum(rounded_sum(s[0], s[4]), rounded_sum(s[2], s[6]));
      return rounded_sum(even, rounded_sum(rounded_sum(s[1], s[5]), rounded_sum(s[3], s[7])));
    } else {
      return s[0];
    }
  }

  // kShort: the one stage there is, in the documented order.
  __device__ __forceinline__ void set_short(const A* stage, int row_lane, int col_lane) {
    A left[4][kRows];
    A right[4][kCols];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      read(stage, k, row_lane, col_lane, left[k], right[k]);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kCols; ++j) {
        A square[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          square[k] = rounded_square(rounded_difference(left[k][i], right[k][j]));
        }
        sum[i][j][0] = rounded_sum(rounded_sum(square[0], square[2]), rounded_sum(square[1], square[3]));
      }
    }
  }
};

// Leaves the distances of a tile in work [kRows, kResultStride]. All threads of the block come here together and leave
// together. Safe: a stage is written only after the barrier that follows the last sums that read it, the results only
// after all sums; x, y and the numbers are only read.
template <class Shape, int kVec>
__device__ __forceinline__ void tile_distances(
    const typename Shape::Element* x, const typename Shape::Element* y, int64_t C, const int* queries,
    const int* points, typename Shape::Value* work) {
  const int col_lane = static_cast<int>(threadIdx.x) % Shape::kColLanes;
  const int row_lane = static_cast<int>(threadIdx.x) / Shape::kColLanes;
  KnnSums<Shape> sums;
  KnnStage<Shape, kVec> next;
  next.fetch(x, y, queries, points, 0, C);
  next.store(work);
  __syncthreads();
  if constexpr (Shape::kArithmetic == KnnArithmetic::kShort) {
    sums.set_short(work, row_lane, col_lane);
    __syncthreads();
  } else {
    int current = 0;
    for (int64_t c0 = 0; c0 < C; c0 += Shape::kDepth) {
      const bool more = c0 + Shape::kDepth < C;
      if (more) {
        next.fetch(x, y, queries, points, c0 + Shape::kDepth, C);
      }
      sums.add_stage(work + current * Shape::kStage, C - c0, row_lane, col_lane);
      current ^= 1;
      if (more) {
        next.store(work + current * Shape::kStage);
      }
      __syncthreads();
    }
  }
  using A = typename Shape::Value;
  constexpr int kGroup = Shape::kColGroup;
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i) {
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; j += kGroup) {
      Pack<A, kGroup> pack;
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        pack.lane[g] = sums.total(i, j + g);
      }
      store_pack<A, kGroup>(work + Shape::row(row_lane, i) * Shape::kResultStride + Shape::col(col_lane, j), pack);
    }
  }
  __syncthreads();
}

// The documented distance of one pair by the eight threads of a quarter warp, one lane of the sum each: a row is read
// in whole sectors, and halving by 4, 2, 1 is the documented order. All threads of the warp call.
template <class T>
__device__ __forceinline__ Acc<T> exact_distance(const T* x, const T* y, int64_t C) {
  using A = Acc<T>;
  A sum = 0;
#pragma unroll 4
  for (int64_t c = threadIdx.x % 8; c < C; c += 8) {
    sum = rounded_sum(sum, rounded_square(rounded_difference(static_cast<A>(y[c]), static_cast<A>(x[c]))));
  }
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
    sum = rounded_sum(sum, __shfl_xor_sync(kFullWarp, sum, half));
  }
  return sum;
}

// Lanes first .. first + count - 1 get the documented distances of their points to the query at y, four lanes at a
// time; the others get 0. `first`, `count` are the same in all lanes, count > 0. All threads of the warp call.
template <class T>
__device__ __forceinline__ Acc<T> exact_distances(const T* x, const T* y, int64_t C, int point, int first, int count) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Acc<T> mine = 0;
#pragma unroll 1
  for (int done = 0; done < count; done += 4) {
    const int source = first + min(done + lane / 8, count - 1);  // past the last: computed again and not used
    const int other = __shfl_sync(kFullWarp, point, source);
    const Acc<T> d = exact_distance(x + other * C, y, C);
    const int turn = lane - first - done;
    const Acc<T> here = __shfl_sync(kFullWarp, d, turn * 8 & 31);
    mine = turn >= 0 && turn < 4 && done + turn < count ? here : mine;
  }
  return mine;
}

}  // namespace polygraph

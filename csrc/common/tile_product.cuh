// Matrix products whose operands are staged in shared memory by a kernel that gathers them: what a block and a thread
// hold of the result, and the inner loop.
#pragma once

#include "common/cuda_utils.cuh"

namespace polygraph {

// A block of kThreads threads owns kRows x kCols results and walks the summed dimension in stages of kDepth. A stage
// holds left [kDepth, kRowStride] and right [kDepth, kColStride], each line padded by 16 bytes or more so that
// transposing stores spread over the banks. A thread owns kThreadRows x kThreadCols results, in groups of kRowGroup and
// kColGroup adjacent ones that one 16-byte load brings. The groups lie a whole tile's span apart, so that adjacent
// threads read adjacent groups and no bank is read twice. Two stages alternate: one is filled while the other is
// multiplied, with a single barrier in between.
template <class T, int kRows_, int kCols_, int kThreadRows_, int kThreadCols_>
struct Tile {
  using Value = Acc<T>;
  static constexpr int kRows = kRows_;
  static constexpr int kCols = kCols_;
  static constexpr int kThreadRows = kThreadRows_;
  static constexpr int kThreadCols = kThreadCols_;
  static constexpr int kRowLanes = kRows / kThreadRows;
  static constexpr int kColLanes = kCols / kThreadCols;
  static constexpr int kThreads = kRowLanes * kColLanes;
  static constexpr int kDepth = sizeof(Value) == 8 ? 8 : 16;
  static constexpr int kGroup = 16 / static_cast<int>(sizeof(Value));
  static constexpr int kRowGroup = kThreadRows < kGroup ? kThreadRows : kGroup;
  static constexpr int kColGroup = kThreadCols < kGroup ? kThreadCols : kGroup;
  static constexpr int kRowStride = kRows + 4;
  static constexpr int kColStride = kCols + 4;
  static constexpr int kStage = kDepth * (kRowStride + kColStride);
  static constexpr int64_t kSharedBytes = 2 * kStage * int64_t(sizeof(Value));
  static_assert(kThreadRows % kRowGroup == 0 && kThreadCols % kColGroup == 0 && kRowLanes % 2 == 0);

  // This thread's lane along either side. Threads t and t ^ 1 read the same group of right, t and t ^ 2 (where right
  // has more than one lane) the same group of left: a load of 16 bytes a thread then takes two passes over the banks,
  // and four otherwise.
  static __device__ __forceinline__ int row_lane() {
    return static_cast<int>(threadIdx.x) / (2 * kColLanes) * 2 + static_cast<int>(threadIdx.x) % 2;
  }
  static __device__ __forceinline__ int col_lane() {
    return static_cast<int>(threadIdx.x) / 2 % kColLanes;
  }

  // Where in the tile the i-th row (column) of the thread at `lane` along that side lies.
  static __device__ __forceinline__ int row(int lane, int i) {
    return i / kRowGroup * (kRowLanes * kRowGroup) + lane * kRowGroup + i % kRowGroup;
  }
  static __device__ __forceinline__ int col(int lane, int i) {
    return i / kColGroup * (kColLanes * kColGroup) + lane * kColGroup + i % kColGroup;
  }

  // The inverse: the lane that a row of the tile belongs to, and which of the lane's rows it is.
  static __device__ __forceinline__ int row_lane_of(int row) {
    return row % (kRowLanes * kRowGroup) / kRowGroup;
  }
  static __device__ __forceinline__ int row_place_of(int row) {
    return row / (kRowLanes * kRowGroup) * kRowGroup + row % kRowGroup;
  }

  // acc[i][j] += sum_k left[k, row i] * right[k, col j], k ascending. Unrolled further, the compiler loads so far ahead
  // that registers leave room for half as many warps.
  static __device__ __forceinline__ void multiply(
      Value (&acc)[kThreadRows][kThreadCols], const Value* stage, int row_lane, int col_lane) {
    const Value* right_side = stage + kDepth * kRowStride;
#pragma unroll 8
    for (int k = 0; k < kDepth; ++k) {
      Value left[kThreadRows];
      Value right[kThreadCols];
#pragma unroll
      for (int i = 0; i < kThreadRows; i += kRowGroup) {
        const auto group = load_pack<Value, kRowGroup>(stage + k * kRowStride + row(row_lane, i));
#pragma unroll
        for (int g = 0; g < kRowGroup; ++g) {
          left[i + g] = group.lane[g];
        }
      }
#pragma unroll
      for (int j = 0; j < kThreadCols; j += kColGroup) {
        const auto group = load_pack<Value, kColGroup>(right_side + k * kColStride + col(col_lane, j));
#pragma unroll
        for (int g = 0; g < kColGroup; ++g) {
          right[j + g] = group.lane[g];
        }
      }
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
        for (int j = 0; j < kThreadCols; ++j) {
          acc[i][j] += left[i] * right[j];
        }
      }
    }
  }
};

// Blocks of a multiprocessor that the registers of a kernel must leave room for: about as many as it takes without
// spilling. Without a number the compiler aims at more, and spills. kVec elements a load from global memory; kLargest:
// for 64 results a thread.
template <class Shape, int kVec, int kLargest>
constexpr int kTileBlocks = Shape::kThreadRows * Shape::kThreadCols > 32      ? kLargest
                            : Shape::kThreadRows * Shape::kThreadCols <= 8    ? 4
                            : kVec == 1 || sizeof(typename Shape::Value) == 8 ? 2
                            : Shape::kThreadRows * Shape::kThreadCols > 16    ? 4
                                                                              : 5;

// Stores a thread's results of one row, which starts at `row` and has `columns` columns, of which the tile's first is
// column0: a group in one store where rows are whole groups.
template <class T, class Shape>
__device__ __forceinline__ void store_columns(
    T* row, const typename Shape::Value (&results)[Shape::kThreadCols], int64_t column0, int64_t columns,
    int col_lane) {
  constexpr int kGroup = Shape::kColGroup;
#pragma unroll
  for (int j = 0; j < Shape::kThreadCols; j += kGroup) {
    const int64_t column = column0 + Shape::col(col_lane, j);
    if (column >= columns) {
      continue;
    }
    Pack<T, kGroup> pack;
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      pack.lane[g] = static_cast<T>(results[j + g]);
    }
    if (columns % kGroup == 0) {
      store_global<T, kGroup>(row + column, pack);
    } else {
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        if (column + g < columns) {
          row[column + g] = pack.lane[g];
        }
      }
    }
  }
}

}  // namespace polygraph

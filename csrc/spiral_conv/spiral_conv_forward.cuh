// CUDA kernel of the spiral convolution itself; spiral_conv_cuda.cu launches it.
//
// A matrix product whose left operand is gathered while it is staged in shared memory (see common/tile_product.cuh):
// nothing of size [B, M, S*C] exists. Each result is one thread's sum over k = s*C + c, ascending, whatever the tile.
#pragma once

#include "common/tile_product.cuh"
#include "spiral_conv/spiral_conv.h"

namespace polygraph {

// Where row (b, m) of a tile reads: sample b starts at source row x, its neighbors are listed from index on.
struct SpiralRow {
  int64_t x;      // b * V
  int64_t index;  // m * S
};

// One thread's part of a stage on its way from global memory (fetch) to shared memory (store), with the product of the
// stage before in between to hide the way. Along the summed dimension k = s*C + c the threads lie kVec apart, so that a
// row's kDepth neighbors arrive in whole sectors; k is the same for all rows of a thread.
template <class T, class Shape, int kVec>
struct SpiralStage {
  static constexpr int kLanes = Shape::kDepth / kVec;
  static constexpr int kPassRows = Shape::kThreads / kLanes;
  static constexpr int kRowPasses = ceil_div(Shape::kRows, kPassRows);
  static constexpr int kColPasses = ceil_div(Shape::kCols, kPassRows);

  Pack<T, kVec> left[kRowPasses];
  Pack<T, kVec> right[kColPasses];
  int first;        // this thread's first row and column of the tile
  int64_t s, c, k;  // the next column to fetch

  __device__ __forceinline__ explicit SpiralStage(int64_t C) {
    const int lane = static_cast<int>(threadIdx.x) % kLanes * kVec;
    first = static_cast<int>(threadIdx.x) / kLanes;
    k = lane;
    s = C > 0 ? quotient(k, C) : 0;
    c = k - s * C;
  }

  __device__ __forceinline__ void fetch(const SpiralForwardParams<T>& p, const SpiralRow* rows, int64_t d0) {
    const int64_t depth = p.n.S * p.n.C;
    const bool inside = k < depth;
    int64_t source[kRowPasses];
    bool good = true;
#pragma unroll
    for (int pass = 0; pass < kRowPasses; ++pass) {
      const int row = min(first + pass * kPassRows, Shape::kRows - 1);
      source[pass] = inside ? p.index[rows[row].index + s] : -1;
      good = good && static_cast<uint64_t>(source[pass]) + 1 <= static_cast<uint64_t>(p.n.V);
    }
    CUDA_KERNEL_ASSERT_MSG(good, "spiral_conv: index is out of range");
#pragma unroll
    for (int pass = 0; pass < kRowPasses; ++pass) {
      const int row = min(first + pass * kPassRows, Shape::kRows - 1);
      left[pass] = Pack<T, kVec>{};
      if (source[pass] >= 0) {
        left[pass] = load_pack<T, kVec>(p.x + (rows[row].x + source[pass]) * p.n.C + c);
      }
    }
#pragma unroll
    for (int pass = 0; pass < kColPasses; ++pass) {
      const int col = first + pass * kPassRows;
      right[pass] = Pack<T, kVec>{};
      if (inside && col < Shape::kCols && d0 + col < p.n.D) {
        right[pass] = load_pack<T, kVec>(p.weight + (d0 + col) * depth + k);
      }
    }
    if (inside) {
      k += Shape::kDepth;
      const int64_t slots = quotient(Shape::kDepth, p.n.C);
      s += slots;
      c += Shape::kDepth - slots * p.n.C;
      if (c >= p.n.C) {
        c -= p.n.C;
        ++s;
      }
    }
  }

  // left [kDepth, kRowStride] and right [kDepth, kColStride] of the stage.
  __device__ __forceinline__ void store(typename Shape::Value* stage) const {
    const int lane = static_cast<int>(threadIdx.x) % kLanes * kVec;
    typename Shape::Value* right_side = stage + Shape::kDepth * Shape::kRowStride;
#pragma unroll
    for (int pass = 0; pass < kRowPasses; ++pass) {
      const int row = first + pass * kPassRows;
      if (Shape::kRows % kPassRows == 0 || row < Shape::kRows) {
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          stage[(lane + v) * Shape::kRowStride + row] = static_cast<typename Shape::Value>(left[pass].lane[v]);
        }
      }
    }
#pragma unroll
    for (int pass = 0; pass < kColPasses; ++pass) {
      const int col = first + pass * kPassRows;
      if (Shape::kCols % kPassRows == 0 || col < Shape::kCols) {
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          right_side[(lane + v) * Shape::kColStride + col] = static_cast<typename Shape::Value>(right[pass].lane[v]);
        }
      }
    }
  }
};

template <class T, class Shape>
__device__ __forceinline__ void store_spiral_tile(
    const SpiralForwardParams<T>& p, typename Shape::Value (&acc)[Shape::kThreadRows][Shape::kThreadCols], int64_t row0,
    int64_t d0, int row_lane, int col_lane) {
  if (p.bias != nullptr) {
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const int64_t d = d0 + Shape::col(col_lane, j);
      if (d < p.n.D) {
        const auto shift = static_cast<typename Shape::Value>(p.bias[d]);
#pragma unroll
        for (int i = 0; i < Shape::kThreadRows; ++i) {
          acc[i][j] += shift;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < Shape::kThreadRows; ++i) {
    const int64_t row = row0 + Shape::row(row_lane, i);
    if (row < p.n.B * p.n.M) {
      store_columns<T, Shape>(p.out + row * p.n.D, acc[i], d0, p.n.D, col_lane);
    }
  }
}

// A block computes Shape::kRows rows (b, m), flattened, times Shape::kCols columns d of out. It reads x rows through
// the table, kVec channels a load (C a multiple of kVec, x and weight aligned to it), and the matching columns of
// weight. Rows past the end repeat the last one and are not stored. Safe: a stage is written only after the barrier
// after the last product that read it, and every out element has one writer.
template <class T, class Shape, int kVec>
__global__ void __launch_bounds__(Shape::kThreads, kTileBlocks<Shape, kVec, 3>)
    spiral_conv_kernel(SpiralForwardParams<T> p) {
  using Value = typename Shape::Value;
  Value* stages = reinterpret_cast<Value*>(polygraph_shared_memory);
  SpiralRow* rows = reinterpret_cast<SpiralRow*>(stages + 2 * Shape::kStage);
  const int64_t row_tile = quotient(blockIdx.x, p.column_tiles);
  const int64_t d0 = (blockIdx.x - row_tile * p.column_tiles) * Shape::kCols;
  const int64_t row0 = row_tile * Shape::kRows;
  for (int r = threadIdx.x; r < Shape::kRows; r += Shape::kThreads) {
    const int64_t last = p.n.B * p.n.M - 1;
    const int64_t row = row0 + r < last ? row0 + r : last;
    const int64_t b = quotient(row, p.n.M);
    rows[r] = {b * p.n.V, (row - b * p.n.M) * p.n.S};
  }
  __syncthreads();
  const int row_lane = Shape::row_lane();
  const int col_lane = Shape::col_lane();
  Value acc[Shape::kThreadRows][Shape::kThreadCols] = {};
  SpiralStage<T, Shape, kVec> next(p.n.C);
  next.fetch(p, rows, d0);
  next.store(stages);
  __syncthreads();
  int current = 0;
  const int64_t depth = p.n.S * p.n.C;
  for (int64_t k0 = Shape::kDepth; k0 < depth; k0 += Shape::kDepth) {
    next.fetch(p, rows, d0);
    Shape::multiply(acc, stages + current * Shape::kStage, row_lane, col_lane);
    current ^= 1;
    next.store(stages + current * Shape::kStage);
    __syncthreads();
  }
  Shape::multiply(acc, stages + current * Shape::kStage, row_lane, col_lane);
  store_spiral_tile<T, Shape>(p, acc, row0, d0, row_lane, col_lane);
}

}  // namespace polygraph

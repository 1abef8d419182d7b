// CUDA kernel of the spiral convolution's derivative in the weight; spiral_conv_cuda.cu launches it.
//
// A matrix product over shares of the rows, whose partial sums are added in order: results repeat bit for bit.
#pragma once

#include "common/tile_product.cuh"
#include "spiral_conv/spiral_conv.h"

namespace polygraph {

// As SpiralStage of the forward, but the summed dimension is the rows (b, m), and both sides lie in shared memory as in
// global memory: left is kDepth gathered rows of columns s*C + c, right as many rows of grad. A thread's column never
// changes; its position (b, m) advances row by row, without a division.
template <class T, class Shape, int kVec>
struct SpiralRowStage {
  using Value = typename Shape::Value;
  static constexpr int kLanes = Shape::kRows / kVec;
  static constexpr int kPassRows = Shape::kThreads / kLanes;
  static constexpr int kPasses = Shape::kDepth / kPassRows;
  static constexpr int kGradPassRows = Shape::kThreads / Shape::kCols;
  static constexpr int kGradPasses = ceil_div(Shape::kDepth, kGradPassRows);
  static_assert(kPasses * kPassRows == Shape::kDepth && kLanes * kPassRows == Shape::kThreads);

  Pack<T, kVec> left[kPasses];
  T right[kGradPasses];
  bool inside;   // this thread's column exists
  int64_t s, c;  // its slot and channel
  int64_t row;   // the next row to gather, = b * M + m
  int64_t b, m;
  int64_t grad_row;  // the next row of grad to read

  __device__ __forceinline__
  SpiralRowStage(const SpiralBackwardWeightParams<T, Acc<T>>& p, int64_t row0, int64_t column0) {
    const int64_t column = column0 + static_cast<int>(threadIdx.x) % kLanes * kVec;
    inside = column < p.n.S * p.n.C;
    s = quotient(column, p.n.C);
    c = column - s * p.n.C;
    row = row0 + static_cast<int>(threadIdx.x) / kLanes;
    b = quotient(row, p.n.M);
    m = row - b * p.n.M;
    grad_row = row0 + static_cast<int>(threadIdx.x) / Shape::kCols;
  }

  __device__ __forceinline__ void fetch(const SpiralBackwardWeightParams<T, Acc<T>>& p, int64_t end, int64_t d0) {
    int64_t from[kPasses];
    bool good = true;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int64_t source = inside && row < end ? p.index[m * p.n.S + s] : -1;
      good = good && static_cast<uint64_t>(source) + 1 <= static_cast<uint64_t>(p.n.V);
      from[pass] = source < 0 ? -1 : (b * p.n.V + source) * p.n.C + c;
      row += kPassRows;
      m += kPassRows;
      while (m >= p.n.M) {
        m -= p.n.M;
        ++b;
      }
    }
    CUDA_KERNEL_ASSERT_MSG(good, "spiral_conv_backward_weight: index is out of range");
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      left[pass] = Pack<T, kVec>{};
      if (from[pass] >= 0) {
        left[pass] = load_pack<T, kVec>(p.x + from[pass]);
      }
    }
    const int64_t d = d0 + static_cast<int>(threadIdx.x) % Shape::kCols;
#pragma unroll
    for (int pass = 0; pass < kGradPasses; ++pass) {
      const int64_t at = grad_row + pass * kGradPassRows;
      right[pass] = d < p.n.D && at < end ? p.grad[at * p.n.D + d] : T(0);
    }
    grad_row += Shape::kDepth;
  }

  __device__ __forceinline__ void store(Value* stage) const {
    constexpr int kGroup = kVec < Shape::kGroup ? kVec : Shape::kGroup;
    const int line = static_cast<int>(threadIdx.x) / kLanes;
    const int column = static_cast<int>(threadIdx.x) % kLanes * kVec;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      Value* to = stage + (line + pass * kPassRows) * Shape::kRowStride + column;
#pragma unroll
      for (int v = 0; v < kVec; v += kGroup) {
        Pack<Value, kGroup> pack;
#pragma unroll
        for (int g = 0; g < kGroup; ++g) {
          pack.lane[g] = static_cast<Value>(left[pass].lane[v + g]);
        }
        store_pack<Value, kGroup>(to + v, pack);
      }
    }
    Value* right_side = stage + Shape::kDepth * Shape::kRowStride + static_cast<int>(threadIdx.x) % Shape::kCols;
#pragma unroll
    for (int pass = 0; pass < kGradPasses; ++pass) {
      const int grad_line = static_cast<int>(threadIdx.x) / Shape::kCols + pass * kGradPassRows;
      if (grad_line < Shape::kDepth) {
        right_side[grad_line * Shape::kColStride] = static_cast<Value>(right[pass]);
      }
    }
  }
};

// A block computes Shape::kRows columns s*C + c times Shape::kCols columns d of gw, summed over one share of the rows
// (b, m), into its own part of `partial`; sum_shares_kernel adds the shares. Blocks of one share are adjacent, so that
// its rows of x and grad come from L2 after the first. Safe: a stage is written only after the
// barrier after the last product that read it, and every element of partial has one writer.
template <class T, class Shape, int kVec>
__global__ void __launch_bounds__(Shape::kThreads, sizeof(Acc<T>) == 8 ? 3 : 4)
    spiral_conv_backward_weight_kernel(SpiralBackwardWeightParams<T, Acc<T>> p) {
  using Value = typename Shape::Value;
  Value* stages = reinterpret_cast<Value*>(polygraph_shared_memory);
  const int64_t width = p.n.S * p.n.C;
  const int64_t tiles = p.row_tiles * ceil_div(p.n.D, Shape::kCols);
  const int64_t share = quotient(blockIdx.x, tiles);
  const int64_t tile = blockIdx.x - share * tiles;
  const int64_t col_tile = quotient(tile, p.row_tiles);
  const int64_t column0 = (tile - col_tile * p.row_tiles) * Shape::kRows;
  const int64_t d0 = col_tile * Shape::kCols;
  const int64_t begin = share * p.share_rows;
  const int64_t rows = p.n.B * p.n.M;
  const int64_t end = begin + p.share_rows < rows ? begin + p.share_rows : rows;
  const int row_lane = Shape::row_lane();
  const int col_lane = Shape::col_lane();
  Value acc[Shape::kThreadRows][Shape::kThreadCols] = {};
  SpiralRowStage<T, Shape, kVec> next(p, begin, column0);
  next.fetch(p, end, d0);
  next.store(stages);
  __syncthreads();
  int current = 0;
  for (int64_t row = begin + Shape::kDepth; row < end; row += Shape::kDepth) {
    next.fetch(p, end, d0);
    Shape::multiply(acc, stages + current * Shape::kStage, row_lane, col_lane);
    current ^= 1;
    next.store(stages + current * Shape::kStage);
    __syncthreads();
  }
  Shape::multiply(acc, stages + current * Shape::kStage, row_lane, col_lane);
  Value* partial = p.partial + share * p.n.D * width;
#pragma unroll
  for (int j = 0; j < Shape::kThreadCols; ++j) {
    const int64_t d = d0 + Shape::col(col_lane, j);
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; i += Shape::kRowGroup) {
      const int64_t column = column0 + Shape::row(row_lane, i);
      if (d >= p.n.D || column >= width) {
        continue;
      }
      Pack<Value, Shape::kRowGroup> pack;
#pragma unroll
      for (int g = 0; g < Shape::kRowGroup; ++g) {
        pack.lane[g] = acc[i + g][j];
      }
      Value* to = partial + d * width + column;
      if (width % Shape::kRowGroup == 0) {
        store_global<Value, Shape::kRowGroup>(to, pack);
      } else {
#pragma unroll
        for (int g = 0; g < Shape::kRowGroup; ++g) {
          if (column + g < width) {
            to[g] = pack.lane[g];
          }
        }
      }
    }
  }
}

}  // namespace polygraph

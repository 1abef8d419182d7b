// Spiral convolution and its two partial derivatives.
//
//   spiral_conv          out[b, m, d] = sum_{s, c} weight[d, s*C + c] x[b, index[m, s], c] (+ bias[d])
//   ..._backward_x       gx[b, u, c]  = sum_{(m, s): index[m, s] = u} sum_d weight[d, s*C + c] grad[b, m, d]
//   ..._backward_weight  gw[d, s*C+c] = sum_{b, m} grad[b, m, d] x[b, index[m, s], c]
//
// x [B, V, C], index [M, S] int64 with entries in [-1, V) (-1 reads zeros), weight [D, S*C], bias [D],
// grad and out [B, M, D]. The three are the partial derivatives of one trilinear form <grad, conv(x, weight)>, so
// every derivative of any of them is again one of them. backward_x gathers through the transposed table
// (t_ptr [V+1], t_entry [M*S]: flat positions m*S + s, grouped by source u), so that no sum is ever contended and
// results repeat bit for bit whatever the number of threads.
#pragma once

#include "common/table.h"

namespace polygraph {

struct SpiralSizes {
  int64_t B, V, C;  // samples, source vertices, channels in
  int64_t M, S, D;  // target vertices, spiral length, channels out
};

// What the kernels take, on both devices. On the CPU T is float or double and `weight` is laid out anew for the kernel:
// in panels (pack_panels in spiral_conv_kernel.inc), whose rows are padded to whole vectors. Fields with a default
// belong to one device.
template <class T>
struct SpiralForwardParams {
  SpiralSizes n;
  const T* x;                // [B, V, C]
  const int64_t* index;      // [M, S]
  const T* weight;           // [D, S*C]; CPU: panels [S*C, D padded]
  const T* bias;             // [D] or null; CPU: [D padded], zeros without a bias
  T* out;                    // [B, M, D]
  const T* zeros = nullptr;  // CPU: [C], what the source -1 holds
  int64_t column_tiles = 0;  // CUDA: tiles along D
};

template <class T>
struct SpiralBackwardXParams {
  SpiralSizes n;
  const T* grad;              // [B, M, D]
  const T* weight;            // [D, S*C]; CPU: panels [S*D, C padded]
  const int64_t* t_ptr;       // [V+1]
  const int64_t* t_entry;     // [M*S]
  T* out;                     // [B, V, C]
  const T* narrow = nullptr;  // CPU, C <= 3 and D whole vectors: the weight as [S, C, D], in place of the panels
};

// A: the type of the sums, float for half types on CUDA.
template <class T, class A = T>
struct SpiralBackwardWeightParams {
  SpiralSizes n;
  const T* grad;             // [B, M, D]
  const T* x;                // [B, V, C]
  const int64_t* index;      // [M, S]
  bool gather_wide = false;  // CPU: vectors run along C (true) or along D
  int64_t sum_stride = 0;    // CPU: that side's width in whole vectors
  A* partial = nullptr;      // CUDA: [shares, D, S*C]
  int64_t row_tiles = 0;     // CUDA: tiles along S*C
  int64_t shares = 0;        // CUDA: parts that the rows (b, m) are cut into
  int64_t share_rows = 0;    // CUDA: rows of a part, the last one may have fewer
};

// CPU, backward_weight: rows whose gradients stay in L1 while the tiles of the weight pass over them.
constexpr int64_t kGradientRows = 256;

inline SpiralSizes check_spiral_conv(
    const char* op, const Tensor& x, const Tensor& index, const Tensor& weight, const std::optional<Tensor>& bias) {
  check_floating(op, "x", x);
  check_shape(op, "x", x, "[B, V, C]", {-1, -1, -1});
  check_table(op, index, "[M, S]", x);
  const int64_t C = x.size(2);
  check_width(op, "channels of x", C);
  const int64_t S = index.size(1);
  check_dtype(op, "weight", weight, "x", x);
  check_shape(op, "weight", weight, "[D, S*C]", {-1, S * C});
  check_device(op, "weight", weight, x);
  const int64_t D = weight.size(0);
  if (bias.has_value()) {
    check_dtype(op, "bias", *bias, "x", x);
    check_shape(op, "bias", *bias, "[D]", {D});
    check_device(op, "bias", *bias, x);
  }
  return {x.size(0), x.size(1), C, index.size(0), S, D};
}

inline SpiralSizes check_spiral_conv_backward_x(
    const Tensor& grad, const Tensor& index, const Tensor& weight, const Tensor& t_ptr, const Tensor& t_entry) {
  const char* op = "spiral_conv_backward_x";
  check_floating(op, "grad", grad);
  check_shape(op, "grad", grad, "[B, M, D]", {-1, -1, -1});
  check_table(op, index, "[M, S]", grad);
  const int64_t M = grad.size(1);
  const int64_t D = grad.size(2);
  const int64_t S = index.size(1);
  check_shape(op, "index", index, "[M, S]", {M, S});
  check_dtype(op, "weight", weight, "grad", grad);
  check_device(op, "weight", weight, grad);
  check_shape(op, "weight", weight, "[D, S*C]", {D, -1});
  POLYGRAPH_CHECK(
      weight.size(1) % S == 0, op, ": weight must have a multiple of S = ", S, " columns, got ", weight.size(1));
  check_transposed_shape(op, index, -1, t_ptr, t_entry, grad);
  return {grad.size(0), t_ptr.size(0) - 1, weight.size(1) / S, M, S, D};
}

inline SpiralSizes check_spiral_conv_backward_weight(const Tensor& grad, const Tensor& x, const Tensor& index) {
  const char* op = "spiral_conv_backward_weight";
  check_floating(op, "x", x);
  check_shape(op, "x", x, "[B, V, C]", {-1, -1, -1});
  check_table(op, index, "[M, S]", x);
  check_width(op, "channels of x", x.size(2));
  check_dtype(op, "grad", grad, "x", x);
  check_shape(op, "grad", grad, "[B, M, D]", {x.size(0), index.size(0), -1});
  check_device(op, "grad", grad, x);
  return {x.size(0), x.size(1), x.size(2), index.size(0), index.size(1), grad.size(2)};
}

}  // namespace polygraph

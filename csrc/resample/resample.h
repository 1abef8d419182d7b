// Mesh resampling (a sparse row gather with a few weighted terms per row) and its two partial derivatives.
//
//   resample            out[b, m, c] = sum_t weight[m, t] x[b, index[m, t], c]
//   ..._backward_x      gx[b, u, c]  = sum_{(m, t): index[m, t] = u} weight[m, t] grad[b, m, c]
//   ..._backward_weight gw[m, t]     = sum_{b, c} grad[b, m, c] x[b, index[m, t], c]
//
// x [B, V, C], index [M, T] int64 with entries in [-1, V) (-1 adds nothing), weight [M, T], grad and out [B, M, C].
// Like the spiral convolution these are the partial derivatives of one trilinear form; backward_x gathers through the
// transposed table (t_ptr [V+1], t_entry [M*T]), so results repeat bit for bit.
#pragma once

#include "common/table.h"

namespace polygraph {

struct ResampleSizes {
  int64_t B, V, C;  // samples, source vertices, channels
  int64_t M, T;     // target vertices, terms per target
};

// What the kernels take, on both devices; each operator leaves null what it does not read.
template <class T>
struct ResampleParams {
  ResampleSizes n;
  const T* x = nullptr;              // [B, V, C]; not read by backward_x
  const T* grad = nullptr;           // [B, M, C]; not read by the forward pass
  const int64_t* index = nullptr;    // [M, T]; not read by backward_x
  const T* weight = nullptr;         // [M, T]; not read by backward_weight
  const int64_t* t_ptr = nullptr;    // [V+1]; backward_x only
  const int64_t* t_entry = nullptr;  // [M*T]; backward_x only
  T* out;                            // [B, M, C], [B, V, C] or [M, T]
};

inline ResampleSizes check_resample(const Tensor& x, const Tensor& index, const Tensor& weight) {
  const char* op = "resample";
  check_floating(op, "x", x);
  check_shape(op, "x", x, "[B, V, C]", {-1, -1, -1});
  check_table(op, index, "[M, T]", x);
  check_dtype(op, "weight", weight, "x", x);
  check_shape(op, "weight", weight, "[M, T]", {index.size(0), index.size(1)});
  check_device(op, "weight", weight, x);
  return {x.size(0), x.size(1), x.size(2), index.size(0), index.size(1)};
}

inline ResampleSizes check_resample_backward_x(
    const Tensor& grad, const Tensor& index, const Tensor& weight, const Tensor& t_ptr, const Tensor& t_entry) {
  const char* op = "resample_backward_x";
  check_floating(op, "grad", grad);
  check_shape(op, "grad", grad, "[B, M, C]", {-1, -1, -1});
  check_table(op, index, "[M, T]", grad);
  check_shape(op, "index", index, "[M, T]", {grad.size(1), -1});
  check_dtype(op, "weight", weight, "grad", grad);
  check_shape(op, "weight", weight, "[M, T]", {index.size(0), index.size(1)});
  check_device(op, "weight", weight, grad);
  check_transposed_shape(op, index, -1, t_ptr, t_entry, grad);
  return {grad.size(0), t_ptr.size(0) - 1, grad.size(2), index.size(0), index.size(1)};
}

inline ResampleSizes check_resample_backward_weight(const Tensor& grad, const Tensor& x, const Tensor& index) {
  const char* op = "resample_backward_weight";
  check_floating(op, "x", x);
  check_shape(op, "x", x, "[B, V, C]", {-1, -1, -1});
  check_table(op, index, "[M, T]", x);
  check_dtype(op, "grad", grad, "x", x);
  check_shape(op, "grad", grad, "[B, M, C]", {x.size(0), index.size(0), x.size(2)});
  check_device(op, "grad", grad, x);
  return {x.size(0), x.size(1), x.size(2), index.size(0), index.size(1)};
}

}  // namespace polygraph

// What the CUDA kernels of the polynomial step take.
#pragma once

#include "common/cuda_utils.cuh"
#include "poly_step/poly_step.h"

namespace polygraph {

// Rows of D channels that may be slices of a wider tensor: the last dimension is dense, the others have strides.
template <class T>
struct PolyRows {
  const T* data = nullptr;  // null: absent
  int64_t sample_stride = 0;
  int64_t row_stride = 0;

  __device__ __forceinline__ const T* row(int64_t b, int64_t v) const {
    return data + b * sample_stride + v * row_stride;
  }
};

template <class T>
struct PolyTerms {
  PolyRows<T> a, s;  // [B, V, D]
};

// A scale or bias: one value per channel [D] (row_stride 0), one per vertex and channel [V, D] (row_stride D), or none.
template <class T>
struct PolyFactors {
  const T* data = nullptr;  // null: absent
  int64_t row_stride = 0;
  bool packs = false;  // data is aligned to 16 bytes
};

template <class T>
struct PolyForwardParams {
  PolySizes n;
  PolyTerms<T> terms;
  PolyRows<T> skip;  // [B, V, D] or absent
  PolyFactors<T> scale, bias;
  const Acc<T>* rnorm;  // [B, D]
  int activation;
  T* out;  // [B, V, D]
};

template <class T>
struct PolyBackwardParams {
  PolySizes n;
  PolyTerms<T> terms;
  const T* grad;  // [B, V, D]
  const T* out;   // [B, V, D]
  PolyFactors<T> scale;
  const Acc<T>* rnorm;  // [B, D]
  int64_t norm;
  int activation;
  bool packs;          // D and all rows allow 16-byte loads
  Acc<T>* partial;     // [B, shares, 2, D]: sums of scale dz u and of dz over a share
  Acc<T>* through;     // [B, D]: scale P / V, or P / V where there is a scale per vertex
  Acc<T>* scale_sums;  // [B, D]: sum_v dz u, of a scale per channel
  Acc<T>* bias_sums;   // [B, D]: sum_v dz
  T* grad_a;           // rows of D, grad_stride apart
  T* grad_s;           // rows of D, grad_stride apart
  int64_t grad_stride;
  T* grad_skip;          // [B, V, D] or null
  T* grad_vertex_scale;  // [V, D] or null
  T* grad_vertex_bias;   // [V, D] or null
};

}  // namespace polygraph

// The only includes of torch in this library: its stable ABI, so that one build runs on every torch >= 2.10.
#pragma once

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#include <cstdint>
#include <optional>

namespace polygraph {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline bool is_half(ScalarType type) {
  return type == ScalarType::Half || type == ScalarType::BFloat16;
}

// Half types are computed in float on the CPU: the tensor itself when it is wide enough already.
inline Tensor widened(const Tensor& tensor) {
  return is_half(tensor.scalar_type()) ? torch::stable::to(tensor, ScalarType::Float) : tensor;
}

inline Tensor narrowed(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

}  // namespace polygraph

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

inline std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  std::optional<Tensor> result;
  if (tensor.has_value()) {
    result = dense(*tensor);
  }
  return result;
}

inline bool is_half(ScalarType type) {
  return type == ScalarType::Half || type == ScalarType::BFloat16;
}

// Half types are computed in float on the CPU: the tensor itself when it is wide enough already.
inline Tensor widened(const Tensor& tensor) {
  return is_half(tensor.scalar_type()) ? torch::stable::to(tensor, ScalarType::Float) : tensor;
}

inline std::optional<Tensor> widened(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(widened(*tensor)) : std::nullopt;
}

inline Tensor narrowed(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

// Calls fn(T()) with the type that the CPU computes in.
template <class F>
void dispatch_wide(const Tensor& tensor, const F& fn) {
  if (tensor.scalar_type() == ScalarType::Double) {
    fn(double());
  } else {
    fn(float());
  }
}

template <class T>
const T* const_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
const T* const_data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? const_data<T>(*tensor) : nullptr;
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace polygraph

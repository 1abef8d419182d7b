// Argument checks whose messages state what was wanted and what was got.
#pragma once

#include <initializer_list>
#include <sstream>
#include <string>

#include "common/torch_api.h"

namespace polygraph {

inline std::string shape_string(const Tensor& tensor) {
  std::ostringstream out;
  out << '[';
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    out << (i ? ", " : "") << tensor.size(i);
  }
  out << ']';
  return out.str();
}

// Checks one tensor's shape. `meaning` names the dimensions as the contract comment does, e.g. "[D, S*C]";
// a wanted size of -1 matches anything.
inline void check_shape(
    const char* op, const char* name, const Tensor& tensor, const char* meaning,
    std::initializer_list<int64_t> wanted) {
  bool same = tensor.dim() == static_cast<int64_t>(wanted.size());
  int64_t dim = 0;
  for (int64_t size : wanted) {
    same = same && (size < 0 || tensor.size(dim) == size);
    ++dim;
  }
  if (same) {
    return;
  }
  std::ostringstream sizes;
  const char* separator = "";
  for (int64_t size : wanted) {
    sizes << separator;
    if (size < 0) {
      sizes << '*';
    } else {
      sizes << size;
    }
    separator = ", ";
  }
  STD_TORCH_CHECK(
      false, op, ": ", name, " must have shape ", meaning, " = [", sizes.str(), "], got ", shape_string(tensor));
}

inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Bool:
      return "bool";
    default:
      return "another dtype";
  }
}

inline void check_floating(const char* op, const char* name, const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::Double || is_half(type), op, ": ", name,
      " must be float32, float64, float16 or bfloat16, got ", dtype_name(type));
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType wanted) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == wanted, op, ": ", name, " must be ", dtype_name(wanted), ", got ",
      dtype_name(tensor.scalar_type()));
}

inline void check_device(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(
      tensor.is_cpu() == like.is_cpu() && tensor.get_device_index() == like.get_device_index(), op, ": ", name,
      " must be on the device of x (", like.is_cpu() ? "cpu" : "cuda", "), got ", tensor.is_cpu() ? "cpu" : "cuda");
}

}  // namespace polygraph

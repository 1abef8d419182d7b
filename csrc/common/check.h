// Argument checks whose messages state what was wanted and what was got.
#pragma once

#include <initializer_list>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

#include "common/torch_api.h"

namespace polygraph {

// Throws: the caller in Python gets a RuntimeError whose text is the parts, one after the other.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// Refuses a call with the parts after `condition`, of which the first names the operator. torch's own macro begins
// with a function and a path of the machine that built the library.
#define POLYGRAPH_CHECK(condition, ...) \
  do {                                  \
    if (!(condition)) [[unlikely]] {    \
      ::polygraph::refuse(__VA_ARGS__); \
    }                                   \
  } while (false)

constexpr int64_t kAnySize = -1;

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
// a wanted size of kAnySize matches anything.
inline void check_shape(
    const char* op, const char* name, const Tensor& tensor, const char* meaning,
    std::initializer_list<int64_t> wanted) {
  bool same = tensor.dim() == static_cast<int64_t>(wanted.size());
  int64_t dim = 0;
  for (int64_t size : wanted) {
    same = same && (size == kAnySize || tensor.size(dim) == size);
    ++dim;
  }
  if (same) {
    return;
  }
  std::ostringstream sizes;
  const char* separator = "";
  for (int64_t size : wanted) {
    sizes << separator;
    if (size == kAnySize) {
      sizes << '*';
    } else {
      sizes << size;
    }
    separator = ", ";
  }
  POLYGRAPH_CHECK(
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
  POLYGRAPH_CHECK(
      type == ScalarType::Float || type == ScalarType::Double || is_half(type), op, ": ", name,
      " must be float32, float64, float16 or bfloat16, got ", dtype_name(type));
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType wanted) {
  POLYGRAPH_CHECK(
      tensor.scalar_type() == wanted, op, ": ", name, " must be ", dtype_name(wanted), ", got ",
      dtype_name(tensor.scalar_type()));
}

// Checks that a tensor has the dtype of another, `like`, whose name is said too: either may be the one to convert.
inline void check_dtype(
    const char* op, const char* name, const Tensor& tensor, const char* like_name, const Tensor& like) {
  const char* wanted = dtype_name(like.scalar_type());
  POLYGRAPH_CHECK(
      tensor.scalar_type() == like.scalar_type(), op, ": ", name, " must be ", wanted, ", got ",
      dtype_name(tensor.scalar_type()), ": ", like_name, " is ", wanted, "; ", name, ".to(", like_name, ".dtype) or ",
      like_name, ".to(", name, ".dtype)");
}

// A number of nodes or slots that a caller gives. One more must fit as well: a pointer has count + 1 entries.
inline void check_count(const char* op, const char* name, int64_t count) {
  POLYGRAPH_CHECK(count >= 0, op, ": ", name, " must not be negative, got ", count);
  POLYGRAPH_CHECK(count < std::numeric_limits<int64_t>::max(), op, ": ", name, " is too large, got ", count);
}

// Limits the width of rows, so that a product of two widths, or of a width and the number of slots, fits into 64 bits.
// Rows in memory are shorter anyway, but an empty tensor may have any width.
inline void check_width(const char* op, const char* name, int64_t width) {
  POLYGRAPH_CHECK(width < (int64_t(1) << 31), op, ": ", name, " may be at most 2^31 - 1, got ", width);
}

inline void check_device(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  POLYGRAPH_CHECK(
      tensor.is_cpu() == like.is_cpu() && tensor.get_device_index() == like.get_device_index(), op, ": ", name,
      " must be on the device of x (", like.is_cpu() ? "cpu" : "cuda", "), got ", tensor.is_cpu() ? "cpu" : "cuda");
}

}  // namespace polygraph

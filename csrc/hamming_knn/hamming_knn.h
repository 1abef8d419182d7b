// The k nearest codes of every query by Hamming distance, exactly ordered.
//
//   hamming_knn(x, y, k) -> index [M, k] int64, distance [M, k] int64
//
// A code is a row of each tensor of x [N, W_i] (y [M, W_i] for queries); all tensors of one place i have one dtype:
//   uint64                       64 truth values in a word; those behind the last one are equal in x and y, such as 0
//   bool, (u)int8, int16, int32  an entry each
// The distance is the number of truth values and of entries that differ, over all tensors. A row lists the k smallest
// by (distance, index), ascending: ties take the smaller index. It is a whole number, so every order of computing it
// gives the same, on every instruction set and number of threads.
//
// x may be a file in memory, larger than what is free: it is read in place, a tile of rows at a time, once for every
// 1024 queries. Rows may lie apart (strides of dimension 0); only a tensor whose entries lie apart is copied. Beyond x
// and the result at most 64 MiB of packed queries, 64 MiB of lists and 1.3 MiB for a thread are in use; where 2 k + 64
// keys for each thread, or a query, take more than that, as much as one query takes.
#pragma once

#include <limits>
#include <vector>

#include "common/check.h"

namespace polygraph {

// How entries of a tensor are compared: by bits of words, or as whole numbers of so many bytes.
enum class HammingKind : int64_t { bits, one_byte, two_bytes, four_bytes };

struct HammingSizes {
  int64_t N, M, k;  // codes, queries, neighbors wanted
};

inline const char* hamming_dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::UInt64:
      return "uint64";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    default:
      return dtype_name(type);
  }
}

inline HammingKind hamming_kind(const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::UInt64:
      return HammingKind::bits;
    case ScalarType::Bool:
    case ScalarType::Byte:
    case ScalarType::Char:
      return HammingKind::one_byte;
    case ScalarType::Short:
      return HammingKind::two_bytes;
    case ScalarType::Int:
      return HammingKind::four_bytes;
    default:
      refuse(
          "hamming_knn: ", name, " must be uint64 (truth values, packed by pack_bits), bool, uint8, int8, int16 or ",
          "int32 (entries), got ", hamming_dtype_name(tensor.scalar_type()));
  }
}

inline int64_t hamming_entries(const Tensor& tensor) {
  return tensor.size(1) * (tensor.scalar_type() == ScalarType::UInt64 ? 64 : 1);
}

// Checks everything; values cannot be wrong.
inline HammingSizes check_hamming_knn(const std::vector<Tensor>& x, const std::vector<Tensor>& y, int64_t k) {
  const char* op = "hamming_knn";
  POLYGRAPH_CHECK(!x.empty(), op, ": x must hold at least one tensor");
  POLYGRAPH_CHECK(x.size() == y.size(), op, ": y must hold as many tensors as x, got ", y.size(), " and ", x.size());
  POLYGRAPH_CHECK(k >= 1, op, ": k must be at least 1, got ", k);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  int64_t entries = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    hamming_kind("x", x[i]);
    check_shape(op, "x", x[i], "[N, W]", {i == 0 ? kAnySize : x[0].size(0), -1});
    POLYGRAPH_CHECK(
        y[i].scalar_type() == x[i].scalar_type(), op, ": y must have the dtype of x, ",
        hamming_dtype_name(x[i].scalar_type()), ", got ", hamming_dtype_name(y[i].scalar_type()));
    check_shape(op, "y", y[i], "[M, W]", {i == 0 ? kAnySize : y[0].size(0), x[i].size(1)});
    check_device(op, "x", x[i], x[0]);
    check_device(op, "y", y[i], x[0]);
    check_width(op, "the number of entries", x[i].size(1));
    entries += hamming_entries(x[i]);
  }
  POLYGRAPH_CHECK(entries <= kMost, op, ": a code may have at most 2^31 - 1 entries, got ", entries);
  const HammingSizes n{.N = x[0].size(0), .M = y[0].size(0), .k = k};
  POLYGRAPH_CHECK(n.N <= kMost, op, ": x may hold at most 2^31 - 1 codes, got ", n.N);
  POLYGRAPH_CHECK(n.M == 0 || k <= n.N, op, ": x has ", n.N, " codes, k is ", k);
  return n;
}

}  // namespace polygraph

// The transposed neighbor table: a stable sort.
//
//   transpose_table(index [M, S], num_sources V) -> ptr [V+1], entry [M*S]
//
// index int64 with entries in [-1, V). The flat positions that hold u, ascending, are entry[ptr[u] .. ptr[u+1]); what
// follows ptr[V] holds -1. The order is that of the values alone, so results repeat bit for bit.
#pragma once

#include "common/check.h"

namespace polygraph {

inline void check_transpose_table(const Tensor& index, int64_t num_sources) {
  const char* op = "transpose_table";
  check_dtype(op, "index", index, ScalarType::Long);
  check_shape(op, "index", index, "[M, S]", {-1, -1});
  check_count(op, "num_sources", num_sources);
}

}  // namespace polygraph

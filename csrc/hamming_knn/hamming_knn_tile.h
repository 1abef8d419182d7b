// A tile of the CPU's search: some rows of the bank against some queries, over a chunk of their bytes.
#pragma once

#include "common/rounding.h"
#include "hamming_knn/hamming_knn.h"

namespace polygraph {

constexpr int64_t kHammingPad = 64;  // bytes of a packed row are a multiple of it: the widest vector

// Packed rows: `bytes` of each, padded with zeros, one after the other.
struct HammingTile {
  HammingKind kind;
  int64_t bytes;
  const uint8_t* rows;     // [count, bytes], of the bank
  const uint8_t* queries;  // [query_count, bytes]
  int64_t count, query_count;
  int32_t* distance;  // [query_count, count], added to
};

}  // namespace polygraph

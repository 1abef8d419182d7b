// Graphs inside CUDA kernels: the values are checked by the threads that read them.
#pragma once

#include "common/cuda_utils.cuh"
#include "common/graph.h"

namespace polygraph {

#define POLYGRAPH_CHECK_SEGMENT(op, first, last, count) \
  CUDA_KERNEL_ASSERT_MSG((first) >= 0 && (first) <= (last) && (last) <= (count), op ": ptr must rise from 0 to E")

// One position of a segment: its slot, the other node (-1: the slot is empty) and the row of edge features.
struct GraphSlot {
  int64_t slot, other, row;
};

// Reads a position; asserts that what it names exists.
__device__ __forceinline__ GraphSlot
read_slot(const GraphPointers& graph, const GraphSizes& n, int64_t rows, int64_t position) {
  GraphSlot found{graph.slot_at(position), -1, -1};
  CUDA_KERNEL_ASSERT_MSG(
      static_cast<uint64_t>(found.slot) < static_cast<uint64_t>(n.E), "graph: slot must lie in [0, E)");
  found.other = graph.other[found.slot];
  found.row = graph.row_of(found.slot);
  CUDA_KERNEL_ASSERT_MSG(
      static_cast<uint64_t>(found.other) + 1 <= static_cast<uint64_t>(n.O), "graph: other must lie in [-1, O)");
  CUDA_KERNEL_ASSERT_MSG(
      static_cast<uint64_t>(found.row) < static_cast<uint64_t>(rows), "graph: edge must lie in the rows of features");
  return found;
}

}  // namespace polygraph

// Graphs (common/graph.h) from lists of edges, and seen from the other side.
//
//   sort_coo(source [E], target [E], num_targets M, with_edge) -> ptr [M+1], source [E], edge [E]
//
// The edges in the order of their targets, those of a target in the order given; edge [0] if not wanted.
//
//   transpose_graph(ptr [S+1], other [E], others O) -> t_ptr [O+1], t_other [E]
//
// The segments that name each other node, in their order: the graph from the other side where nothing belongs to a slot
// but its two ends. Empty slots follow those of the last node, as -1; there must be a node if there is one.
//
//   targets_of(ptr [S+1], slots E) -> target [E]
//
// The segment that each slot lies in; a pointer that does not rise from 0 to E is refused.
//
//   scan_coo(source [E], target [E], num_sources N, num_targets M) -> ptr [M+1], found [3]     (CPU alone)
//
// found[0] is 1 where `target` never falls; then ptr is the graph's, and the list is the graph as it stands. Where an
// entry is out of range, found[1] is 0 (source) or 1 (target) and found[2] the first such entry; else found[1] is -1.
#pragma once

#include "common/graph.h"

namespace polygraph {

inline void check_ends(const char* op, const Tensor& source, const Tensor& target) {
  check_dtype(op, "source", source, ScalarType::Long);
  check_shape(op, "source", source, "[E]", {-1});
  check_dtype(op, "target", target, ScalarType::Long);
  check_shape(op, "target", target, "[E]", {source.size(0)});
  check_device(op, "target", target, source);
  POLYGRAPH_CHECK(
      source.size(0) < (int64_t(1) << 31), op, ": a graph may have at most 2^31 - 1 edges, got ", source.size(0));
}

inline void check_sort_coo(const Tensor& source, const Tensor& target, int64_t num_targets) {
  check_ends("sort_coo", source, target);
  check_count("sort_coo", "num_targets", num_targets);
}

// The number of segments.
inline int64_t check_targets_of(const Tensor& ptr, int64_t slots) {
  const char* op = "targets_of";
  check_dtype(op, "ptr", ptr, ScalarType::Long);
  check_shape(op, "ptr", ptr, "[S+1]", {-1});
  POLYGRAPH_CHECK(ptr.size(0) > 0, op, ": ptr must have shape [S+1], got [0]");
  check_count(op, "slots", slots);
  POLYGRAPH_CHECK(slots < (int64_t(1) << 31), op, ": a graph may have at most 2^31 - 1 slots, got ", slots);
  return ptr.size(0) - 1;
}

inline GraphSizes check_transpose_graph(const Tensor& ptr, const Tensor& other, int64_t others) {
  const char* op = "transpose_graph";
  check_count(op, "others", others);
  const GraphSizes n = check_graph(op, other, others, {.ptr = ptr, .other = other});
  POLYGRAPH_CHECK(others > 0 || n.E == 0, op, ": others must be at least 1 where there are slots, got ", others);
  return n;
}

}  // namespace polygraph

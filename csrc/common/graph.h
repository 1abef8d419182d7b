// Graphs as the edge kernels read them: slots, listed segment by segment.
//
//   ptr [S+1]    segment s has the positions ptr[s] .. ptr[s+1]
//   slot [E]     position p is slot slot[p]; absent: p itself (then ptr ends with E)
//   other [E]    the node at the other end of a slot, in [0, O), or -1: the slot is empty and is passed over
//   edge [E]     the row of edge features of a slot; absent: the slot's own number
//
// With segments = targets, `other` holds sources and `slot` is absent; with segments = sources, `slot` lists the slots
// that leave each source and `other` holds targets. One kernel serves both directions. The order of a sum is that of
// the positions, on CUDA (common/segments.cuh) in pieces of 256 that are then added in order; so results repeat bit for
// bit.
//
// Operators take a graph as two arguments (polygraph/ops/graph_side.py): the list `graph` holds ptr and other, and
// those that there are of slot, edge, t_ptr, t_slot and t_other, in this order; the bits 1, 2, 4, 8 and 16 of `tables`
// say which. The last three are the graph from the other side, for derivatives: kernels do not read them.
#pragma once

#include <vector>

#include "common/rounding.h"
#include "common/table.h"

namespace polygraph {

struct GraphSizes {
  int64_t S, O, E;  // segments, other nodes, slots
};

struct GraphPointers {
  const int64_t* ptr;
  const int64_t* slot;  // null: absent
  const int64_t* other;
  const int64_t* edge;  // null: absent

  POLYGRAPH_HOST_DEVICE int64_t slot_at(int64_t position) const {
    return slot == nullptr ? position : slot[position];
  }
  POLYGRAPH_HOST_DEVICE int64_t row_of(int64_t at) const {
    return edge == nullptr ? at : edge[at];
  }
};

// What a kernel reads, as it was given.
struct GraphTables {
  Tensor ptr;
  std::optional<Tensor> slot = std::nullopt;
  Tensor other;
  std::optional<Tensor> edge = std::nullopt;
};

// The arguments `graph` and `tables` of an operator.
inline GraphTables read_tables(const char* op, const std::vector<Tensor>& graph, int64_t tables) {
  constexpr int64_t kSlot = 1, kEdge = 2, kMost = 32;
  int64_t count = 2;
  for (int64_t bits = tables; bits > 0; bits >>= 1) {
    count += bits & 1;
  }
  POLYGRAPH_CHECK(
      tables >= 0 && tables < kMost && static_cast<int64_t>(graph.size()) == count, op, ": tables ", tables,
      " says that graph has ", count, " tensors, got ", graph.size());
  GraphTables found{.ptr = graph[0], .other = graph[1]};
  if ((tables & kSlot) != 0) {
    found.slot = graph[2];
  }
  if ((tables & kEdge) != 0) {
    found.edge = graph[(tables & kSlot) != 0 ? 3 : 2];
  }
  return found;
}

// Shapes, dtypes and devices; O is the number of other nodes.
inline GraphSizes check_graph(const char* op, const Tensor& like, int64_t O, const GraphTables& graph) {
  const auto& [ptr, slot, other, edge] = graph;
  check_dtype(op, "ptr", ptr, ScalarType::Long);
  check_shape(op, "ptr", ptr, "[S+1]", {-1});
  check_device(op, "ptr", ptr, like);
  POLYGRAPH_CHECK(ptr.size(0) > 0, op, ": ptr must have shape [S+1], got [0]");
  check_dtype(op, "other", other, ScalarType::Long);
  check_shape(op, "other", other, "[E]", {-1});
  check_device(op, "other", other, like);
  const int64_t E = other.size(0);
  POLYGRAPH_CHECK(E < (int64_t(1) << 31), op, ": a graph may have at most 2^31 - 1 slots, got ", E);
  for (const auto& [name, tensor] :
       {std::pair<const char*, const std::optional<Tensor>&>{"slot", slot}, {"edge", edge}}) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, ScalarType::Long);
      check_shape(op, name, *tensor, "[E]", {E});
      check_device(op, name, *tensor, like);
    }
  }
  return {.S = ptr.size(0) - 1, .O = O, .E = E};
}

inline bool all_within(const int64_t* values, int64_t count, int64_t low, int64_t high) {
  std::atomic<bool> valid{true};
  const uint64_t size = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  parallel_tasks(count, 1, [&](int64_t begin, int64_t end) {
    bool good = true;
    for (int64_t i = begin; i < end; ++i) {
      good &= static_cast<uint64_t>(values[i]) - static_cast<uint64_t>(low) < size;
    }
    if (!good) {
      valid = false;
    }
  });
  return valid;
}

inline void check_within(
    const char* op, const char* name, const int64_t* values, int64_t count, int64_t low, int64_t high) {
  if (all_within(values, count, low, high)) {
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    POLYGRAPH_CHECK(
        values[i] >= low && values[i] < high, op, ": ", name, " must lie in [", low, ", ", high, "), got ", values[i],
        " at position ", i);
  }
}

// ptr [S+1] on the CPU rises from 0 to E.
inline void check_pointers(const char* op, const int64_t* ptr, int64_t S, int64_t E) {
  bool rises = ptr[0] == 0 && ptr[S] == E;
  for (int64_t s = 0; s < S; ++s) {
    rises &= ptr[s] <= ptr[s + 1];
  }
  POLYGRAPH_CHECK(rises, op, ": ptr must rise from 0 to E = ", E);
}

// Values, on the CPU, of contiguous tensors, as far as the segments [first, last) read them; `rows` is the number of
// rows of edge features.
inline void check_graph_values(
    const char* op, const GraphSizes& n, const GraphPointers& graph, int64_t rows, int64_t first, int64_t last) {
  const int64_t begin = graph.ptr[first];
  const int64_t end = graph.ptr[last];
  bool rises = begin >= 0 && end <= n.E && (first > 0 || begin == 0);
  rises &= last < n.S || graph.slot != nullptr || end == n.E;
  for (int64_t s = first; s < last; ++s) {
    rises &= graph.ptr[s] <= graph.ptr[s + 1];
  }
  POLYGRAPH_CHECK(rises, op, ": ptr must rise from 0 to E = ", n.E);
  if (graph.slot == nullptr) {
    check_within(op, "other", graph.other + begin, end - begin, -1, n.O);
    if (graph.edge != nullptr) {
      check_within(op, "edge", graph.edge + begin, end - begin, 0, rows);
    }
    return;
  }
  check_within(op, "slot", graph.slot + begin, end - begin, 0, n.E);
  std::atomic<bool> valid{true};
  parallel_tasks(end - begin, 4, [&](int64_t from, int64_t to) {
    bool good = true;
    for (int64_t position = begin + from; position < begin + to; ++position) {
      const int64_t slot = graph.slot[position];
      good &= is_entry(graph.other[slot], n.O);
      good &= static_cast<uint64_t>(graph.row_of(slot)) < static_cast<uint64_t>(rows);
    }
    if (!good) {
      valid = false;
    }
  });
  POLYGRAPH_CHECK(valid, op, ": other must lie in [-1, ", n.O, ") and edge in [0, ", rows, ")");
}

inline void check_graph_values(const char* op, const GraphSizes& n, const GraphPointers& graph, int64_t rows) {
  check_graph_values(op, n, graph, rows, 0, n.S);
}

// The tensors of a graph, contiguous, and where they are.
struct GraphTensors {
  Tensor ptr, other;
  std::optional<Tensor> slot, edge;

  explicit GraphTensors(const GraphTables& given)
      : ptr(dense(given.ptr)), other(dense(given.other)), slot(dense(given.slot)), edge(dense(given.edge)) {}

  GraphPointers pointers() const {
    return {
        .ptr = const_data<int64_t>(ptr),
        .slot = const_data<int64_t>(slot),
        .other = const_data<int64_t>(other),
        .edge = const_data<int64_t>(edge)};
  }
};

}  // namespace polygraph

// Neighbor tables and their transposes on the CPU: the kernels do not check the entries that they follow, so bad ones
// are refused first.
#pragma once

#include <atomic>

#include "common/check.h"
#include "common/parallel.h"

namespace polygraph {

// Whether a table's entry lies in [-1, count).
inline bool is_entry(int64_t entry, int64_t count) {
  return static_cast<uint64_t>(entry) + 1 <= static_cast<uint64_t>(count);
}

inline void check_table(const char* op, const Tensor& index, const char* meaning, const Tensor& like) {
  check_dtype(op, "index", index, ScalarType::Long);
  check_shape(op, "index", index, meaning, {-1, -1});
  check_device(op, "index", index, like);
  POLYGRAPH_CHECK(index.size(1) > 0, op, ": index must have at least one slot, got shape ", shape_string(index));
  check_width(op, "slots of index", index.size(1));
}

// Shapes of the transposed table of index [M, S] over V sources (-1: any number): t_ptr [V+1], t_entry [M*S].
inline void check_transposed_shape(
    const char* op, const Tensor& index, int64_t num_sources, const Tensor& t_ptr, const Tensor& t_entry,
    const Tensor& like) {
  check_dtype(op, "t_ptr", t_ptr, ScalarType::Long);
  check_shape(op, "t_ptr", t_ptr, "[V+1]", {num_sources < 0 ? -1 : num_sources + 1});
  check_device(op, "t_ptr", t_ptr, like);
  POLYGRAPH_CHECK(t_ptr.size(0) > 0, op, ": t_ptr must have shape [V+1], got [0]");
  check_dtype(op, "t_entry", t_entry, ScalarType::Long);
  check_shape(op, "t_entry", t_entry, "[M*S]", {index.numel()});
  check_device(op, "t_entry", t_entry, like);
}

// Features x [B, V, C] may come with the transpose of their table, which only the gradient needs: a wrong one is
// refused before any work.
inline void check_given_transposed(
    const char* op, const Tensor& x, const Tensor& index, const std::optional<Tensor>& t_ptr,
    const std::optional<Tensor>& t_entry) {
  if (t_ptr.has_value() && t_entry.has_value()) {
    check_transposed_shape(op, index, x.size(1), *t_ptr, *t_entry, x);
  }
}

// index [count] on the CPU, contiguous: every entry in [-1, num_sources).
inline void check_entries(const char* op, const Tensor& index, int64_t num_sources) {
  const int64_t* entries = const_data<int64_t>(index);
  const int64_t count = index.numel();
  std::atomic<bool> valid{true};
  parallel_tasks(count, 1, [&](int64_t begin, int64_t end) {
    bool good = true;
    for (int64_t i = begin; i < end; ++i) {
      good &= is_entry(entries[i], num_sources);
    }
    if (!good) {
      valid = false;
    }
  });
  for (int64_t i = 0; !valid && i < count; ++i) {
    POLYGRAPH_CHECK(
        entries[i] >= -1 && entries[i] < num_sources, op, ": index must lie in [-1, ", num_sources, "), got ",
        entries[i], " at flat position ", i);
  }
}

// t_ptr [V+1] and t_entry [count] on the CPU, contiguous: a rising pointer, and positions in [0, count).
inline void check_transposed(const char* op, const Tensor& t_ptr, const Tensor& t_entry) {
  const int64_t* ptr = const_data<int64_t>(t_ptr);
  const int64_t* entry = const_data<int64_t>(t_entry);
  const int64_t sources = t_ptr.numel() - 1;
  const int64_t count = t_entry.numel();
  bool good = ptr[0] == 0 && ptr[sources] <= count;
  for (int64_t u = 0; u < sources; ++u) {
    good &= ptr[u] <= ptr[u + 1];
  }
  POLYGRAPH_CHECK(good, op, ": t_ptr must rise from 0 to at most M*S = ", count);
  for (int64_t e = 0; e < ptr[sources]; ++e) {
    good &= static_cast<uint64_t>(entry[e]) < static_cast<uint64_t>(count);
  }
  POLYGRAPH_CHECK(good, op, ": t_entry must lie in [0, M*S = ", count, ")");
}

}  // namespace polygraph

// The transposed neighbour table: a stable counting sort.
//
//   transpose_table(index [M, S], num_sources V) -> ptr [V+1], entry [M*S]
//
// The flat positions that hold u, ascending, are entry[ptr[u] .. ptr[u+1]); what follows ptr[V] holds -1. On CUDA it
// is PyTorch's stable radix sort (polygraph/ops/transpose_table.py).
#include <utility>
#include <vector>

#include "common/table.h"

namespace polygraph {
namespace {

// Parts of the table are counted and then placed side by side; the counts of a part are as many as there are sources,
// so there are no more parts than pay for that.
int64_t number_of_parts(int64_t count, int64_t keys) {
  const int64_t threads = torch::stable::get_num_threads();
  return std::max<int64_t>(1, std::min(threads, count / std::max<int64_t>(4 * keys, int64_t(1) << 14)));
}

void sort_positions(const int64_t* index, int64_t count, int64_t sources, int64_t* ptr, int64_t* entry) {
  const int64_t keys = sources + 1;  // -1 is the last
  const int64_t parts = number_of_parts(count, keys);
  std::vector<int64_t> places(static_cast<size_t>(parts * keys), 0);  // [parts, keys]: counts, then first places
  const auto key = [&](int64_t i) { return index[i] < 0 ? sources : index[i]; };
  const auto for_parts = [&](const auto& fn) {
    torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        fn(places.data() + part * keys, count * part / parts, count * (part + 1) / parts);
      }
    });
  };
  for_parts([&](int64_t* counts, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      ++counts[key(i)];
    }
  });
  int64_t place = 0;
  for (int64_t k = 0; k < keys; ++k) {
    ptr[k] = place;
    for (int64_t part = 0; part < parts; ++part) {
      place += std::exchange(places[static_cast<size_t>(part * keys + k)], place);
    }
  }
  for_parts([&](int64_t* next, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      entry[next[key(i)]++] = i;
    }
  });
}

}  // namespace

std::tuple<Tensor, Tensor> transpose_table_cpu(const Tensor& index, int64_t num_sources) {
  const char* op = "transpose_table";
  check_dtype(op, "index", index, ScalarType::Long);
  check_shape(op, "index", index, "[M, S]", {-1, -1});
  STD_TORCH_CHECK(num_sources >= 0, op, ": num_sources must not be negative, got ", num_sources);
  const Tensor table = dense(index);
  check_entries(op, table, num_sources);
  Tensor ptr = torch::stable::new_empty(table, {num_sources + 1});
  Tensor entry = torch::stable::new_empty(table, {table.numel()});
  sort_positions(
      static_cast<const int64_t*>(table.const_data_ptr()), table.numel(), num_sources,
      static_cast<int64_t*>(ptr.mutable_data_ptr()), static_cast<int64_t*>(entry.mutable_data_ptr()));
  return {ptr, entry};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def("transpose_table(Tensor index, int num_sources) -> (Tensor ptr, Tensor entry)");
}

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("transpose_table", TORCH_BOX(&polygraph::transpose_table_cpu));
}

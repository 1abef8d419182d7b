// The transposed neighbour table: a stable counting sort.
//
//   transpose_table(index [M, S], num_sources V) -> ptr [V+1], entry [M*S]
//
// The flat positions that hold u, ascending, are entry[ptr[u] .. ptr[u+1]); what follows ptr[V] holds -1. On CUDA it
// is PyTorch's stable radix sort (polygraph/ops/transpose_table.py).
#include "common/counting_sort.h"
#include "common/table.h"

namespace polygraph {
namespace {

void sort_positions(const int64_t* index, int64_t count, int64_t sources, int64_t* ptr, int64_t* entry) {
  const auto key = [=](int64_t i) { return index[i] < 0 ? sources : index[i]; };  // -1 is the last
  const auto place = [=](int64_t /*begin*/) { return [=](int64_t i, int64_t at) { entry[at] = i; }; };
  counting_sort(count, sources + 1, key, ptr, place);
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

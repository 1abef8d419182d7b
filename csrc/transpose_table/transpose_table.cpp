// The transposed neighbor table on the CPU: a stable counting sort.
#include "transpose_table/transpose_table.h"

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
  check_transpose_table(index, num_sources);
  const Tensor table = dense(index);
  check_entries("transpose_table", table, num_sources);
  Tensor ptr = torch::stable::new_empty(table, {num_sources + 1});
  Tensor entry = torch::stable::new_empty(table, {table.numel()});
  sort_positions(
      const_data<int64_t>(table), table.numel(), num_sources, mutable_data<int64_t>(ptr), mutable_data<int64_t>(entry));
  return {ptr, entry};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def("transpose_table(Tensor index, SymInt num_sources) -> (Tensor ptr, Tensor entry)");
}

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("transpose_table", TORCH_BOX(&polygraph::transpose_table_cpu));
}

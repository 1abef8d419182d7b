// The transposed neighbor table on CUDA: a radix sort of positions (common/radix_sort.cuh).
#include "common/radix_sort.cuh"
#include "transpose_table/transpose_table.h"

namespace polygraph {
namespace {

struct TableKeysParams {
  const int64_t* index;  // [count]
  int64_t count, V;
  uint32_t* key;       // [count]
  uint32_t* position;  // [count]
};

// A thread takes one entry at a time: its key, V for an empty slot, and its position. Safe: one writer per element.
__global__ void __launch_bounds__(kSortThreads) table_keys_kernel(TableKeysParams p) {
  for (int64_t i = first_item(); i < p.count; i += item_stride()) {
    const int64_t source = p.index[i];
    POLYGRAPH_CHECK_ENTRY("transpose_table", "index", source, p.V);
    p.key[i] = static_cast<uint32_t>(source < 0 ? p.V : source);
    p.position[i] = static_cast<uint32_t>(i);
  }
}

struct PositionsParams {
  const uint32_t* position;  // [count]
  int64_t count;
  int64_t* entry;  // [count]
};

// A thread widens one position at a time. Safe: one writer per element.
__global__ void __launch_bounds__(kSortThreads) positions_kernel(PositionsParams p) {
  for (int64_t i = first_item(); i < p.count; i += item_stride()) {
    p.entry[i] = p.position[i];
  }
}

}  // namespace

std::tuple<Tensor, Tensor> transpose_table_cuda(const Tensor& index, int64_t num_sources) {
  check_transpose_table(index, num_sources);
  const int64_t count = index.numel();
  POLYGRAPH_CHECK(
      num_sources <= kMostKeys && count <= kMostSorted, "transpose_table: at most ", kMostKeys, " sources and ",
      kMostSorted, " entries on CUDA, got ", num_sources, " and ", count);
  const DeviceScope scope(index);
  const Tensor table = dense(index);
  const Tensor ptr = torch::stable::new_empty(table, {num_sources + 1});
  const Tensor entry = torch::stable::new_empty(table, {count});
  const SortBuffers buffers(table, count);
  if (count > 0) {
    const TableKeysParams keys{const_data<int64_t>(table), count, num_sources, buffers.key(0), buffers.value(0)};
    start_kernel(sort_shape(count), scope, table_keys_kernel, keys);
  }
  const SortedPairs sorted = sort_pairs(buffers, count, num_sources, table, scope);
  launch_bounds_of({sorted.key, count, num_sources, mutable_data<int64_t>(ptr)}, scope);
  if (count > 0) {
    start_kernel(
        sort_shape(count), scope, positions_kernel, PositionsParams{sorted.value, count, mutable_data<int64_t>(entry)});
  }
  return {ptr, entry};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("transpose_table", TORCH_BOX(&polygraph::transpose_table_cuda));
}

// Graphs from lists of edges, and seen from the other side, on CUDA: radix sorts (common/radix_sort.cuh).
#include "common/graph.cuh"
#include "common/radix_sort.cuh"
#include "graph/graph.h"

namespace polygraph {
namespace {

struct CooKeysParams {
  const int64_t* target;  // [E]
  int64_t E, M;
  uint32_t* key;       // [E]
  uint32_t* position;  // [E]
};

// A thread takes one edge at a time. Safe: one writer per element.
__global__ void __launch_bounds__(kSortThreads) coo_keys_kernel(CooKeysParams p) {
  for (int64_t i = first_item(); i < p.E; i += item_stride()) {
    const int64_t target = p.target[i];
    CUDA_KERNEL_ASSERT_MSG(
        static_cast<uint64_t>(target) < static_cast<uint64_t>(p.M), "sort_coo: target must lie in [0, num_targets)");
    p.key[i] = static_cast<uint32_t>(target);
    p.position[i] = static_cast<uint32_t>(i);
  }
}

struct CooEdgesParams {
  const int64_t* source;     // [E]
  const uint32_t* position;  // [E]
  int64_t E;
  int64_t* to_source;  // [E]
  int64_t* to_edge;    // [E], null: not wanted
};

// A thread brings one edge to its place at a time; sources are read where they lie. Safe: one writer per element.
__global__ void __launch_bounds__(kSortThreads) coo_edges_kernel(CooEdgesParams p) {
  for (int64_t i = first_item(); i < p.E; i += item_stride()) {
    const uint32_t position = p.position[i];
    p.to_source[i] = p.source[position];
    if (p.to_edge != nullptr) {
      p.to_edge[i] = position;
    }
  }
}

constexpr uint32_t kNoSegment = std::numeric_limits<uint32_t>::max();

// The last segment that begins at slot i or before, in [0, S); where ptr does not rise, one of them.
__device__ __forceinline__ int64_t segment_at(const int64_t* ptr, int64_t S, int64_t i) {
  int64_t low = 0;
  int64_t high = S;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (ptr[middle] <= i) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

struct TargetsParams {
  const int64_t* ptr;  // [S+1]
  int64_t S, E;
  int64_t* target;  // [E]
};

// A thread checks one pointer and finds the segment of one slot at a time; adjacent threads search nearly the same
// positions. Safe: one writer per element, and a search reads no others than pointers whatever their values.
__global__ void __launch_bounds__(kSortThreads) targets_kernel(TargetsParams p) {
  for (int64_t i = first_item(); i < max(p.S + 1, p.E); i += item_stride()) {
    if (i <= p.S) {
      const int64_t bound = p.ptr[i];
      CUDA_KERNEL_ASSERT_MSG(
          (i == 0 ? bound == 0 : p.ptr[i - 1] <= bound) && (i < p.S || bound == p.E),
          "targets_of: ptr must rise from 0 to E");
    }
    if (i < p.E) {
      p.target[i] = segment_at(p.ptr, p.S, i);
    }
  }
}

struct SlotKeysParams {
  GraphSizes n;
  const int64_t* ptr;    // [S+1]
  const int64_t* other;  // [E]
  uint32_t* key;         // [E]
  uint32_t* segment;     // [E]; of an empty slot kNoSegment
};

// A thread takes one slot at a time: its other node, O where it is empty, and its segment, which it finds among the
// pointers; adjacent threads search nearly the same positions. Safe: one writer per element.
__global__ void __launch_bounds__(kSortThreads) slot_keys_kernel(SlotKeysParams p) {
  for (int64_t i = first_item(); i < p.n.E; i += item_stride()) {
    const int64_t other = p.other[i];
    POLYGRAPH_CHECK_ENTRY("transpose_graph", "other", other, p.n.O);
    const int64_t low = segment_at(p.ptr, p.n.S, i);
    CUDA_KERNEL_ASSERT_MSG(
        p.n.S > 0 && p.ptr[low] <= i && i < p.ptr[low + 1], "transpose_graph: ptr must rise from 0 to E");
    p.key[i] = static_cast<uint32_t>(other < 0 ? p.n.O : other);
    p.segment[i] = other < 0 ? kNoSegment : static_cast<uint32_t>(low);
  }
}

struct SegmentsParams {
  const uint32_t* segment;  // [E], sorted
  int64_t E, O;
  int64_t* t_ptr;    // [O+1]
  int64_t* t_other;  // [E]
};

// Widens the segments; empty slots follow those of the last node. Safe: one writer per element.
__global__ void __launch_bounds__(kSortThreads) segments_kernel(SegmentsParams p) {
  if (first_item() == 0) {
    p.t_ptr[p.O] = p.E;
  }
  for (int64_t i = first_item(); i < p.E; i += item_stride()) {
    p.t_other[i] = p.segment[i] == kNoSegment ? -1 : static_cast<int64_t>(p.segment[i]);
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> sort_coo_cuda(
    const Tensor& source, const Tensor& target, int64_t num_targets, bool with_edge) {
  check_sort_coo(source, target, num_targets);
  POLYGRAPH_CHECK(
      num_targets <= kMostKeys, "sort_coo: num_targets may be at most ", kMostKeys, " on CUDA, got ", num_targets);
  const DeviceScope scope(source);
  const Tensor from = dense(source);
  const Tensor to = dense(target);
  const int64_t E = from.size(0);
  const Tensor ptr = torch::stable::new_empty(to, {num_targets + 1});
  const Tensor ordered = torch::stable::new_empty(to, {E});
  const Tensor edge = torch::stable::new_empty(to, {with_edge ? E : 0});
  const SortBuffers buffers(to, E);
  const LaunchShape edges = sort_shape(std::max<int64_t>(1, E));
  const CooKeysParams keys{const_data<int64_t>(to), E, num_targets, buffers.key(0), buffers.value(0)};
  start_kernel(edges, scope, coo_keys_kernel, keys);
  const SortedPairs sorted = sort_pairs(buffers, E, num_targets, to, scope);
  launch_bounds_of({sorted.key, E, num_targets, mutable_data<int64_t>(ptr)}, scope);
  const CooEdgesParams places{
      const_data<int64_t>(from), sorted.value, E, mutable_data<int64_t>(ordered),
      with_edge ? mutable_data<int64_t>(edge) : nullptr};
  start_kernel(edges, scope, coo_edges_kernel, places);
  return {ptr, ordered, edge};
}

Tensor targets_of_cuda(const Tensor& ptr, int64_t slots) {
  const int64_t S = check_targets_of(ptr, slots);
  const DeviceScope scope(ptr);
  const Tensor pointers = dense(ptr);
  const Tensor target = torch::stable::new_empty(pointers, {slots});
  const TargetsParams params{const_data<int64_t>(pointers), S, slots, mutable_data<int64_t>(target)};
  start_kernel(sort_shape(std::max(S + 1, slots)), scope, targets_kernel, params);
  return target;
}

std::tuple<Tensor, Tensor> transpose_graph_cuda(const Tensor& ptr, const Tensor& other, int64_t others) {
  const GraphSizes n = check_transpose_graph(ptr, other, others);
  POLYGRAPH_CHECK(
      others <= kMostKeys && n.S < (int64_t(1) << 31), "transpose_graph: at most ", kMostKeys,
      " other nodes and 2^31 - 1 segments on CUDA, got ", others, " and ", n.S);
  const DeviceScope scope(other);
  const GraphTensors graph({.ptr = ptr, .other = other});
  const Tensor t_ptr = torch::stable::new_empty(other, {others + 1});
  const Tensor t_other = torch::stable::new_empty(other, {n.E});
  const SortBuffers buffers(other, n.E);
  const LaunchShape slots = sort_shape(std::max<int64_t>(1, n.E));
  const SlotKeysParams keys{n, graph.pointers().ptr, graph.pointers().other, buffers.key(0), buffers.value(0)};
  start_kernel(slots, scope, slot_keys_kernel, keys);
  const SortedPairs sorted = sort_pairs(buffers, n.E, others, other, scope);
  launch_bounds_of({sorted.key, n.E, others, mutable_data<int64_t>(t_ptr)}, scope);
  const SegmentsParams segments{
      sorted.value, n.E, others, mutable_data<int64_t>(t_ptr), mutable_data<int64_t>(t_other)};
  start_kernel(slots, scope, segments_kernel, segments);
  return {t_ptr, t_other};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("sort_coo", TORCH_BOX(&polygraph::sort_coo_cuda));
  m.impl("targets_of", TORCH_BOX(&polygraph::targets_of_cuda));
  m.impl("transpose_graph", TORCH_BOX(&polygraph::transpose_graph_cuda));
}

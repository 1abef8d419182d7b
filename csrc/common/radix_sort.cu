// The only source that includes CUB, whose headers take longer to compile than all kernels of this library.
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "common/radix_sort.cuh"

namespace polygraph {
namespace {

void check_sort(cudaError_t error) {
  if (error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // or the next, good launch finds it
    POLYGRAPH_CHECK(
        false, "polygraph: CUDA error in a sort: ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
  }
}

}  // namespace

SortedPairs sort_pairs(
    const SortBuffers& buffers, int64_t count, int64_t largest, const Tensor& like, const DeviceScope& scope) {
  POLYGRAPH_CHECK(count <= kMostSorted, "polygraph: a sort of at most 2^32 - 1 entries on CUDA, got ", count);
  if (count == 0) {
    return {buffers.key(0), buffers.value(0)};
  }
  cub::DoubleBuffer<uint32_t> keys(buffers.key(0), buffers.key(1));
  cub::DoubleBuffer<uint32_t> values(buffers.value(0), buffers.value(1));
  const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<uint32_t>(largest))));
  size_t bytes = 0;
  check_sort(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, values, count, 0, bits, scope.stream()));
  const Tensor scratch = torch::stable::new_empty(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  void* storage = scratch.mutable_data_ptr();
  check_sort(cub::DeviceRadixSort::SortPairs(storage, bytes, keys, values, count, 0, bits, scope.stream()));
  return {keys.Current(), values.Current()};
}

}  // namespace polygraph

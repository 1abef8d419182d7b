// A stable sort of positions by their key on CUDA: CUB's radix sort, over the bits that keys have.
#pragma once

#include "common/cuda_utils.cuh"

namespace polygraph {

constexpr int64_t kMostSorted = (int64_t(1) << 32) - 1;
constexpr int64_t kMostKeys = (int64_t(1) << 32) - 2;  // the last is left for entries that name nobody

// Keys and values in memory for two copies of each: the sort goes to and fro between them.
class SortBuffers {
 public:
  SortBuffers(const Tensor& like, int64_t count)
      : count_(count), memory_(torch::stable::new_empty(like, {4 * count}, ScalarType::Int)) {}

  uint32_t* key(int copy) const {
    return mutable_data<uint32_t>(memory_) + copy * count_;
  }
  uint32_t* value(int copy) const {
    return mutable_data<uint32_t>(memory_) + (2 + copy) * count_;
  }

 private:
  int64_t count_;
  Tensor memory_;
};

struct SortedPairs {
  const uint32_t* key;    // [count], ascending
  const uint32_t* value;  // [count], equal keys' in the order given
};

// Sorts what lies in key(0) and value(0) of the buffers; keys are at most `largest`. One pass over 8 bytes an entry for
// each 8 bits of the largest key, where a sort of int64 keys and positions makes eight passes over 16. Nothing waits
// for the device, so a CUDA graph can capture it.
SortedPairs sort_pairs(
    const SortBuffers& buffers, int64_t count, int64_t largest, const Tensor& like, const DeviceScope& scope);

namespace {  // each source has its own copy: kernels are registered source by source

constexpr int kSortThreads = 256;

// A thread for each of `items`, 1 or more.
inline LaunchShape sort_shape(int64_t items) {
  return {strided_blocks(items, kSortThreads), 1, kSortThreads, 0};
}

struct BoundsParams {
  const uint32_t* key;  // [count], ascending
  int64_t count, keys;
  int64_t* ptr;  // [keys + 1]
};

// ptr[u] = the number of keys below u. A thread searches for one u; adjacent threads search nearly the same keys, which
// come from the caches. Safe: one writer a number.
__global__ void __launch_bounds__(kSortThreads) bounds_kernel(BoundsParams p) {
  for (int64_t u = first_item(); u <= p.keys; u += item_stride()) {
    int64_t low = 0;
    int64_t high = p.count;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (p.key[middle] < static_cast<uint64_t>(u)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    p.ptr[u] = low;
  }
}

inline void launch_bounds_of(const BoundsParams& p, const DeviceScope& scope) {
  start_kernel(sort_shape(p.keys + 1), scope, bounds_kernel, p);
}

}  // namespace

}  // namespace polygraph

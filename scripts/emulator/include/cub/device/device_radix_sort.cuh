// CUB's radix sort of pairs, on the host.
#pragma once

#include <cuda_runtime.h>

#include <numeric>
#include <vector>

namespace cub {

template <class T>
class DoubleBuffer {
 public:
  DoubleBuffer(T* current, T* alternate) : buffers_{current, alternate} {}
  T* Current() const {
    return buffers_[selector];
  }
  T* Alternate() const {
    return buffers_[selector ^ 1];
  }
  int selector = 0;

 private:
  T* buffers_[2];
};

struct DeviceRadixSort {
  // As on a device: with no storage, says how much it wants; else sorts by the bits [begin_bit, end_bit), stably, and
  // leaves the other buffers with what is worth nothing.
  template <class Key, class Value, class Count>
  static cudaError_t SortPairs(
      void* storage, size_t& bytes, DoubleBuffer<Key>& keys, DoubleBuffer<Value>& values, Count count, int begin_bit,
      int end_bit, cudaStream_t /*stream*/) {
    if (storage == nullptr) {
      bytes = 1;
      return cudaSuccess;
    }
    const auto bits = [=](Key key) {
      const int width = end_bit - begin_bit;
      return width >= 8 * static_cast<int>(sizeof(Key)) ? key : key >> begin_bit & ((Key(1) << width) - 1);
    };
    std::vector<size_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), size_t(0));
    const Key* from = keys.Current();
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return bits(from[a]) < bits(from[b]); });
    for (size_t i = 0; i < order.size(); ++i) {
      keys.Alternate()[i] = from[order[i]];
      values.Alternate()[i] = values.Current()[order[i]];
    }
    keys.selector ^= 1;
    values.selector ^= 1;
    return cudaSuccess;
  }
};

}  // namespace cub

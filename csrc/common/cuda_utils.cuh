// What the CUDA sources share: device scope and launches, vector loads, dispatch, and sums in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/check.h"
#include "common/rounding.h"

namespace polygraph {

// ---- device code ----

// Half types accumulate in float.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

// kCount adjacent elements, loaded or stored at once: the address must be a multiple of their size.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T lane[kCount];
};

template <class T>
constexpr int kPackWidth = 16 / static_cast<int>(sizeof(T));  // elements of the widest load

template <class T, int kCount>
__device__ __forceinline__ Pack<T, kCount> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

// For shared memory. With the scalars of store_global knn_list's largest tiles spill.
template <class T, int kCount>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

// For global memory: one store for each 16 bytes. The compiler takes the copy of a struct apart into its lanes, that of
// a uint4 too, and often leaves 4 to 8 stores in the machine code. A wide scalar stays whole: an integer of 16 bytes,
// and of 8 bytes a double, as an integer of two words is taken apart again. __stwb stays whole as well, but no load is
// moved across it. `make cuda` counts the stores.
template <class T, int kCount>
__device__ __forceinline__ void store_global(T* to, const Pack<T, kCount>& pack) {
  constexpr int kBytes = static_cast<int>(sizeof(pack));
  if constexpr (kBytes % 16 == 0) {
    struct Words {
      unsigned __int128 word[kBytes / 16];
    };
    const Words words = __builtin_bit_cast(Words, pack);
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i) {
      reinterpret_cast<unsigned __int128*>(to)[i] = words.word[i];
    }
  } else if constexpr (kBytes == 8) {
    const uint2 words = __builtin_bit_cast(uint2, pack);
    *reinterpret_cast<double*>(to) = __hiloint2double(static_cast<int>(words.y), static_cast<int>(words.x));
  } else {
    using Word = std::conditional_t<kBytes == 4, uint32_t, uint16_t>;
    *reinterpret_cast<Word*>(to) = __builtin_bit_cast(Word, pack);
  }
}

// ReLU or leaky ReLU and its derivative, as `bent` in common/vec.inc.
template <class A>
struct Bend {
  A slope;
  A lowest;  // replaces minus infinity: finite where the slope is 0, because the product must be 0

  __device__ __forceinline__ A of(A value) const {
    return value <= 0 ? slope * max(value, lowest) : value;
  }

  // The derivative at `at`, times `value`, which may be anything.
  __device__ __forceinline__ A of(A at, A value) const {
    return at <= 0 ? (slope == 0 ? A(0) : slope * value) : value;
  }
};

template <class A>
Bend<A> bend_at_zero(double slope) {
  using Limits = std::numeric_limits<A>;
  const A narrow = static_cast<A>(slope);
  return {narrow, narrow == 0 ? Limits::lowest() : -Limits::infinity()};
}

// kVec channels of a row in global memory, rounded once.
template <class T, int kVec>
__device__ __forceinline__ void store_row(T* to, const Acc<T> (&sum)[kVec]) {
  Pack<T, kVec> pack;
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    pack.lane[v] = static_cast<T>(sum[v]);
  }
  store_global<T, kVec>(to, pack);
}

// a / b for a >= 0, b > 0: 64-bit division is a subroutine on the GPU, so it is left to operands that need it.
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) {
    return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  }
  return a / b;
}

// Position of this thread among all of the launch's x dimension, and their number.
__device__ __forceinline__ int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t item_stride() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// kCount adjacent elements as a pack: loaded at once if kPacks, else one by one, at any address. A sum over packs adds
// the same values in the same order at any address.
template <class T, int kCount, bool kPacks>
__device__ __forceinline__ Pack<T, kCount> load_lanes(const T* from) {
  if constexpr (kPacks) {
    return load_pack<T, kCount>(from);
  } else {
    Pack<T, kCount> pack;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      pack.lane[i] = from[i];
    }
    return pack;
  }
}

// A table entry in [-1, count): anything else stops the kernel with a device-side assertion, as torch's index_select
// does, in every build. `op` is a string literal.
#define POLYGRAPH_CHECK_ENTRY(op, name, entry, count) \
  CUDA_KERNEL_ASSERT_MSG(                             \
      static_cast<uint64_t>(entry) + 1 <= static_cast<uint64_t>(count), op ": " name " is out of range")

// The list [first, last) of one source in a transposed table of `count` entries, and one entry of it; anything else
// stops the kernel with a device-side assertion.
#define POLYGRAPH_CHECK_LIST(op, first, last, count) \
  CUDA_KERNEL_ASSERT_MSG(                            \
      (first) >= 0 && (first) <= (last) && (last) <= (count), op ": t_ptr must rise from 0 to at most M*S")

#define POLYGRAPH_CHECK_POSITION(op, position, count) \
  CUDA_KERNEL_ASSERT_MSG(                             \
      static_cast<uint64_t>(position) < static_cast<uint64_t>(count), op ": t_entry must lie in [0, M*S)")

// Every kernel's shared memory is the dynamic one, sized at the launch.
extern __shared__ __align__(16) unsigned char polygraph_shared_memory[];

// ---- host code ----

// Makes the tensor's device current while it lives, for torch and for this library's own runtime (cudart is linked
// statically: the two may keep separate books), and knows torch's current stream there. At the end torch's guard alone
// restores: cudaSetDevice creates a context where there is none, and a runtime that keeps its own books may name GPU 0
// as the device before, which a process that works on another GPU never touches. The tensor's device has its context
// already. Nothing relies on what this library's runtime has current between scopes.
class DeviceScope {
 public:
  explicit DeviceScope(const Tensor& like) {
    const int32_t device = like.get_device_index();
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_device_guard(device, &guard_));
    void* stream = nullptr;
    int current = -1;
    if (aoti_torch_get_current_cuda_stream(device, &stream) != 0 || cudaGetDevice(&current) != cudaSuccess ||
        (current != device && cudaSetDevice(device) != cudaSuccess)) {
      const cudaError_t error = cudaGetLastError();
      aoti_torch_delete_device_guard(guard_);
      POLYGRAPH_CHECK(false, "polygraph: device ", device, " cannot be used: ", cudaGetErrorString(error));
    }
    stream_ = static_cast<cudaStream_t>(stream);
  }

  ~DeviceScope() {
    aoti_torch_delete_device_guard(guard_);
  }

  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

  cudaStream_t stream() const {
    return stream_;
  }

 private:
  DeviceGuardHandle guard_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

struct LaunchShape {
  int64_t blocks_x, blocks_y;
  int threads;
  int64_t shared_bytes;
};

constexpr int64_t kMaxBlocksX = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxBlocksY = 65535;
constexpr int64_t kMaxSharedBytes = 48 << 10;  // what every device grants without being asked

// Blocks for kernels that stride over the rest of their items by themselves.
inline int64_t strided_blocks(int64_t items, int threads) {
  return std::min(ceil_div(items, threads), kMaxBlocksX);
}

inline int64_t strided_samples(int64_t samples) {
  return std::min(samples, kMaxBlocksY);
}

// Starts `kernel` on the current stream and reports a launch that failed. Called by launch_* only.
template <class Params>
void start_kernel(const LaunchShape& shape, const DeviceScope& scope, void (*kernel)(Params), const Params& params) {
  POLYGRAPH_CHECK(
      shape.blocks_x > 0 && shape.blocks_x <= kMaxBlocksX && shape.blocks_y > 0 && shape.blocks_y <= kMaxBlocksY,
      "polygraph: a launch of ", shape.blocks_x, " x ", shape.blocks_y, " blocks is too large");
  POLYGRAPH_CHECK(
      shape.shared_bytes >= 0 && shape.shared_bytes <= kMaxSharedBytes, "polygraph: a launch with ", shape.shared_bytes,
      " bytes of shared memory a block exceeds ", kMaxSharedBytes);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks_x), static_cast<unsigned>(shape.blocks_y));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = scope.stream();
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, params);
  if (error != cudaSuccess) {
    // The runtime is linked statically: torch's checks neither see nor clear this library's last error, which would
    // stay for the next, good launch to find.
    static_cast<void>(cudaGetLastError());
    POLYGRAPH_CHECK(
        false, "polygraph: CUDA error in a kernel launch: ", cudaGetErrorString(error), " (", cudaGetErrorName(error),
        ")");
  }
}

// Calls fn(T()) with the C++ type of a floating dtype that check_floating has let through.
template <class F>
void dispatch_floating(ScalarType type, const F& fn) {
  switch (type) {
    case ScalarType::Double:
      return fn(double());
    case ScalarType::Half:
      return fn(torch::headeronly::Half());
    case ScalarType::BFloat16:
      return fn(torch::headeronly::BFloat16());
    default:
      return fn(float());
  }
}

inline bool is_aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

// Calls fn(width, packs) for a kernel whose sums run across channels: how many it takes at a time follows from their
// number alone, whether it loads them at once (see load_lanes) from `packs`, which implies that they divide.
template <class T, class F>
void with_lanes(int64_t channels, bool packs, const F& fn) {
  constexpr std::integral_constant<int, kPackWidth<T>> kWide;
  if (packs) {
    fn(kWide, std::true_type());
  } else if (channels % kPackWidth<T> == 0) {
    fn(kWide, std::false_type());
  } else {
    fn(std::integral_constant<int, 1>(), std::false_type());
  }
}

// Uninitialised Acc<T> [count] beside a tensor of T.
inline Tensor new_accumulators(const Tensor& like, int64_t count) {
  const ScalarType type = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return torch::stable::new_empty(like, {count}, type);
}

// ---- sums over shares, in order ----
//
// No kernel of this library adds floats atomically: each block writes its partial sum, and these are added in an order
// that depends on the sizes alone.

constexpr int kSumLanes = 32;
constexpr int kSumRows = 8;

template <class T>
struct SumSharesParams {
  const Acc<T>* partial;  // [shares, size]
  T* out;                 // [size]
  int64_t shares, size;
};

namespace {  // each source has its own copy: kernels are registered source by source

// out[j] = sum over shares of partial[share, j]. A block has kSumLanes adjacent j (coalesced reads) times kSumRows
// threads, of which the r-th adds shares r, r + kSumRows, ...; the rows are added in order through shared memory. Safe:
// each out[j] has one writer, and the block is done with shared memory before its next round starts.
template <class T>
__global__ void __launch_bounds__(kSumLanes* kSumRows) sum_shares_kernel(SumSharesParams<T> p) {
  Acc<T>* sums = reinterpret_cast<Acc<T>*>(polygraph_shared_memory);  // [kSumRows, kSumLanes]
  const int lane = static_cast<int>(threadIdx.x) % kSumLanes;
  const int row = static_cast<int>(threadIdx.x) / kSumLanes;
  for (int64_t j0 = static_cast<int64_t>(blockIdx.x) * kSumLanes; j0 < p.size;
       j0 += static_cast<int64_t>(gridDim.x) * kSumLanes) {
    const int64_t j = j0 + lane;
    Acc<T> sum = 0;
    if (j < p.size) {
#pragma unroll 4
      for (int64_t share = row; share < p.shares; share += kSumRows) {
        sum += p.partial[share * p.size + j];
      }
    }
    sums[row * kSumLanes + lane] = sum;
    __syncthreads();
    if (row == 0 && j < p.size) {
      for (int r = 1; r < kSumRows; ++r) {
        sum += sums[r * kSumLanes + lane];
      }
      p.out[j] = static_cast<T>(sum);
    }
    __syncthreads();
  }
}

}  // namespace

template <class T>
void launch_sum_shares(const SumSharesParams<T>& p, const DeviceScope& scope) {
  if (p.size == 0) {
    return;
  }
  const LaunchShape shape{
      strided_blocks(p.size, kSumLanes), 1, kSumLanes * kSumRows, kSumLanes * kSumRows * int64_t(sizeof(Acc<T>))};
  start_kernel(shape, scope, sum_shares_kernel<T>, p);
}

}  // namespace polygraph

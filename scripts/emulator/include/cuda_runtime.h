// The part of CUDA that the kernels of csrc/ use, for an ordinary C++ compiler: they run on the host, thread by thread.
//
// This header takes the place of the toolkit's. A kernel is a function; its threads are fibers, which run one at a time
// until they wait for others (emulator.cpp). What the host cannot show: speed, and races between threads that no
// schedule of the emulator brings out.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __restrict__

using std::max;
using std::min;

// ---- types and built-in variables ----

struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct uint3 {
  unsigned x, y, z;
};
struct dim3 : uint3 {
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : uint3{x_, y_, z_} {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

// ---- waiting for other threads ----

namespace emulator {

enum class Wait { kBlock, kWarp, kShuffle, kVote };

// Suspends the calling thread until the others that it waits for have come to the same kind of wait: all of the block
// (mask 0), or the lanes of its warp in `mask`.
void wait(Wait kind, unsigned mask);

// Likewise; gives the value of lane `from`.
uint64_t shuffle(unsigned mask, uint64_t value, int from);

// Likewise; gives the lanes of `mask` that said yes.
unsigned vote(unsigned mask, bool yes);

int lane();

template <class T>
T shuffled(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// The lane that a shuffle within groups of `width` lanes reads; its own where that lies outside.
inline int in_group(int target, int width, bool inside) {
  return inside ? (lane() & ~(width - 1)) + target : lane();
}

}  // namespace emulator

inline void __syncthreads() {
  emulator::wait(emulator::Wait::kBlock, 0);
}
inline void __syncwarp(unsigned mask = 0xffffffffU) {
  emulator::wait(emulator::Wait::kWarp, mask);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  return emulator::shuffled(mask, value, emulator::in_group(from & (width - 1), width, true));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  const int target = (emulator::lane() & (width - 1)) ^ with;
  return emulator::shuffled(mask, value, emulator::in_group(target, width, target < width));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int target = (emulator::lane() & (width - 1)) - static_cast<int>(delta);
  return emulator::shuffled(mask, value, emulator::in_group(target, width, target >= 0));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int target = (emulator::lane() & (width - 1)) + static_cast<int>(delta);
  return emulator::shuffled(mask, value, emulator::in_group(target, width, target < width));
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emulator::vote(mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}
inline unsigned __activemask() {
  return 1U << emulator::lane();  // the other lanes need not be here, and on a GPU neither
}

// ---- arithmetic ----

inline int __popc(unsigned value) {
  return std::popcount(value);
}
inline int __popcll(unsigned long long value) {
  return std::popcount(value);
}
inline int __ffs(int value) {
  return __builtin_ffs(value);
}
inline int __clz(int value) {
  return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}
inline int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline float __int_as_float(int bits) {
  return std::bit_cast<float>(bits);
}
inline int __float_as_int(float value) {
  return std::bit_cast<int>(value);
}
inline unsigned __float_as_uint(float value) {
  return std::bit_cast<unsigned>(value);
}
inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
inline double __hiloint2double(int high, int low) {
  return std::bit_cast<double>(static_cast<uint64_t>(static_cast<unsigned>(high)) << 32 | static_cast<unsigned>(low));
}

// The host compiler is told not to fuse (-ffp-contract=off), so each of these rounds once.
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fmaf_rn(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline double __dsub_rn(double a, double b) {
  return a - b;
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline double __fma_rn(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}
float __fmaf_ru(float a, float b, float c);
double __fma_ru(double a, double b, double c);

inline float __expf(float x) {
  return expf(x);
}

// ---- memory ----

// A store that the compiler keeps whole and sends to global memory; the address must be a multiple of its size.
template <class T>
void __stwb(T* to, T value) {
  *to = value;
}
template <class T>
T __ldg(const T* from) {
  return *from;
}

// ---- the runtime ----

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

// What the libraries ask of the runtime and of torch about devices is answered by emulator.cpp.
inline cudaError_t cudaGetDevice(int* device) {
  *device = -1;  // torch's number of the CPU
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) {
  return "no error";
}
inline const char* cudaGetErrorName(cudaError_t) {
  return "cudaSuccess";
}

namespace emulator {

using Call = void (*)(const void* what);

// Runs `call(what)` once for each thread of each block. Throws std::runtime_error where threads wait for ever, or a
// device-side assertion fails.
void launch(const char* name, const cudaLaunchConfig_t& config, Call call, const void* what);

}  // namespace emulator

template <class Params>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params), const Params& params) {
  struct Both {
    void (*kernel)(Params);
    const Params* params;
  };
  const Both both{kernel, &params};
  const auto call = [](const void* what) {
    const Both* b = static_cast<const Both*>(what);
    b->kernel(*b->params);
  };
  emulator::launch(__PRETTY_FUNCTION__, *config, call, &both);
  return cudaSuccess;
}

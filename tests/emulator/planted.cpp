// Kernels with planted faults, and right ones beside them: what the emulator must notice.
#include <cuda_runtime.h>

#include <cassert>
#include <exception>
#include <string>

namespace polygraph {
extern unsigned char polygraph_shared_memory[];
}

namespace {

float* shared() {
  return reinterpret_cast<float*>(polygraph::polygraph_shared_memory);
}

struct Params {
  float* out;  // [threads of a block]
};

// Thread i gets what its neighbour stored, behind a barrier.
__global__ void neighbour_kernel(Params p) {
  const unsigned i = threadIdx.x;
  shared()[i] = static_cast<float>(i);
  __syncthreads();
  p.out[i] = shared()[(i + 1) % blockDim.x];
}

// Planted: the barrier is missing.
__global__ void race_kernel(Params p) {
  const unsigned i = threadIdx.x;
  shared()[i] = static_cast<float>(i);
  p.out[i] = shared()[(i + 1) % blockDim.x];
}

// Planted: half of the block never comes to the barrier.
__global__ void divergent_kernel(Params p) {
  if (threadIdx.x < blockDim.x / 2) {
    __syncthreads();
  }
  p.out[threadIdx.x] = 1;
}

// Planted: the upper lanes are named, and do not come.
__global__ void missing_lanes_kernel(Params p) {
  if (threadIdx.x % 32 < 16) {
    p.out[threadIdx.x] = static_cast<float>(__shfl_sync(0xffffffffU, threadIdx.x, 0));
  }
}

// Planted: upper lanes ask on behalf of lower ones.
__global__ void foreign_lanes_kernel(Params p) {
  if (threadIdx.x % 32 >= 16) {
    __syncwarp(0x0000ffffU);
  }
  p.out[threadIdx.x] = 1;
}

// Planted: shared memory is read before it was written.
__global__ void unwritten_kernel(Params p) {
  p.out[threadIdx.x] = shared()[threadIdx.x];
}

// Planted: an assertion that one thread fails.
__global__ void assertion_kernel(Params p) {
  assert(threadIdx.x != 3);
  p.out[threadIdx.x] = 1;
}

struct alignas(16) Pack {
  float lane[4];
};

// Planted: the second thread's pack begins 4 bytes behind the first one's.
__global__ void misaligned_kernel(Params p) {
  if (threadIdx.x < 2) {
    p.out[threadIdx.x] = reinterpret_cast<Pack*>(shared() + threadIdx.x)->lane[0];
  }
}

// Right: the operations of a warp, all lanes and half of them.
__global__ void warp_kernel(Params p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned even = __ballot_sync(0xffffffffU, lane % 2 == 0);
  int sum = lane;
  for (int reach = 16; reach > 0; reach /= 2) {
    sum += __shfl_xor_sync(0xffffffffU, sum, reach);
  }
  int half = lane;
  if (lane < 16) {
    half = __shfl_sync(0x0000ffffU, lane, 5);
  } else {
    half = __shfl_sync(0xffff0000U, lane, 20);
  }
  const int below = __shfl_up_sync(0xffffffffU, lane, 1);
  const int above = __shfl_down_sync(0xffffffffU, lane, 1, 8);
  const bool right = even == 0x55555555U && sum == 496 && half == (lane < 16 ? 5 : 20) &&
                     below == (lane > 0 ? lane - 1 : 0) && above == (lane % 8 < 7 ? lane + 1 : lane) &&
                     __any_sync(0xffffffffU, lane == 31) && !__all_sync(0xffffffffU, lane == 31);
  p.out[threadIdx.x] = right ? 1 : 0;
}

std::string error;

const char* started(void (*kernel)(Params), float* out, int threads) {
  cudaLaunchConfig_t config;
  config.gridDim = dim3(2);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(threads) * sizeof(float);
  error.clear();
  try {
    cudaLaunchKernelEx(&config, kernel, Params{out});
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  return error.c_str();
}

}  // namespace

#define PLANTED(name)                                                                           \
  extern "C" __attribute__((visibility("default"))) const char* name(float* out, int threads) { \
    return started(name##_kernel, out, threads);                                                \
  }

PLANTED(neighbour)
PLANTED(race)
PLANTED(divergent)
PLANTED(missing_lanes)
PLANTED(foreign_lanes)
PLANTED(unwritten)
PLANTED(assertion)
PLANTED(misaligned)
PLANTED(warp)

// fma(a, b, c) rounded up, to *wide and *narrow.
extern "C" __attribute__((visibility("default"))) void fused_up(
    double a, double b, double c, double* wide, float* narrow) {
  *wide = __fma_ru(a, b, c);
  *narrow = __fmaf_ru(static_cast<float>(a), static_cast<float>(b), static_cast<float>(c));
}

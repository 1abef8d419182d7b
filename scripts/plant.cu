// Four planted bugs, one for each tool of compute-sanitizer, and a run without any: a check that cannot fail is none.
//
//   plant none|memcheck|racecheck|synccheck|initcheck
#include <cstdio>
#include <cstring>

constexpr int kThreads = 64;
// Not a multiple of the 256 bytes that allocations are aligned to: what lies behind the last number is nobody's.
constexpr int kNumbers = 1000;

__global__ void without_a_bug(int* p) {
  __shared__ int s[kThreads];
  s[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  p[threadIdx.x] = s[kThreads - 1 - threadIdx.x];
}

__global__ void past_the_end(int* p) {
  if (threadIdx.x < 4) {
    p[kNumbers + threadIdx.x] = 1;
  }
}

// The barrier between writing and reading another's number is missing.
__global__ void race(int* p) {
  __shared__ int s[kThreads];
  s[threadIdx.x] = static_cast<int>(threadIdx.x);
  p[threadIdx.x] = s[kThreads - 1 - threadIdx.x];
}

// Lane 16 comes to a barrier whose mask does not name it.
__global__ void wrong_mask(int* p) {
  if (threadIdx.x % 32 <= 16) {
    __syncwarp(0x0000ffffU);
  }
  p[threadIdx.x] = 1;
}

__global__ void never_written(const int* p, int* q) {
  q[threadIdx.x] = p[threadIdx.x];
}

int main(int argc, char** argv) {
  const char* wanted = argc == 2 ? argv[1] : "";
  int* p = nullptr;
  int* q = nullptr;
  if (cudaMalloc(&p, kNumbers * sizeof(int)) != cudaSuccess || cudaMalloc(&q, kNumbers * sizeof(int)) != cudaSuccess) {
    return 3;
  }
  if (std::strcmp(wanted, "none") == 0) {
    without_a_bug<<<1, kThreads>>>(p);
  } else if (std::strcmp(wanted, "memcheck") == 0) {
    past_the_end<<<1, kThreads>>>(p);
  } else if (std::strcmp(wanted, "racecheck") == 0) {
    race<<<1, kThreads>>>(p);
  } else if (std::strcmp(wanted, "synccheck") == 0) {
    wrong_mask<<<1, kThreads>>>(p);
  } else if (std::strcmp(wanted, "initcheck") == 0) {
    never_written<<<1, kThreads>>>(p, q);
  } else {
    std::fputs("plant none|memcheck|racecheck|synccheck|initcheck\n", stderr);
    return 2;
  }
  return cudaDeviceSynchronize() == cudaSuccess ? 0 : 3;
}

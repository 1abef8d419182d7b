// Division and padding that round up, on the host and in CUDA kernels.
#pragma once

#include <cstdint>
#include <type_traits>

#if defined(__CUDACC__)
#define POLYGRAPH_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define POLYGRAPH_HOST_DEVICE inline
#endif

namespace polygraph {

// a / b rounded up, for a >= 0 and b > 0; the type is the wider of the two.
template <class A, class B>
POLYGRAPH_HOST_DEVICE constexpr std::common_type_t<A, B> ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

// The smallest multiple of `step` that is not below `size`, for size >= 0 and step > 0.
template <class A, class B>
POLYGRAPH_HOST_DEVICE constexpr std::common_type_t<A, B> round_up(A size, B step) {
  return ceil_div(size, step) * step;
}

}  // namespace polygraph

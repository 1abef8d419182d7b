// CUDA kernels of the polynomial step; poly_step_cuda.cu launches them.
//
// Bound by memory: rows that a linear operator has just written are read twice, once for the sums over the rows of a
// sample and once to write. A sum is made of shares of kShareRows rows, one block each, added in order afterwards: the
// order depends on V, D and the dtype alone.
#pragma once

#include "poly_step/poly_step_params.cuh"

namespace polygraph {

constexpr int kThreads = 256;
constexpr int64_t kShareRows = 256;

__host__ __device__ __forceinline__ int64_t num_shares(int64_t V) {
  return ceil_div(V, kShareRows);
}

// The value of a scale or bias at vertex v and channel d.
template <class T>
__device__ __forceinline__ Acc<T> factor_at(const PolyFactors<T>& factors, int64_t v, int64_t d, Acc<T> absent) {
  return factors.data == nullptr ? absent : static_cast<Acc<T>>(factors.data[v * factors.row_stride + d]);
}

// kVec adjacent values; where kVec is more than 1, it is a pack's width, and divides d and row_stride.
template <int kVec, class T>
__device__ __forceinline__ Pack<Acc<T>, kVec> factor_lanes(
    const PolyFactors<T>& factors, int64_t v, int64_t d, Acc<T> absent) {
  Pack<Acc<T>, kVec> result;
  if (kVec > 1 && factors.data != nullptr && factors.packs) {
    const auto pack = load_pack<T, kVec>(factors.data + v * factors.row_stride + d);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      result.lane[i] = static_cast<Acc<T>>(pack.lane[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      result.lane[i] = factor_at(factors, v, d + i, absent);
    }
  }
  return result;
}

// kVec adjacent accumulators, 16 bytes a load.
template <int kVec, class A>
__device__ __forceinline__ Pack<A, kVec> load_accumulators(const A* from) {
  constexpr int kGroup = kVec < kPackWidth<A> ? kVec : kPackWidth<A>;
  Pack<A, kVec> result;
#pragma unroll
  for (int i = 0; i < kVec; i += kGroup) {
    const auto group = load_pack<A, kGroup>(from + i);
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      result.lane[i + g] = group.lane[g];
    }
  }
  return result;
}

template <class T>
struct PolyNormParams {
  PolySizes n;
  PolyTerms<T> terms;
  Acc<T>* partial;  // [B, shares, D]; null for norm 0
  int64_t norm;
  double eps;
  Acc<T>* rnorm;  // [B, D]
};

__device__ __forceinline__ float exp_minus_one(float z) {
  return expm1f(z);
}

__device__ __forceinline__ double exp_minus_one(double z) {
  return expm1(z);
}

template <class A>
__device__ __forceinline__ A activate(A z, int activation) {
  switch (activation) {
    case kActivationElu:
      return z > A(0) ? z : exp_minus_one(z);  // NaN is not > 0 and stays NaN
    case kActivationRelu:
      return z < A(0) ? A(0) : z;
    case kActivationLeakyRelu:
      return z < A(0) ? z * A(kLeakySlope) : z;
    default:
      return z;
  }
}

// grad * act'(z), read off the output; of ReLU 0 where the output is, whatever the gradient.
template <class A>
__device__ __forceinline__ A past_activation(A out, A grad, int activation) {
  switch (activation) {
    case kActivationElu:
      return out > A(0) ? grad : grad * (out + A(1));
    case kActivationRelu:
      return out <= A(0) ? A(0) : grad;
    case kActivationLeakyRelu:
      return out > A(0) ? grad : grad * A(kLeakySlope);
    default:
      return grad;
  }
}

// Sums kSums values per channel over the rows of share blockIdx.x of sample b: add(v, d, sum) adds row v's part for the
// channels [d, d + kVec); write(d, total) receives the result on one thread. Neighboring threads lie along D, as many
// as D has groups of kVec, rounded up to a power of two (32 at most); the rest of the block takes further rows, which
// are folded by halves. kVec, and with it the order, depends on D alone: see with_lanes. Safe: all threads pass every
// barrier, and shared memory [kSums, kVec, kThreads] is left alone until the folding threads are done with it.
template <class A, int kSums, int kVec, class Add, class Write>
__device__ __forceinline__ void reduce_share(const PolySizes& n, const Add& add, const Write& write) {
  A* shared = reinterpret_cast<A*>(polygraph_shared_memory);
  const int64_t groups = n.D / kVec;
  int lanes = 1;
  while (lanes < 32 && lanes < groups) {
    lanes *= 2;
  }
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % lanes;
  const int line = thread / lanes;
  const int lines = kThreads / lanes;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kShareRows;
  const int64_t end = begin + kShareRows < n.V ? begin + kShareRows : n.V;
  for (int64_t g0 = 0; g0 < groups; g0 += lanes) {
    const int64_t d = (g0 + lane) * kVec;
    A sum[kSums][kVec] = {};
    for (int64_t v = begin + line; d < n.D && v < end; v += lines) {
      add(v, d, sum);
    }
#pragma unroll
    for (int i = 0; i < kSums * kVec; ++i) {
      shared[i * kThreads + thread] = sum[i / kVec][i % kVec];
    }
    __syncthreads();
    for (int half = lines / 2; half > 0; half /= 2) {
      if (line < half) {
#pragma unroll
        for (int i = 0; i < kSums * kVec; ++i) {
          shared[i * kThreads + thread] += shared[i * kThreads + thread + half * lanes];
        }
      }
      __syncthreads();
    }
    if (line == 0 && d < n.D) {
#pragma unroll
      for (int i = 0; i < kSums * kVec; ++i) {
        sum[i / kVec][i % kVec] = shared[i * kThreads + thread];
      }
      write(d, sum);
    }
    __syncthreads();
  }
}

// partial[b, share, d] = sum of t^2 over the share's rows: a block per share, looping over samples (see reduce_share).
template <class T, int kVec, bool kPacks>
__global__ void __launch_bounds__(kThreads, 3) poly_step_squares_kernel(PolyNormParams<T> p) {
  using A = Acc<T>;
  for (int64_t b = blockIdx.y; b < p.n.B; b += gridDim.y) {
    const auto add = [&](int64_t v, int64_t d, A(&sum)[1][kVec]) {
      const auto a = load_lanes<T, kVec, kPacks>(p.terms.a.row(b, v) + d);
      const auto s = load_lanes<T, kVec, kPacks>(p.terms.s.row(b, v) + d);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const A t = static_cast<A>(a.lane[i]) * static_cast<A>(s.lane[i]);
        sum[0][i] += t * t;
      }
    };
    const auto write = [&](int64_t d, const A(&sum)[1][kVec]) {
      A* to = p.partial + (b * num_shares(p.n.V) + blockIdx.x) * p.n.D + d;
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        to[i] = sum[0][i];
      }
    };
    reduce_share<A, 1, kVec>(p.n, add, write);
  }
}

constexpr unsigned kWholeWarp = 0xffffffffU;
constexpr int kWarp = 32;

// 1/sqrt(eps + mean_v t^2) of channel `item` of [B, D], with everything divided by the largest |t| (or by sqrt(eps),
// where that is larger) before it is squared: what all lanes get, in one order. If a t is not
// finite the result is `plain`. All lanes of the warp call, with the same arguments.
template <class T>
__device__ __forceinline__ Acc<T> scaled_rnorm(const PolyNormParams<T>& p, int64_t item, Acc<T> plain) {
  using A = Acc<T>;
  const int64_t b = quotient(item, p.n.D);
  const int64_t d = item - b * p.n.D;
  const auto term = [&](int64_t v) {
    const A t = static_cast<A>(p.terms.a.row(b, v)[d]) * static_cast<A>(p.terms.s.row(b, v)[d]);
    return t < A(0) ? -t : t;
  };
  const int64_t lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr A kLeastRoot = kSmallestNormal<A>;
  const A root = static_cast<A>(sqrt(p.eps)) > kLeastRoot ? static_cast<A>(sqrt(p.eps)) : kLeastRoot;
  A largest = root;
  bool finite = largest <= kLargestNumber<A>;
  for (int64_t v = lane; v < p.n.V; v += kWarp) {
    const A t = term(v);
    finite = finite && t <= kLargestNumber<A>;
    largest = t > largest ? t : largest;
  }
  if (!__all_sync(kWholeWarp, finite)) {
    return plain;
  }
#pragma unroll
  for (int half = kWarp / 2; half > 0; half /= 2) {
    const A other = __shfl_xor_sync(kWholeWarp, largest, half);
    largest = other > largest ? other : largest;
  }
  A sum = 0;
  for (int64_t v = lane; v < p.n.V; v += kWarp) {
    const A ratio = term(v) / largest;
    sum += ratio * ratio;
  }
#pragma unroll
  for (int half = kWarp / 2; half > 0; half /= 2) {
    sum += __shfl_xor_sync(kWholeWarp, sum, half);
  }
  const A mean = p.n.V > 0 ? sum / static_cast<A>(p.n.V) : A(0);
  return A(1) / sqrt((root / largest) * (root / largest) + mean) / largest;
}

// rnorm[b, d]: a thread per channel adds its shares in order; neighboring threads read side by side. The channels that
// the plain sums do not serve are taken by their warp, one after the other. Safe: all lanes take every turn.
template <class T>
__global__ void __launch_bounds__(kThreads, 3) poly_step_rnorm_kernel(PolyNormParams<T> p) {
  using A = Acc<T>;
  const int64_t shares = num_shares(p.n.V);
  const int64_t items = p.n.B * p.n.D;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t item = first_item(); item - lane < items; item += item_stride()) {
    A r = 1;
    bool serves = true;
    if (p.norm == kNormRms && item < items) {
      const int64_t b = quotient(item, p.n.D);
      const A* from = p.partial + b * shares * p.n.D + (item - b * p.n.D);
      A total = 0;
#pragma unroll 4
      for (int64_t share = 0; share < shares; ++share) {
        total += from[share * p.n.D];
      }
      const A mean = static_cast<A>(p.eps) + (p.n.V > 0 ? total / static_cast<A>(p.n.V) : A(0));
      r = A(1) / sqrt(mean);
      serves = mean >= kLeastMeanSquare<A> && mean <= kLargestNumber<A>;
    }
    for (unsigned rest = __ballot_sync(kWholeWarp, !serves); rest != 0; rest &= rest - 1) {
      const int source = __ffs(static_cast<int>(rest)) - 1;
      const A scaled = scaled_rnorm(p, item - lane + source, __shfl_sync(kWholeWarp, r, source));
      r = lane == source ? scaled : r;
    }
    if (item < items) {
      p.rnorm[item] = r;
    }
  }
}

// A thread computes kVec channels of one row v, sample after sample; neighboring threads lie along D, then along v.
// Scale and bias are read once, ahead of the samples. Loads and stores are kVec wide (D and all strides multiples,
// aligned). Safe: one writer per element.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 3) poly_step_kernel(PolyForwardParams<T> p) {
  using A = Acc<T>;
  const int64_t groups = p.n.D / kVec;
  for (int64_t item = first_item(); item < p.n.V * groups; item += item_stride()) {
    const int64_t v = quotient(item, groups);
    const int64_t d = (item - v * groups) * kVec;
    const auto scale = factor_lanes<kVec>(p.scale, v, d, A(1));
    const auto bias = factor_lanes<kVec>(p.bias, v, d, A(0));
    for (int64_t b = blockIdx.y; b < p.n.B; b += gridDim.y) {
      const auto a = load_pack<T, kVec>(p.terms.a.row(b, v) + d);
      const auto s = load_pack<T, kVec>(p.terms.s.row(b, v) + d);
      const auto rnorm = load_accumulators<kVec>(p.rnorm + b * p.n.D + d);
      Pack<T, kVec> skip{};
      if (p.skip.data != nullptr) {
        skip = load_pack<T, kVec>(p.skip.row(b, v) + d);
      }
      Pack<T, kVec> result;
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const A first = static_cast<A>(a.lane[i]);
        const A factor = scale.lane[i] * rnorm.lane[i];
        A z = first + factor * (first * static_cast<A>(s.lane[i]));
        z += bias.lane[i];
        z += static_cast<A>(skip.lane[i]);
        result.lane[i] = static_cast<T>(activate(z, p.activation));
      }
      store_global<T, kVec>(p.out + (b * p.n.V + v) * p.n.D + d, result);
    }
  }
}

// partial[b, share, :, d] = sums of dz u (times the scale, where it is that of the vertex) and of dz over the share's
// rows (see reduce_share).
template <class T, int kVec, bool kPacks>
__global__ void __launch_bounds__(kThreads, 3) poly_step_backward_sums_kernel(PolyBackwardParams<T> p) {
  using A = Acc<T>;
  const PolyFactors<T> vertex_scale{
      .data = p.scale.row_stride == 0 ? nullptr : p.scale.data, .row_stride = p.n.D, .packs = p.scale.packs};
  for (int64_t b = blockIdx.y; b < p.n.B; b += gridDim.y) {
    const auto add = [&](int64_t v, int64_t d, A(&sum)[2][kVec]) {
      const int64_t at = (b * p.n.V + v) * p.n.D + d;
      const auto a = load_lanes<T, kVec, kPacks>(p.terms.a.row(b, v) + d);
      const auto s = load_lanes<T, kVec, kPacks>(p.terms.s.row(b, v) + d);
      const auto grad = load_lanes<T, kVec, kPacks>(p.grad + at);
      const auto out = load_lanes<T, kVec, kPacks>(p.out + at);
      const auto own = factor_lanes<kVec>(vertex_scale, v, d, A(1));
      const A* rnorm = p.rnorm + b * p.n.D + d;  // not as packs: the kernels of half types would spill
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const A dz = past_activation(static_cast<A>(out.lane[i]), static_cast<A>(grad.lane[i]), p.activation);
        const A t = static_cast<A>(a.lane[i]) * static_cast<A>(s.lane[i]);
        sum[0][i] += own.lane[i] * dz * (rnorm[i] * t);
        sum[1][i] += dz;
      }
    };
    const auto write = [&](int64_t d, const A(&sum)[2][kVec]) {
      A* to = p.partial + (b * num_shares(p.n.V) + blockIdx.x) * 2 * p.n.D + d;
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        to[i] = sum[0][i];
        to[p.n.D + i] = sum[1][i];
      }
    };
    reduce_share<A, 2, kVec>(p.n, add, write);
  }
}

// through and the samples' parts of grad_scale and grad_bias: a thread per (b, d) adds its shares in order.
template <class T>
__global__ void __launch_bounds__(kThreads, 3) poly_step_backward_factors_kernel(PolyBackwardParams<T> p) {
  using A = Acc<T>;
  const int64_t shares = num_shares(p.n.V);
  for (int64_t item = first_item(); item < p.n.B * p.n.D; item += item_stride()) {
    const int64_t b = quotient(item, p.n.D);
    const int64_t d = item - b * p.n.D;
    const A* from = p.partial + b * shares * 2 * p.n.D + d;
    A with_term = 0;
    A alone = 0;
#pragma unroll 4
    for (int64_t share = 0; share < shares; ++share) {
      with_term += from[share * 2 * p.n.D];
      alone += from[share * 2 * p.n.D + p.n.D];
    }
    const A direct = p.scale.row_stride == 0 ? factor_at(p.scale, 0, d, A(1)) : A(1);
    p.through[item] = p.norm == kNormRms && p.n.V > 0 ? direct * (with_term / static_cast<A>(p.n.V)) : A(0);
    p.scale_sums[item] = with_term;
    p.bias_sums[item] = alone;
  }
}

// e = scale dz - through u; grad_a = dz + e (r s); grad_s = e (r a); grad_skip = dz. Threads and loads as
// poly_step_kernel.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 3) poly_step_backward_kernel(PolyBackwardParams<T> p) {
  using A = Acc<T>;
  const int64_t groups = p.n.D / kVec;
  for (int64_t item = first_item(); item < p.n.V * groups; item += item_stride()) {
    const int64_t v = quotient(item, groups);
    const int64_t d = (item - v * groups) * kVec;
    const auto scale = factor_lanes<kVec>(p.scale, v, d, A(1));
    for (int64_t b = blockIdx.y; b < p.n.B; b += gridDim.y) {
      const int64_t row = b * p.n.V + v;
      const auto rnorm = load_accumulators<kVec>(p.rnorm + b * p.n.D + d);
      const auto through = load_accumulators<kVec>(p.through + b * p.n.D + d);
      const auto a = load_pack<T, kVec>(p.terms.a.row(b, v) + d);
      const auto s = load_pack<T, kVec>(p.terms.s.row(b, v) + d);
      const auto grad = load_pack<T, kVec>(p.grad + row * p.n.D + d);
      const auto out = load_pack<T, kVec>(p.out + row * p.n.D + d);
      Pack<T, kVec> grad_a;
      Pack<T, kVec> grad_s;
      Pack<T, kVec> grad_skip;
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const A dz = past_activation(static_cast<A>(out.lane[i]), static_cast<A>(grad.lane[i]), p.activation);
        const A left = static_cast<A>(a.lane[i]);
        const A right = rnorm.lane[i] * static_cast<A>(s.lane[i]);
        const A e = scale.lane[i] * dz - through.lane[i] * (left * right);
        grad_a.lane[i] = static_cast<T>(dz + e * right);
        grad_s.lane[i] = static_cast<T>(e * (rnorm.lane[i] * left));
        grad_skip.lane[i] = static_cast<T>(dz);
      }
      store_global<T, kVec>(p.grad_a + row * p.grad_stride + d, grad_a);
      store_global<T, kVec>(p.grad_s + row * p.grad_stride + d, grad_s);
      if (p.grad_skip != nullptr) {
        store_global<T, kVec>(p.grad_skip + row * p.n.D + d, grad_skip);
      }
    }
  }
}

// Gradients of a scale and a bias of the vertex' own: grad_scale[v, d] = sum_b dz u, grad_bias[v, d] = sum_b dz.
// Threads and loads as poly_step_kernel; a thread adds the samples in order, so that the sums repeat bit for bit.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 3) poly_step_vertex_sums_kernel(PolyBackwardParams<T> p) {
  using A = Acc<T>;
  const int64_t groups = p.n.D / kVec;
  for (int64_t item = first_item(); item < p.n.V * groups; item += item_stride()) {
    const int64_t v = quotient(item, groups);
    const int64_t d = (item - v * groups) * kVec;
    A to_scale[kVec] = {};
    A to_bias[kVec] = {};
    for (int64_t b = 0; b < p.n.B; ++b) {
      const int64_t at = (b * p.n.V + v) * p.n.D + d;
      const auto rnorm = load_accumulators<kVec>(p.rnorm + b * p.n.D + d);
      const auto a = load_pack<T, kVec>(p.terms.a.row(b, v) + d);
      const auto s = load_pack<T, kVec>(p.terms.s.row(b, v) + d);
      const auto grad = load_pack<T, kVec>(p.grad + at);
      const auto out = load_pack<T, kVec>(p.out + at);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const A dz = past_activation(static_cast<A>(out.lane[i]), static_cast<A>(grad.lane[i]), p.activation);
        const A t = static_cast<A>(a.lane[i]) * static_cast<A>(s.lane[i]);
        to_scale[i] += dz * (rnorm.lane[i] * t);
        to_bias[i] += dz;
      }
    }
    if (p.grad_vertex_scale != nullptr) {
      store_row<T, kVec>(p.grad_vertex_scale + v * p.n.D + d, to_scale);
    }
    if (p.grad_vertex_bias != nullptr) {
      store_row<T, kVec>(p.grad_vertex_bias + v * p.n.D + d, to_bias);
    }
  }
}

}  // namespace polygraph

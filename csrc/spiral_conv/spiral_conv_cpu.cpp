// CPU spiral convolution: float32 and float64; half types are widened to float32 first.
#include <algorithm>
#include <vector>

#include "common/rounding.h"
#include "common/simd.h"
#include "spiral_conv/spiral_conv.h"

namespace polygraph {
namespace {

constexpr int64_t kVecPad = 64;  // bytes of the widest vector

#define POLYGRAPH_KERNEL_FILE "spiral_conv/spiral_conv_kernel.inc"
#include "common/each_isa.inc"

template <class T>
int64_t lanes() {
  return vector_bytes() / static_cast<int64_t>(sizeof(T));
}

int tile_rows() {
#if POLYGRAPH_HAS_X86
  switch (instruction_set()) {
    case InstructionSet::avx512:
      return avx512::kTileRows;
    case InstructionSet::avx2:
      return avx2::kTileRows;
    default:
      break;
  }
#endif
  return plain::kTileRows;
}

template <class T>
void forward_cpu(
    const SpiralSizes& n, const Tensor& x, const Tensor& index, const Tensor& weight, const std::optional<Tensor>& bias,
    Tensor& out) {
  const int64_t depth = n.S * n.C;
  const int64_t width = round_up(n.D, kVecPad / static_cast<int64_t>(sizeof(T)));
  std::vector<T> zeros(n.C, T(0));
  std::vector<T> start(width, T(0));
  if (bias.has_value()) {
    std::copy_n(const_data<T>(*bias), n.D, start.begin());
  }
  std::vector<T> packed(depth * width);
  POLYGRAPH_SIMD_CALL(pack_panels<T>(packed.data(), const_data<T>(weight), depth, n.D, 1, depth));
  const SpiralForwardParams<T> p{
      .n = n,
      .x = const_data<T>(x),
      .index = const_data<int64_t>(index),
      .weight = packed.data(),
      .bias = start.data(),
      .out = mutable_data<T>(out),
      .zeros = zeros.data()};
  const int64_t block = 16 * tile_rows();  // targets per task: their weights are in L1 by then
  const int64_t blocks = ceil_div(n.M, block);
  parallel_tasks(n.B * blocks, block * depth * round_up(n.D, lanes<T>()) / lanes<T>(), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks;
      const int64_t m = (task - b * blocks) * block;
      POLYGRAPH_SIMD_CALL(forward<T>(p, b, m, std::min(n.M, m + block)));
    }
  });
}

template <class T>
void backward_x_cpu(
    const SpiralSizes& n, const Tensor& grad, const Tensor& weight, const Tensor& t_ptr, const Tensor& t_entry,
    Tensor& out) {
  const int64_t slot = n.S * n.C;
  const int64_t width = round_up(n.C, kVecPad / static_cast<int64_t>(sizeof(T)));
  const bool few_channels = n.C <= 3 && n.D % lanes<T>() == 0;
  const T* from = const_data<T>(weight);
  std::vector<T> slots(n.S * n.D * n.C);  // [S, C, D] for few channels, else [S, D, C]
  for (int64_t s = 0; s < n.S; ++s) {
    for (int64_t d = 0; d < n.D; ++d) {
      for (int64_t c = 0; c < n.C; ++c) {
        slots[s * n.D * n.C + (few_channels ? c * n.D + d : d * n.C + c)] = from[d * slot + s * n.C + c];
      }
    }
  }
  std::vector<T> packed;
  if (!few_channels) {
    packed.resize(n.S * n.D * width);
    POLYGRAPH_SIMD_CALL(pack_panels<T>(packed.data(), slots.data(), n.S * n.D, n.C, n.C, 1));
  }
  const SpiralBackwardXParams<T> p{
      .n = n,
      .grad = const_data<T>(grad),
      .weight = packed.data(),
      .t_ptr = const_data<int64_t>(t_ptr),
      .t_entry = const_data<int64_t>(t_entry),
      .out = mutable_data<T>(out),
      .narrow = few_channels ? slots.data() : nullptr};
  const int64_t group_rows = few_channels ? 4 : tile_rows();
  const int64_t groups = ceil_div(n.B, group_rows);
  constexpr int64_t block = 64;  // sources per task
  const int64_t blocks = ceil_div(n.V, block);
  const int64_t work = block * n.B / groups * n.S * n.D * round_up(n.C, lanes<T>()) / lanes<T>();
  parallel_tasks(groups * blocks, work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / blocks;
      const int64_t u = (task - group * blocks) * block;
      const int64_t b = n.B * group / groups;
      const int64_t count = n.B * (group + 1) / groups - b;
      POLYGRAPH_SIMD_CALL(backward_x<T>(p, b, count, u, std::min(n.V, u + block)));
    }
  });
}

// The rows are cut into shares that depend on the sizes alone, and the shares are summed in order: the result is the
// same for any number of threads.
template <class T>
void backward_weight_cpu(const SpiralSizes& n, const Tensor& grad, const Tensor& x, const Tensor& index, Tensor& out) {
  const int64_t c_padded = round_up(n.C, lanes<T>());
  const int64_t d_padded = round_up(n.D, lanes<T>());
  const bool gather_wide = c_padded == n.C && c_padded * n.D < d_padded * n.C;
  const int64_t narrow = gather_wide ? n.D : n.C;
  const int64_t stride = gather_wide ? c_padded : d_padded;
  const SpiralBackwardWeightParams<T> p{
      .n = n,
      .grad = const_data<T>(grad),
      .x = const_data<T>(x),
      .index = const_data<int64_t>(index),
      .gather_wide = gather_wide,
      .sum_stride = stride};
  const int64_t rows = n.B * n.M;
  const int64_t size = n.S * narrow * stride;
  constexpr int64_t max_bytes = int64_t(32) << 20;
  const int64_t affordable = std::max<int64_t>(1, max_bytes / (size * static_cast<int64_t>(sizeof(T))));
  const int64_t shares = std::clamp<int64_t>(rows / (4 * kGradientRows), 1, std::min<int64_t>(affordable, 32));
  std::vector<T> sums(shares * size, T(0));
  parallel_tasks(shares, rows / shares * size / lanes<T>(), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(kGradientRows * d_padded);
    for (int64_t share = begin; share < end; ++share) {
      const int64_t first = rows * share / shares;
      const int64_t last = rows * (share + 1) / shares;
      POLYGRAPH_SIMD_CALL(backward_weight<T>(p, first, last, sums.data() + share * size, scratch.data()));
    }
  });
  for (int64_t share = 1; share < shares; ++share) {
    for (int64_t i = 0; i < size; ++i) {
      sums[i] += sums[share * size + i];
    }
  }
  T* to = mutable_data<T>(out);
  for (int64_t d = 0; d < n.D; ++d) {
    for (int64_t s = 0; s < n.S; ++s) {
      for (int64_t c = 0; c < n.C; ++c) {
        const int64_t at = gather_wide ? (s * narrow + d) * stride + c : (s * narrow + c) * stride + d;
        *to++ = sums[at];
      }
    }
  }
}

}  // namespace

Tensor spiral_conv_cpu(
    const Tensor& x, const Tensor& index, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& t_ptr, const std::optional<Tensor>& t_entry) {
  const SpiralSizes n = check_spiral_conv("spiral_conv", x, index, weight, bias);
  check_given_transposed("spiral_conv", x, index, t_ptr, t_entry);
  const Tensor table = dense(index);
  check_entries("spiral_conv", table, n.V);
  const Tensor features = widened(dense(x));
  const Tensor matrix = widened(dense(weight));
  const std::optional<Tensor> offset = widened(dense(bias));
  Tensor out = torch::stable::new_empty(features, {n.B, n.M, n.D});
  if (out.numel() > 0) {
    dispatch_wide(features, [&](auto zero) { forward_cpu<decltype(zero)>(n, features, table, matrix, offset, out); });
  }
  return narrowed(out, x.scalar_type());
}

Tensor spiral_conv_backward_x_cpu(
    const Tensor& grad, const Tensor& index, const Tensor& weight, const Tensor& t_ptr, const Tensor& t_entry) {
  const SpiralSizes n = check_spiral_conv_backward_x(grad, index, weight, t_ptr, t_entry);
  const Tensor ptr = dense(t_ptr);
  const Tensor entry = dense(t_entry);
  check_transposed("spiral_conv_backward_x", ptr, entry);
  const Tensor upstream = widened(dense(grad));
  const Tensor matrix = widened(dense(weight));
  Tensor out = torch::stable::new_empty(upstream, {n.B, n.V, n.C});
  if (out.numel() > 0) {
    dispatch_wide(upstream, [&](auto zero) { backward_x_cpu<decltype(zero)>(n, upstream, matrix, ptr, entry, out); });
  }
  return narrowed(out, grad.scalar_type());
}

Tensor spiral_conv_backward_weight_cpu(
    const Tensor& grad, const Tensor& x, const Tensor& index, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_entry*/) {
  const SpiralSizes n = check_spiral_conv_backward_weight(grad, x, index);
  const Tensor table = dense(index);
  check_entries("spiral_conv_backward_weight", table, n.V);
  const Tensor upstream = widened(dense(grad));
  const Tensor features = widened(dense(x));
  Tensor out = torch::stable::new_zeros(features, {n.D, n.S * n.C});
  if (out.numel() > 0 && upstream.numel() > 0) {
    dispatch_wide(features, [&](auto zero) { backward_weight_cpu<decltype(zero)>(n, upstream, features, table, out); });
  }
  return narrowed(out, x.scalar_type());
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("spiral_conv", TORCH_BOX(&polygraph::spiral_conv_cpu));
  m.impl("spiral_conv_backward_x", TORCH_BOX(&polygraph::spiral_conv_backward_x_cpu));
  m.impl("spiral_conv_backward_weight", TORCH_BOX(&polygraph::spiral_conv_backward_weight_cpu));
}

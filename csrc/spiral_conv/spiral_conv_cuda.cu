// CUDA spiral convolution: float32, float64, and half types that accumulate in float32.
#include "spiral_conv/spiral_conv_backward_weight.cuh"
#include "spiral_conv/spiral_conv_backward_x.cuh"
#include "spiral_conv/spiral_conv_forward.cuh"

namespace polygraph {
namespace {

constexpr int64_t kFewBlocks = 128;     // fewer blocks than this leave a large GPU idle: smaller tiles then
constexpr int64_t kWantedBlocks = 512;  // blocks that backward_weight cuts its rows for
constexpr int64_t kMinShareRows = 128;  // rows of a share, at least
constexpr int64_t kMaxPartialBytes = int64_t(64) << 20;
constexpr int64_t kManyThreads = 1 << 17;  // threads that fill a large GPU
constexpr int64_t kMostOffset = std::numeric_limits<int32_t>::max();
constexpr int64_t kMostChunk = 1024;  // entries that a tile of backward_x sorts at a time, at most

template <class T, class Shape, int kVec>
void launch_spiral_conv_tiles(SpiralForwardParams<T> p, const DeviceScope& scope) {
  p.column_tiles = ceil_div(p.n.D, Shape::kCols);
  const int64_t tiles = ceil_div(p.n.B * p.n.M, Shape::kRows) * p.column_tiles;
  constexpr int64_t shared_bytes = Shape::kSharedBytes + Shape::kRows * int64_t(sizeof(SpiralRow));
  static_assert(shared_bytes <= kMaxSharedBytes);
  start_kernel({tiles, 1, Shape::kThreads, shared_bytes}, scope, spiral_conv_kernel<T, Shape, kVec>, p);
}

// The tile by the width of the output; every tile sums in the same order, so the choice does not show in the result.
template <class T, int kVec>
void launch_spiral_conv_width(const SpiralForwardParams<T>& p, const DeviceScope& scope) {
  const int64_t rows = p.n.B * p.n.M;
  // Eight by eight results a thread spill for double, and beside the places of elements gathered one by one.
  constexpr int kWidest = std::is_same_v<T, double> || kVec == 1 ? 32 : 64;
  const int64_t width = p.n.D <= 16 ? 16 : p.n.D % 64 == 0 || p.n.D % 64 > 32 ? kWidest : 32;
  if (p.n.D <= 4) {
    launch_spiral_conv_tiles<T, Tile<T, 256, 4, 4, 2>, kVec>(p, scope);
  } else if (ceil_div(rows, 128) * ceil_div(p.n.D, width) < kFewBlocks) {
    launch_spiral_conv_tiles<T, Tile<T, 32, 16, 2, 2>, kVec>(p, scope);
  } else if (width == 16) {
    launch_spiral_conv_tiles<T, Tile<T, 128, 16, 4, 4>, kVec>(p, scope);
  } else if (width == 32) {
    launch_spiral_conv_tiles<T, Tile<T, 128, 32, 8, 4>, kVec>(p, scope);
  } else {
    launch_spiral_conv_tiles<T, Tile<T, 128, kWidest, 8, kWidest / 8>, kVec>(p, scope);
  }
}

template <class T>
void launch_spiral_conv(const SpiralForwardParams<T>& p, const DeviceScope& scope) {
  if (p.n.B * p.n.M * p.n.D == 0) {
    return;
  }
  if (p.n.C % kPackWidth<T> == 0 && is_aligned(p.x, 16) && is_aligned(p.weight, 16)) {
    launch_spiral_conv_width<T, kPackWidth<T>>(p, scope);
  } else {
    launch_spiral_conv_width<T, 1>(p, scope);
  }
}

template <class T, int kVec, int kDepthVec>
void launch_spiral_conv_backward_x_lists_samples(const SpiralBackwardXParams<T>& p, const DeviceScope& scope) {
  const int64_t items = p.n.V * ceil_div(p.n.C, kVec);
  const auto start = [&](auto samples) {
    constexpr int kSamples = decltype(samples)::value;
    const LaunchShape shape{
        strided_blocks(items, kBackwardXThreads), strided_samples(ceil_div(p.n.B, kSamples)), kBackwardXThreads, 0};
    start_kernel(shape, scope, spiral_conv_backward_x_kernel<T, kVec, kDepthVec, kSamples>, p);
  };
  if (p.n.B >= 8 && items * ceil_div(p.n.B, 8) >= kManyThreads) {
    start(std::integral_constant<int, 8>());
  } else if (p.n.B >= 3) {
    start(std::integral_constant<int, 4>());
  } else {
    start(std::integral_constant<int, 1>());
  }
}

template <class T>
void launch_spiral_conv_backward_x_lists(const SpiralBackwardXParams<T>& p, const DeviceScope& scope) {
  constexpr int kVec = kNarrowPack<T>;
  constexpr int64_t bytes = kVec * sizeof(T);
  if (p.n.C % kVec != 0 || !is_aligned(p.weight, bytes)) {
    launch_spiral_conv_backward_x_lists_samples<T, 1, 1>(p, scope);
  } else if (p.n.D % kVec != 0 || !is_aligned(p.grad, bytes)) {
    launch_spiral_conv_backward_x_lists_samples<T, kVec, 1>(p, scope);
  } else {
    launch_spiral_conv_backward_x_lists_samples<T, kVec, kVec>(p, scope);
  }
}

template <class T, class Shape, int kVec>
void launch_spiral_conv_backward_x_tiles(const SpiralBackwardXParams<T>& p, int64_t samples, const DeviceScope& scope) {
  SpiralBackwardXTileParams<T> q{
      .x = p,
      .column_tiles = ceil_div(p.n.C, Shape::kCols),
      .sample_groups = ceil_div(p.n.B, samples),
      .lanes_shift = 0,
      .chunk = 0};
  while (Shape::kThreadRows << q.lanes_shift < samples) {
    ++q.lanes_shift;
  }
  const int64_t sources = Shape::kRows / samples;
  // Twice the mean of a tile.
  const int64_t entries = ceil_div(2 * sources * p.n.M * p.n.S, p.n.V);
  q.chunk = static_cast<int>(std::min(round_up(std::max<int64_t>(entries, 1), 128), kMostChunk));
  const int64_t tiles = ceil_div(p.n.V, sources) * q.sample_groups * q.column_tiles;
  const int64_t shared_bytes = Shape::kSharedBytes + SpiralLists<T, Shape>::bytes(q.chunk);
  start_kernel({tiles, 1, Shape::kThreads, shared_bytes}, scope, spiral_conv_backward_x_tile_kernel<T, Shape, kVec>, q);
}

// Rows of a tile by the sizes alone: a tile's sources share chunks, whose ends show in the order of sums.
template <class T, int kVec>
void launch_spiral_conv_backward_x_width(const SpiralBackwardXParams<T>& p, int64_t samples, const DeviceScope& scope) {
  constexpr int kWidest = std::is_same_v<T, double> || kVec == 1 ? 32 : 64;
  const int64_t width = p.n.C <= 16 ? 16 : p.n.C % 64 == 0 || p.n.C % 64 > 32 ? 64 : 32;
  if (ceil_div(p.n.V * round_up(p.n.B, samples), 128) * ceil_div(p.n.C, width) < kFewBlocks) {
    launch_spiral_conv_backward_x_tiles<T, Tile<T, 32, 16, 2, 2>, kVec>(p, samples, scope);
  } else if (width == 16) {
    launch_spiral_conv_backward_x_tiles<T, Tile<T, 128, 16, 4, 4>, kVec>(p, samples, scope);
  } else if (width == 32) {
    launch_spiral_conv_backward_x_tiles<T, Tile<T, 128, 32, 8, 4>, kVec>(p, samples, scope);
  } else {
    launch_spiral_conv_backward_x_tiles<T, Tile<T, 128, kWidest, 8, kWidest / 8>, kVec>(p, samples, scope);
  }
}

// The tiles' offsets, within a group of samples and within the weights, are 32 bits wide. A tile multiplies padding,
// and zeros where there are fewer targets than sources, at over twice the rate of the lists.
template <class T>
void launch_spiral_conv_backward_x(const SpiralBackwardXParams<T>& p, const DeviceScope& scope) {
  if (p.n.B * p.n.V * p.n.C == 0) {
    return;
  }
  const SpiralSizes& n = p.n;
  constexpr int64_t kFew = kMostSamples / 2;
  const bool most = round_up(n.B, kMostSamples) == round_up(n.B, kFew);
  const int64_t samples = most ? kMostSamples : kFew;
  const double padded = static_cast<double>(round_up(n.B, samples)) * static_cast<double>(n.V) *
                        static_cast<double>(round_up(n.D, 16)) * static_cast<double>(round_up(n.C, 16));
  const double wanted = static_cast<double>(n.B) * static_cast<double>(n.M) * static_cast<double>(n.D * n.C);
  const int64_t slots = round_up(n.S, kSlotWindow);
  const bool small = samples * n.M <= kMostOffset / (n.D + 16) && (n.D + 16) * slots <= kMostOffset / (n.C + 64);
  if (padded > 2 * wanted || !small) {
    launch_spiral_conv_backward_x_lists(p, scope);
  } else if (
      n.C % kPackWidth<T> == 0 && n.D % kPackWidth<T> == 0 && is_aligned(p.weight, 16) && is_aligned(p.grad, 16)) {
    launch_spiral_conv_backward_x_width<T, kPackWidth<T>>(p, samples, scope);
  } else {
    launch_spiral_conv_backward_x_width<T, 1>(p, samples, scope);
  }
}

template <class T, class Shape>
void launch_spiral_conv_backward_weight_tiles(
    SpiralBackwardWeightParams<T, Acc<T>> p, const Tensor& like, T* out, const DeviceScope& scope) {
  const int64_t rows = p.n.B * p.n.M;
  const int64_t size = p.n.D * p.n.S * p.n.C;
  const int64_t affordable = kMaxPartialBytes / (size * int64_t(sizeof(Acc<T>)));
  p.row_tiles = ceil_div(p.n.S * p.n.C, Shape::kRows);
  const int64_t tiles = p.row_tiles * ceil_div(p.n.D, Shape::kCols);
  const int64_t wanted = std::min({ceil_div(kWantedBlocks, tiles), ceil_div(rows, kMinShareRows), affordable});
  p.share_rows = ceil_div(ceil_div(rows, std::max<int64_t>(1, wanted)), Shape::kDepth) * Shape::kDepth;
  p.shares = ceil_div(rows, p.share_rows);
  const Tensor partial = new_accumulators(like, p.shares * size);
  p.partial = mutable_data<Acc<T>>(partial);
  const LaunchShape shape{tiles * p.shares, 1, Shape::kThreads, Shape::kSharedBytes};
  static_assert(Shape::kSharedBytes <= kMaxSharedBytes);
  if (p.n.C % kPackWidth<T> == 0 && is_aligned(p.x, 16)) {
    start_kernel(shape, scope, spiral_conv_backward_weight_kernel<T, Shape, kPackWidth<T>>, p);
  } else {
    start_kernel(shape, scope, spiral_conv_backward_weight_kernel<T, Shape, 1>, p);
  }
  launch_sum_shares<T>({p.partial, out, p.shares, size}, scope);
}

template <class T>
void launch_spiral_conv_backward_weight(
    const SpiralBackwardWeightParams<T, Acc<T>>& p, const Tensor& like, T* out, const DeviceScope& scope) {
  if (p.n.B * p.n.M * p.n.S * p.n.C * p.n.D == 0) {
    return;
  }
  if (p.n.D <= 4) {
    launch_spiral_conv_backward_weight_tiles<T, Tile<T, 128, 4, 4, 1>>(p, like, out, scope);
  } else if (p.n.D <= 16) {
    launch_spiral_conv_backward_weight_tiles<T, Tile<T, 64, 16, 4, 2>>(p, like, out, scope);
  } else if (p.n.D <= 32) {
    launch_spiral_conv_backward_weight_tiles<T, Tile<T, 64, 32, 4, 4>>(p, like, out, scope);
  } else {
    constexpr int kWidest = std::is_same_v<T, double> ? 32 : 64;
    launch_spiral_conv_backward_weight_tiles<T, Tile<T, 64, kWidest, kWidest / 8, 4>>(p, like, out, scope);
  }
}

}  // namespace

Tensor spiral_conv_cuda(
    const Tensor& x, const Tensor& index, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& t_ptr, const std::optional<Tensor>& t_entry) {
  const SpiralSizes n = check_spiral_conv("spiral_conv", x, index, weight, bias);
  check_given_transposed("spiral_conv", x, index, t_ptr, t_entry);
  const DeviceScope scope(x);
  const Tensor features = dense(x);
  const Tensor table = dense(index);
  const Tensor matrix = dense(weight);
  const std::optional<Tensor> offset = dense(bias);
  const Tensor out = torch::stable::new_empty(x, {n.B, n.M, n.D});
  dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_spiral_conv<T>(
        {.n = n,
         .x = const_data<T>(features),
         .index = const_data<int64_t>(table),
         .weight = const_data<T>(matrix),
         .bias = const_data<T>(offset),
         .out = mutable_data<T>(out)},
        scope);
  });
  return out;
}

Tensor spiral_conv_backward_x_cuda(
    const Tensor& grad, const Tensor& index, const Tensor& weight, const Tensor& t_ptr, const Tensor& t_entry) {
  const SpiralSizes n = check_spiral_conv_backward_x(grad, index, weight, t_ptr, t_entry);
  const DeviceScope scope(grad);
  const Tensor upstream = dense(grad);
  const Tensor matrix = dense(weight);
  const Tensor ptr = dense(t_ptr);
  const Tensor entry = dense(t_entry);
  const Tensor out = torch::stable::new_empty(grad, {n.B, n.V, n.C});
  dispatch_floating(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_spiral_conv_backward_x<T>(
        {.n = n,
         .grad = const_data<T>(upstream),
         .weight = const_data<T>(matrix),
         .t_ptr = const_data<int64_t>(ptr),
         .t_entry = const_data<int64_t>(entry),
         .out = mutable_data<T>(out)},
        scope);
  });
  return out;
}

Tensor spiral_conv_backward_weight_cuda(
    const Tensor& grad, const Tensor& x, const Tensor& index, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_entry*/) {
  const SpiralSizes n = check_spiral_conv_backward_weight(grad, x, index);
  const DeviceScope scope(grad);
  if (n.B * n.M == 0) {
    return torch::stable::new_zeros(x, {n.D, n.S * n.C});
  }
  const Tensor upstream = dense(grad);
  const Tensor features = dense(x);
  const Tensor table = dense(index);
  const Tensor out = torch::stable::new_empty(x, {n.D, n.S * n.C});
  dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_spiral_conv_backward_weight<T>(
        {.n = n, .grad = const_data<T>(upstream), .x = const_data<T>(features), .index = const_data<int64_t>(table)}, x,
        mutable_data<T>(out), scope);
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("spiral_conv", TORCH_BOX(&polygraph::spiral_conv_cuda));
  m.impl("spiral_conv_backward_x", TORCH_BOX(&polygraph::spiral_conv_backward_x_cuda));
  m.impl("spiral_conv_backward_weight", TORCH_BOX(&polygraph::spiral_conv_backward_weight_cuda));
}

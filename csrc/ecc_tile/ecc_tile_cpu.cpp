// Edge-conditioned convolution in tiles on the CPU: float32 and float64; half types are widened by the callers.
#include <utility>

#include "common/arena.h"
#include "common/simd.h"
#include "ecc_tile/ecc_tile.h"
#include "edge_product/edge_product_cpu.h"

namespace polygraph {
namespace {

constexpr int64_t kTileSegments = 4 * kTileRows;

// The edge-wise half of some segments, and the weights.
template <class T>
struct TileParams {
  EdgeProductParams<T> edges;
  int64_t D = 0;
  const T* weight = nullptr;  // [H' C, weight_step], or transposed in the backward pass [D, weight_step]: whole vectors
  int64_t weight_step = 0;
  const T* grad = nullptr;  // [S, D], backward only
  int64_t grad_step = 0;
  T* out = nullptr;  // [S, D], forward only
};

// Per-thread scratch.
template <class T>
struct TileScratch {
  ProductScratch<T> edges;
  T* matrices;  // [kTileSegments, H', C], and two vectors after them
  T* grad;      // [kTileSegments, grad_step], zeros after the D elements of a row
};

#define POLYGRAPH_KERNEL_FILE "ecc_tile/ecc_tile_kernel.inc"
#include "common/each_isa.inc"

template <class T>
Scratchpad<TileScratch<T>> tile_scratch(const TileParams<T>& p) {
  const EdgeProductSizes& n = p.edges.n;
  const int64_t past_end = 2 * kWidestVector<T> + kTileRows;
  const auto layout = [&](Arena& arena) -> TileScratch<T> {
    return {
        .edges = product_scratch<T>(arena, n, true),
        .matrices = arena.take<T>(kTileSegments * n.hidden() * n.C + past_end),
        .grad = arena.take<T>(kTileSegments * p.grad_step)};
  };
  return Scratchpad<TileScratch<T>>(layout, ArenaFill::zeros);
}

template <class T>
int64_t whole_vectors(int64_t size) {
  return round_up(size, vector_bytes() / static_cast<int64_t>(sizeof(T)));
}

int64_t work_per_tile(const EdgeProductSizes& n, int64_t D) {
  return kTileSegments * (work_per_segment(n) + n.hidden() * n.C * D);
}

template <class T>
void ecc_tile_cpu(TileParams<T> p) {
  const EdgeProductSizes& n = p.edges.n;
  const int64_t tiles = ceil_div(n.g.S, kTileSegments);
  parallel_tasks(tiles, work_per_tile(n, p.D), [&](int64_t begin, int64_t end) {
    const Scratchpad<TileScratch<T>> scratch = tile_scratch(p);
    const int64_t first = begin * kTileSegments, last = std::min(n.g.S, end * kTileSegments);
    POLYGRAPH_SIMD_CALL(ecc_tile<T>(p, scratch.view(), first, last));
  });
}

// Parts of the segments have separate sums. How many parts there are depends on the number of segments alone, so that
// results do not depend on the number of threads.
constexpr int64_t kPartSegments = 40 * kTileSegments;
constexpr int64_t kMostParts = 64;

// `to` [H', C, D] is null where it is not wanted.
template <class T>
void ecc_tile_backward_cpu(TileParams<T> p, T* to) {
  const EdgeProductSizes& n = p.edges.n;
  const int64_t part = round_up(std::max(kPartSegments, ceil_div(n.g.S, kMostParts)), kTileSegments);
  const int64_t parts = ceil_div(n.g.S, part);
  const int64_t rows = n.hidden() * n.C;
  const int64_t size = rows * p.grad_step;
  std::vector<T> sums(to == nullptr ? 0 : static_cast<size_t>(parts * size));
  parallel_tasks(parts, 3 * part / kTileSegments * work_per_tile(n, p.D), [&](int64_t begin, int64_t end) {
    const Scratchpad<TileScratch<T>> scratch = tile_scratch(p);
    for (int64_t i = begin; i < end; ++i) {
      T* sum = to == nullptr ? nullptr : sums.data() + i * size;
      POLYGRAPH_SIMD_CALL(ecc_tile_backward<T>(p, scratch.view(), i * part, std::min(n.g.S, (i + 1) * part), sum));
    }
  });
  for (int64_t r = 0; to != nullptr && r < rows; ++r) {
    for (int64_t d = 0; d < p.D; ++d) {
      T total = 0;
      for (int64_t i = 0; i < parts; ++i) {
        total += sums[static_cast<size_t>(i * size + r * p.grad_step + d)];
      }
      to[r * p.D + d] = total;
    }
  }
}

// The weights [H', C, D] as [H' C, whole vectors of D], or as [D, whole vectors of H' C].
template <class T>
std::vector<T> packed_weight(const Tensor& weight, bool transposed) {
  const int64_t H = weight.size(0), C = weight.size(1), D = weight.size(2);
  const int64_t step = whole_vectors<T>(transposed ? H * C : D);
  std::vector<T> to(static_cast<size_t>((transposed ? D : H * C) * step));
  const T* from = const_data<T>(weight);
  for (int64_t h = 0; h < H; ++h) {
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t d = 0; d < D; ++d) {
        const int64_t row = h * C + c;
        to[static_cast<size_t>(transposed ? d * step + row : row * step + d)] =
            from[h * weight.stride(0) + c * weight.stride(1) + d * weight.stride(2)];
      }
    }
  }
  return to;
}

}  // namespace

void ecc_tile_cpu(
    const std::vector<Tensor>& phi, double slope, const Tensor& x, const Tensor& weight,
    const std::vector<Tensor>& graph, int64_t tables, Tensor out) {
  const char* op = "ecc_tile_";
  EdgeProductTensors t;
  read_phi(op, phi, t);
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_ecc_tile(op, x, t, weight, read);
  check_tile_result(op, "out", x, out, {n.g.S, weight.size(2)});
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), n.rows);
  const std::optional<Tensor> whole = dense(t.phi), near = dense(t.near), far = dense(t.far);
  const Tensor features = dense(x);
  dispatch_wide(x, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> packed = packed_weight<T>(weight, false);
    ecc_tile_cpu(
        TileParams<T>{
            .edges =
                {.n = n,
                 .graph = held.pointers(),
                 .phi = const_data<T>(whole),
                 .near = const_data<T>(near),
                 .far = const_data<T>(far),
                 .slope = static_cast<T>(slope),
                 .x = const_data<T>(features),
                 .G_padded = true},
            .D = weight.size(2),
            .weight = packed.data(),
            .weight_step = whole_vectors<T>(weight.size(2)),
            .out = mutable_data<T>(out)});
  });
}

void ecc_tile_backward_cpu(
    const Tensor& phi, const Tensor& x, const Tensor& grad, const Tensor& weight, const std::vector<Tensor>& graph,
    int64_t tables, const std::optional<Tensor>& a, const std::optional<Tensor>& y, const std::optional<Tensor>& to) {
  const char* op = "ecc_tile_backward_";
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_ecc_tile(op, x, {.phi = phi}, weight, read);
  const int64_t D = weight.size(2);
  check_dtype(op, "grad", grad, x.scalar_type());
  check_shape(op, "grad", grad, "[S, D]", {n.g.S, D});
  check_device(op, "grad", grad, x);
  check_tile_result(op, "a", x, a, {n.rows, n.hidden()});
  check_tile_result(op, "y", x, y, {n.rows, n.C});
  check_tile_result(op, "to", x, to, {n.hidden(), n.C, D});
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), n.rows);
  const Tensor hidden = dense(phi), features = dense(x), upstream = dense(grad);
  dispatch_wide(x, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> packed = packed_weight<T>(weight, true);
    ecc_tile_backward_cpu(
        TileParams<T>{
            .edges =
                {.n = n,
                 .graph = held.pointers(),
                 .phi = const_data<T>(hidden),
                 .x = const_data<T>(features),
                 .a = a.has_value() ? mutable_data<T>(*a) : nullptr,
                 .y = y.has_value() ? mutable_data<T>(*y) : nullptr,
                 .a_step = n.hidden(),
                 .G_padded = true},
            .D = D,
            .weight = packed.data(),
            .weight_step = whole_vectors<T>(n.hidden() * n.C),
            .grad = const_data<T>(upstream),
            .grad_step = whole_vectors<T>(D)},
        to.has_value() ? mutable_data<T>(*to) : nullptr);
  });
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("ecc_tile_", TORCH_BOX(&polygraph::ecc_tile_cpu));
  m.impl("ecc_tile_backward_", TORCH_BOX(&polygraph::ecc_tile_backward_cpu));
}

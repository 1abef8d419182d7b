// The edge-wise stages of lightweight ECC on the CPU: float32 and float64; half types are widened by the callers.
#include <utility>

#include "common/simd.h"
#include "edge_product/edge_product_cpu.h"
#include "light_ecc/light_ecc.h"

namespace polygraph {
namespace {

// Per-thread scratch, zeros at first. Rows are as long as whole vectors, and there are as many as fill whole tiles.
template <class T>
struct LightScratch {
  int64_t slots[kSlots];
  int64_t others[kSlots];
  int64_t count;
  int64_t step;    // of rows of W numbers
  int64_t a_step;  // of rows of 2 R numbers
  int64_t ranks;   // R, to whole tiles
  T* phi;          // [kSlots + kTileRows, step], phi'
  T* matrix;       // [2 R + tile, step], of the segment and, below it, kappa
  T* a;            // [kSlots + kTileRows, a_step]
  T* dots;         // [kSlots + kTileRows, a_step]
  T* rows;         // [kSlots + kTileRows, step], messages
  T* sums;         // [ranks, step], of the segment
  T* kappa;        // [ranks, step], of a block
  T* near;         // [step]
};

#define POLYGRAPH_KERNEL_FILE "light_ecc/light_ecc_kernel.inc"
#include "common/each_isa.inc"

template <class T>
Scratchpad<LightScratch<T>> light_scratch(const LightParams<T>& p) {
  const auto layout = [&](Arena& arena) -> LightScratch<T> {
    const int64_t rank = p.rank();
    const int64_t step = round_up(p.width(), kWidestVector<T>);
    const int64_t a_step = round_up(2 * rank, kWidestVector<T>) + kWidestVector<T>;
    const int64_t ranks = round_up(rank, kTileRows);
    return {
        .slots = {},
        .others = {},
        .count = 0,
        .step = step,
        .a_step = a_step,
        .ranks = ranks,
        .phi = arena.take<T>((kSlots + kTileRows) * step),
        .matrix = arena.take<T>((2 * rank + kWidestVector<T>)*step),
        .a = arena.take<T>((kSlots + kTileRows) * a_step),
        .dots = arena.take<T>((kSlots + kTileRows) * a_step),
        .rows = arena.take<T>((kSlots + kTileRows) * step),
        .sums = arena.take<T>(ranks * step),
        .kappa = arena.take<T>(ranks * step),
        .near = arena.take<T>(step)};
  };
  return Scratchpad<LightScratch<T>>(layout, ArenaFill::zeros);
}

// What takes a segment longer the more products of [R, W] each of its slots has.
template <class T>
int64_t work_of(const LightParams<T>& p, int64_t products) {
  return products * work_per_segment(p.n);
}

template <class T>
void light_factors_cpu(const LightParams<T>& p) {
  parallel_tasks(p.n.last - p.n.first, work_of(p, 2), [&](int64_t begin, int64_t end) {
    const Scratchpad<LightScratch<T>> scratch = light_scratch(p);
    POLYGRAPH_SIMD_CALL(light_factors<T>(p, scratch.view(), begin, end));
  });
}

template <class T>
void light_outer_cpu(const LightParams<T>& p) {
  parallel_tasks(p.n.last - p.n.first, work_of(p, 1), [&](int64_t begin, int64_t end) {
    const Scratchpad<LightScratch<T>> scratch = light_scratch(p);
    POLYGRAPH_SIMD_CALL(light_outer<T>(p, scratch.view(), begin, end));
  });
}

template <class T>
void light_backward_targets_cpu(const LightParams<T>& p) {
  parallel_tasks(p.n.last - p.n.first, work_of(p, 3), [&](int64_t begin, int64_t end) {
    const Scratchpad<LightScratch<T>> scratch = light_scratch(p);
    POLYGRAPH_SIMD_CALL(light_backward_targets<T>(p, scratch.view(), begin, end));
  });
}

template <class T>
void light_backward_sources_cpu(const LightParams<T>& p) {
  const int64_t blocks = ceil_div(p.n.last - p.n.first, kLightBlock);
  parallel_tasks(blocks, kLightBlock * work_of(p, 4), [&](int64_t begin, int64_t end) {
    const Scratchpad<LightScratch<T>> scratch = light_scratch(p);
    POLYGRAPH_SIMD_CALL(light_backward_sources<T>(p, scratch.view(), begin, end));
  });
}

// What all four read, contiguous, for as long as a kernel runs.
struct LightInputs {
  GraphTensors graph;
  EdgeProductTensors t;

  LightInputs(const char* op, const GraphTables& tables, const std::vector<Tensor>& phi, const EdgeProductSizes& n)
      : graph(tables) {
    EdgeProductTensors given;
    read_phi(op, phi, given);
    t = ready(given);
    check_graph_values(op, n.g, graph.pointers(), n.rows, n.first, n.last);
  }

  template <class T>
  LightParams<T> params(const EdgeProductSizes& n, double slope, const Tensor& found) const {
    return {
        .n = n,
        .graph = graph.pointers(),
        .phi = const_data<T>(t.phi),
        .near = const_data<T>(t.near),
        .far = const_data<T>(t.far),
        .slope = static_cast<T>(slope),
        .found = mutable_data<T>(found),
        .columns = found.size(1)};
  }
};

// Where d has its rows.
int64_t rows_of_d(const EdgeProductSizes& n, const std::vector<Tensor>& phi) {
  return phi.size() == 1 ? n.rows : n.g.E;
}

void check_bend(const char* op, double slope) {
  POLYGRAPH_CHECK(slope >= 0, op, ": slope must not be negative, got ", slope);
}

}  // namespace

void light_factors_cpu(
    const Tensor& p, const Tensor& kappa, const std::vector<Tensor>& phi, double slope, int64_t others, int64_t first,
    const std::vector<Tensor>& graph, int64_t tables, Tensor found) {
  const char* op = "light_factors_";
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_light(op, "p", p, phi, std::nullopt, others, first, read, found, false);
  check_light_tensor(op, "kappa", kappa, p, "[R, W]", {n.C, n.hidden()});
  const LightInputs inputs(op, read, phi, n);
  dispatch_wide(p, [&](auto zero) {
    using T = decltype(zero);
    LightParams<T> params = inputs.params<T>(n, slope, found);
    params.matrix = const_data<T>(p);
    params.kappa = const_data<T>(kappa);
    light_factors_cpu(params);
  });
}

void light_outer_cpu(
    const Tensor& found, const std::optional<Tensor>& gamma, const std::vector<Tensor>& phi, double slope,
    int64_t others, int64_t first, const std::vector<Tensor>& graph, int64_t tables, Tensor z) {
  const char* op = "light_outer_";
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_light(op, "z", z, phi, gamma, others, first, read, found, false);
  check_light_tensor(op, "gamma", gamma, z, "[E']", {n.rows});
  const LightInputs inputs(op, read, phi, n);
  dispatch_wide(z, [&](auto zero) {
    using T = decltype(zero);
    LightParams<T> params = inputs.params<T>(n, slope, found);
    params.gamma = const_data<T>(gamma);
    params.z = mutable_data<T>(z);
    light_outer_cpu(params);
  });
}

void light_backward_targets_cpu(
    const Tensor& g, Tensor found, const std::optional<Tensor>& gamma, const std::vector<Tensor>& phi, double slope,
    int64_t others, int64_t first, const std::vector<Tensor>& graph, int64_t tables, Tensor z, Tensor d,
    std::optional<Tensor> d_gamma) {
  const char* op = "light_backward_targets_";
  check_bend(op, slope);
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_light(op, "g", g, phi, gamma, others, first, read, found, true);
  check_light_tensor(op, "gamma", gamma, g, "[E']", {n.rows});
  check_light_tensor(op, "z", z, g, "[S', R, W]", {n.last - n.first, n.C, n.hidden()});
  check_light_tensor(op, "d", d, g, "[E, H]", {rows_of_d(n, phi), n.H});
  check_light_tensor(op, "d_gamma", d_gamma, g, "[E']", {n.rows});
  const LightInputs inputs(op, read, phi, n);
  dispatch_wide(g, [&](auto zero) {
    using T = decltype(zero);
    LightParams<T> params = inputs.params<T>(n, slope, found);
    params.matrix = const_data<T>(g);
    params.gamma = const_data<T>(gamma);
    params.z = mutable_data<T>(z);
    params.d = mutable_data<T>(d);
    params.d_gamma = d_gamma.has_value() ? mutable_data<T>(*d_gamma) : nullptr;
    light_backward_targets_cpu(params);
  });
}

void light_backward_sources_cpu(
    const std::vector<Tensor>& p, const Tensor& found, const std::vector<Tensor>& phi, double slope, int64_t others,
    int64_t first, const std::vector<Tensor>& graph, int64_t tables, Tensor z, Tensor d, std::optional<Tensor> d_near,
    Tensor sums) {
  const char* op = "light_backward_sources_";
  check_bend(op, slope);
  POLYGRAPH_CHECK(p.size() == 2, op, ": p must be the matrices and kappa, got ", p.size(), " tensors");
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_light(op, "p", p[0], phi, std::nullopt, others, first, read, found, true);
  const int64_t count = n.last - n.first;
  check_light_tensor(op, "kappa", p[1], p[0], "[R, W]", {n.C, n.hidden()});
  check_light_tensor(op, "z", z, p[0], "[S', R, W]", {count, n.C, n.hidden()});
  check_light_tensor(op, "d", d, p[0], "[E, H]", {rows_of_d(n, phi), n.H});
  check_light_tensor(op, "d_near", d_near, p[0], "[S', H]", {count, n.H});
  check_light_tensor(op, "sums", sums, p[0], "[blocks, R, W]", {ceil_div(count, kLightBlock), n.C, n.hidden()});
  const LightInputs inputs(op, read, phi, n);
  dispatch_wide(p[0], [&](auto zero) {
    using T = decltype(zero);
    LightParams<T> params = inputs.params<T>(n, slope, found);
    params.matrix = const_data<T>(p[0]);
    params.kappa = const_data<T>(p[1]);
    params.z = mutable_data<T>(z);
    params.d = mutable_data<T>(d);
    params.d_near = d_near.has_value() ? mutable_data<T>(*d_near) : nullptr;
    params.sums = mutable_data<T>(sums);
    light_backward_sources_cpu(params);
  });
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("light_factors_", TORCH_BOX(&polygraph::light_factors_cpu));
  m.impl("light_outer_", TORCH_BOX(&polygraph::light_outer_cpu));
  m.impl("light_backward_targets_", TORCH_BOX(&polygraph::light_backward_targets_cpu));
  m.impl("light_backward_sources_", TORCH_BOX(&polygraph::light_backward_sources_cpu));
}

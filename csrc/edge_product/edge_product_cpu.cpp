// CPU edge-wise halves of ECC: float32 and float64; half types are widened to float32 by the callers.
#include "edge_product/edge_product_cpu.h"

#include <utility>

#include "common/simd.h"

namespace polygraph {
namespace {

#define POLYGRAPH_KERNEL_FILE "edge_product/edge_product_kernel.inc"
#include "common/each_isa.inc"

template <class T>
Scratchpad<ProductScratch<T>> thread_scratch(const EdgeProductSizes& n, bool inner) {
  const auto layout = [&](Arena& arena) { return product_scratch<T>(arena, n, inner); };
  return Scratchpad<ProductScratch<T>>(layout, ArenaFill::zeros);
}

template <class T>
void edge_outer_cpu(const EdgeProductParams<T>& p) {
  parallel_tasks(p.n.last - p.n.first, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    edge_outer_segments(p, thread_scratch<T>(p.n, false).view(), begin, end);
  });
}

template <class T>
void edge_inner_cpu(const EdgeProductParams<T>& p) {
  parallel_tasks(p.n.last - p.n.first, 2 * work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    edge_inner_segments(p, thread_scratch<T>(p.n, true).view(), begin, end);
  });
}

}  // namespace

template <class T>
void edge_outer_segments(const EdgeProductParams<T>& p, const ProductScratch<T>& scratch, int64_t begin, int64_t end) {
  POLYGRAPH_SIMD_CALL(edge_outer<T>(p, scratch, begin, end));
}

template <class T>
void edge_inner_segments(const EdgeProductParams<T>& p, const ProductScratch<T>& scratch, int64_t begin, int64_t end) {
  POLYGRAPH_SIMD_CALL(edge_inner<T>(p, scratch, begin, end));
}

template void edge_outer_segments(const EdgeProductParams<float>&, const ProductScratch<float>&, int64_t, int64_t);
template void edge_outer_segments(const EdgeProductParams<double>&, const ProductScratch<double>&, int64_t, int64_t);
template void edge_inner_segments(const EdgeProductParams<float>&, const ProductScratch<float>&, int64_t, int64_t);
template void edge_inner_segments(const EdgeProductParams<double>&, const ProductScratch<double>&, int64_t, int64_t);

void edge_outer_cpu(
    const std::vector<Tensor>& phi, double slope, const std::vector<Tensor>& x, bool x_per_edge, int64_t others,
    int64_t first, const std::vector<Tensor>& graph, int64_t tables, Tensor out) {
  const char* op = "edge_outer_";
  const EdgeProductTensors given = read_lists(op, phi, x, x_per_edge);
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_edge_outer(given, x_per_edge, others, first, read, out);
  POLYGRAPH_CHECK(!is_half(out.scalar_type()), op, ": half types are widened before on the CPU");
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), n.rows, n.first, n.last);
  const EdgeProductTensors t = ready(given);
  dispatch_wide(out, [&](auto zero) {
    using T = decltype(zero);
    EdgeProductParams<T> p = edge_product_params<T>(n, held.pointers(), t, slope);
    p.out = mutable_data<T>(out);
    edge_outer_cpu(p);
  });
}

void edge_inner_cpu(
    const Tensor& G, const std::vector<Tensor>& phi, double slope, const std::vector<Tensor>& x, bool x_per_edge,
    int64_t others, int64_t first, const std::vector<Tensor>& graph, int64_t tables, std::optional<Tensor> a,
    std::optional<Tensor> y, bool add) {
  const char* op = "edge_inner_";
  const EdgeProductTensors given = read_lists(op, phi, x, x_per_edge);
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_edge_inner(G, given, x_per_edge, others, first, read, a, y);
  POLYGRAPH_CHECK(!is_half(G.scalar_type()), op, ": half types are widened before on the CPU");
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), n.rows, n.first, n.last);
  const Tensor matrices = dense(G);
  const EdgeProductTensors t = ready(given);
  dispatch_wide(G, [&](auto zero) {
    using T = decltype(zero);
    EdgeProductParams<T> p = edge_product_params<T>(n, held.pointers(), t, slope);
    p.G = const_data<T>(matrices);
    p.a = a.has_value() ? mutable_data<T>(*a) : nullptr;
    p.a_step = a.has_value() ? a->stride(0) : 0;
    p.y = y.has_value() ? mutable_data<T>(*y) : nullptr;
    p.add = add;
    edge_inner_cpu(p);
  });
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("edge_outer_", TORCH_BOX(&polygraph::edge_outer_cpu));
  m.impl("edge_inner_", TORCH_BOX(&polygraph::edge_inner_cpu));
}

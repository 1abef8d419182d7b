// CPU softmax of edge scores: float32 and float64; half types are widened to float32 first.
#include <limits>
#include <type_traits>

#include "common/simd.h"
#include "edge_softmax/edge_softmax.h"

namespace polygraph {
namespace {

template <class T>
struct EdgeSoftmaxCpuParams : EdgeSoftmaxParams<T> {
  T slope;
  bool over_features;

  EdgeSoftmaxCpuParams(const EdgeSoftmaxParams<T>& given, double slope_, bool over_features_)
      : EdgeSoftmaxParams<T>(given), slope(static_cast<T>(slope_)), over_features(over_features_) {}
};

#define POLYGRAPH_KERNEL_FILE "edge_softmax/edge_softmax_kernel.inc"
#include "common/each_isa.inc"

int64_t work_per_segment(const EdgeSoftmaxSizes& n) {
  return 16 * (n.g.E / std::max<int64_t>(1, n.g.S) + 1) * n.H;
}

template <class T>
void edge_softmax_cpu(const EdgeSoftmaxCpuParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_softmax<T>(p, begin, end));
  });
}

template <class T>
void edge_softmax_backward_cpu(const EdgeSoftmaxCpuParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n) / 4, [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_softmax_backward<T>(p, begin, end));
  });
}

// Where the rows are named by a list, some may be named by no slot: these are 0.
Tensor new_rows(const Tensor& like, const EdgeSoftmaxSizes& n, const GraphTables& graph) {
  const bool whole = !graph.slot.has_value() && !graph.edge.has_value() && n.rows == n.g.E;
  return whole ? torch::stable::new_empty(like, {n.rows, n.H}) : torch::stable::new_zeros(like, {n.rows, n.H});
}

}  // namespace

Tensor edge_softmax_cpu(
    const Tensor& u, const Tensor& v, double slope, bool over_features, int64_t rows, const std::vector<Tensor>& graph,
    int64_t tables) {
  const char* op = "edge_softmax";
  check_shape(op, "v", v, "[O, H]", {-1, -1});
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeSoftmaxSizes n = check_edge_softmax(op, u, u, v, v.size(0), rows, read);
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), rows);
  const Tensor near = widened(dense(u)), far = widened(dense(v));
  const Tensor out = new_rows(near, n, read);
  dispatch_wide(out, [&](auto zero) {
    using T = decltype(zero);
    const EdgeSoftmaxParams<T> p{
        .n = n,
        .graph = held.pointers(),
        .u = const_data<T>(near),
        .v = const_data<T>(far),
        .out = mutable_data<T>(out)};
    edge_softmax_cpu(EdgeSoftmaxCpuParams<T>(p, slope, over_features));
  });
  return narrowed(out, u.scalar_type());
}

Tensor edge_softmax_backward_cpu(
    const Tensor& grad, const Tensor& p, const std::optional<Tensor>& u, const std::optional<Tensor>& v, double slope,
    bool over_features, int64_t others, const std::vector<Tensor>& graph, int64_t tables) {
  const char* op = "edge_softmax_backward";
  check_shape(op, "p", p, "[E, H]", {-1, -1});
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeSoftmaxSizes n = check_edge_softmax(op, p, u, v, others, p.size(0), read);
  check_edge_rows(op, n, grad, p);
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), n.rows);
  const std::optional<Tensor> near = widened(dense(u)), far = widened(dense(v));
  const Tensor shares = widened(dense(p)), upstream = widened(dense(grad));
  const Tensor out = new_rows(shares, n, read);
  dispatch_wide(out, [&](auto zero) {
    using T = decltype(zero);
    const EdgeSoftmaxParams<T> params{
        .n = n,
        .graph = held.pointers(),
        .u = const_data<T>(near),
        .v = const_data<T>(far),
        .p = const_data<T>(shares),
        .grad = const_data<T>(upstream),
        .out = mutable_data<T>(out)};
    edge_softmax_backward_cpu(EdgeSoftmaxCpuParams<T>(params, slope, over_features));
  });
  return narrowed(out, p.scalar_type());
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("edge_softmax", TORCH_BOX(&polygraph::edge_softmax_cpu));
  m.impl("edge_softmax_backward", TORCH_BOX(&polygraph::edge_softmax_backward_cpu));
}

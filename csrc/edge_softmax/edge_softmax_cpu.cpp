// CPU softmax of edge scores: float32 and float64; half types are widened to float32 first.
#include <limits>
#include <type_traits>

#include "common/simd.h"
#include "edge_softmax/edge_softmax.h"

namespace polygraph {
namespace {

template <class T>
struct EdgeSoftmaxParams {
  EdgeSoftmaxSizes n;
  GraphPointers graph;
  const T* u;     // [S, H]; null in the derivative of linear scores
  const T* v;     // [O, H]
  const T* p;     // [E', H], backward only
  const T* grad;  // [E', H], likewise
  T slope;
  bool over_features;
  T* out;  // [E', H]; 0 before in rows that no slot names
};

#define POLYGRAPH_KERNEL_FILE "edge_softmax/edge_softmax_kernel.inc"
#include "common/each_isa.inc"

int64_t work_per_segment(const EdgeSoftmaxSizes& n) {
  return 16 * (n.g.E / std::max<int64_t>(1, n.g.S) + 1) * n.H;
}

template <class T>
void edge_softmax_cpu(const EdgeSoftmaxParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_softmax<T>(p, begin, end));
  });
}

template <class T>
void edge_softmax_backward_cpu(const EdgeSoftmaxParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n) / 4, [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_softmax_backward<T>(p, begin, end));
  });
}

// Where the rows are named by a list, some may be named by no slot: these are 0.
Tensor new_rows(
    const Tensor& like, const EdgeSoftmaxSizes& n, const std::optional<Tensor>& slot,
    const std::optional<Tensor>& edge) {
  const bool whole = !slot.has_value() && !edge.has_value() && n.rows == n.g.E;
  return whole ? torch::stable::new_empty(like, {n.rows, n.H}) : torch::stable::new_zeros(like, {n.rows, n.H});
}

}  // namespace

Tensor edge_softmax_cpu(
    const Tensor& u, const Tensor& v, double slope, bool over_features, int64_t rows, const Tensor& ptr,
    const std::optional<Tensor>& slot, const Tensor& other, const std::optional<Tensor>& edge,
    const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/,
    const std::optional<Tensor>& /*t_other*/) {
  const char* op = "edge_softmax";
  check_shape(op, "v", v, "[O, H]", {-1, -1});
  const EdgeSoftmaxSizes n = check_edge_softmax(op, u, u, v, v.size(0), rows, ptr, slot, other, edge);
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values(op, n.g, graph.pointers(), rows);
  const std::optional<Tensor> near = widened(dense(u)), far = widened(dense(v));
  Tensor out = new_rows(*near, n, slot, edge);
  dispatch_wide(out, [&](auto zero) {
    using T = decltype(zero);
    edge_softmax_cpu(
        EdgeSoftmaxParams<T>{
            n, graph.pointers(), const_data<T>(near), const_data<T>(far), nullptr, nullptr, static_cast<T>(slope),
            over_features, static_cast<T*>(out.mutable_data_ptr())});
  });
  return narrowed(out, u.scalar_type());
}

Tensor edge_softmax_backward_cpu(
    const Tensor& grad, const Tensor& p, const std::optional<Tensor>& u, const std::optional<Tensor>& v, double slope,
    bool over_features, int64_t others, const Tensor& ptr, const std::optional<Tensor>& slot, const Tensor& other,
    const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/,
    const std::optional<Tensor>& /*t_other*/) {
  const char* op = "edge_softmax_backward";
  check_shape(op, "p", p, "[E, H]", {-1, -1});
  const EdgeSoftmaxSizes n = check_edge_softmax(op, p, u, v, others, p.size(0), ptr, slot, other, edge);
  check_edge_rows(op, n, grad, p);
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values(op, n.g, graph.pointers(), n.rows);
  const std::optional<Tensor> near = widened(dense(u)), far = widened(dense(v)), shares = widened(dense(p)),
                              upstream = widened(dense(grad));
  Tensor out = new_rows(*shares, n, slot, edge);
  dispatch_wide(out, [&](auto zero) {
    using T = decltype(zero);
    edge_softmax_backward_cpu(
        EdgeSoftmaxParams<T>{
            n, graph.pointers(), const_data<T>(near), const_data<T>(far), const_data<T>(shares),
            const_data<T>(upstream), static_cast<T>(slope), over_features, static_cast<T*>(out.mutable_data_ptr())});
  });
  return narrowed(out, p.scalar_type());
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("edge_softmax", TORCH_BOX(&polygraph::edge_softmax_cpu));
  m.impl("edge_softmax_backward", TORCH_BOX(&polygraph::edge_softmax_backward_cpu));
}

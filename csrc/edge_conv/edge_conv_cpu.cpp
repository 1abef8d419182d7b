// CPU sums over edges: float32 and float64; half types are widened to float32 first.
#include <utility>

#include "common/simd.h"
#include "edge_conv/edge_conv.h"

namespace polygraph {
namespace {

template <class T>
struct EdgeConvCpuParams : EdgeConvParams<T> {
  T slope;
  bool fetch;  // the other nodes' rows, or those of edges in another order, do not fit in a cache that is near

  EdgeConvCpuParams(const EdgeConvParams<T>& given, double slope_, bool fetch_)
      : EdgeConvParams<T>(given), slope(static_cast<T>(slope_)), fetch(fetch_) {}
};

// What a sum adds up. The last two look at run time for what is there.
enum class Form {
  activation,      // m (u + v), with the masks as values
  others,          // far
  edges,           // per_edge
  masked_others,   // m far
  masked_segment,  // m near
  weighted,        // weight (near + far)
  masked,
  plain,
};

// What the masks do: nothing, for they are not there; multiply with the slope; or, with a slope of 0, leave out.
enum class Kink { none, leaky, relu };

template <class T>
Kink kink_of(const EdgeConvCpuParams<T>& p) {
  return p.near_mask == nullptr ? Kink::none : p.slope == T(0) ? Kink::relu : Kink::leaky;
}

constexpr int64_t kNearBytes = 1 << 20;

#define POLYGRAPH_KERNEL_FILE "edge_conv/edge_conv_kernel.inc"
#include "common/each_isa.inc"

// Contiguous and wide enough; these own what the parameters point to.
EdgeConvTensors ready(const EdgeConvTensors& given) {
  return given.each([](const std::optional<Tensor>& t) { return widened(dense(t)); });
}

template <class T>
EdgeConvCpuParams<T> params(
    const EdgeConvSizes& n, const GraphPointers& graph, const EdgeConvTensors& t, double slope, const Tensor& out) {
  const bool nodes = t.far.has_value() || t.far_mask.has_value();
  const bool scattered = t.per_edge.has_value() && (graph.slot != nullptr || graph.edge != nullptr);
  const int64_t rows = nodes ? n.g.O : scattered ? n.rows : 0;  // that may lie anywhere
  const bool fetch = rows * n.D * static_cast<int64_t>(sizeof(T)) > kNearBytes;
  return {EdgeConvParams<T>(n, graph, t, out), slope, fetch};
}

int64_t work_per_segment(const EdgeConvSizes& n) {
  return (n.g.E / std::max<int64_t>(1, n.g.S) + 1) * n.D;
}

template <class T>
void edge_sum_cpu(const EdgeConvCpuParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_sum<T>(p, begin, end));
  });
}

template <class T>
void edge_values_cpu(const EdgeConvCpuParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_values<T>(p, begin, end));
  });
}

template <class T>
void edge_dot_cpu(const EdgeConvCpuParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_dot<T>(p, begin, end));
  });
}

}  // namespace

Tensor edge_sum_cpu(
    const std::optional<Tensor>& near_mask, const std::optional<Tensor>& far_mask, const std::optional<Tensor>& near,
    const std::optional<Tensor>& far, const std::optional<Tensor>& per_edge, const std::optional<Tensor>& weight,
    double slope, int64_t others, int64_t rows, const std::vector<Tensor>& graph, int64_t tables) {
  const char* op = "edge_sum";
  const EdgeConvTensors given{
      .near_mask = near_mask, .far_mask = far_mask, .near = near, .far = far, .per_edge = per_edge, .weight = weight};
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeConvSizes n = check_edge_conv(op, given, others, rows, read);
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), rows);
  const EdgeConvTensors t = ready(given);
  const Tensor out = torch::stable::new_empty(t.any_value(), {n.g.S, n.D});
  dispatch_wide(out, [&](auto zero) { edge_sum_cpu(params<decltype(zero)>(n, held.pointers(), t, slope, out)); });
  return narrowed(out, given.any_value().scalar_type());
}

void edge_sum_in_place_cpu(Tensor u, const Tensor& v, double slope, const Tensor& ptr, const Tensor& other) {
  const char* op = "edge_sum_";
  check_shape(op, "v", v, "[O, D]", {-1, -1});
  const GraphTables graph{.ptr = ptr, .other = other};
  const EdgeConvTensors given{.near_mask = u, .far_mask = v, .near = u, .far = v};
  const int64_t slots = other.numel();
  const EdgeConvSizes n = check_edge_conv(op, given, v.size(0), slots, graph);
  POLYGRAPH_CHECK(!is_half(u.scalar_type()), op, ": u must be float32 or float64, got ", dtype_name(u.scalar_type()));
  POLYGRAPH_CHECK(u.is_contiguous(), op, ": u must be contiguous");
  POLYGRAPH_CHECK(
      u.numel() == 0 || u.const_data_ptr() != v.const_data_ptr(), op, ": u and v must be different tensors");
  const GraphTensors held(graph);
  check_graph_values(op, n.g, held.pointers(), slots);
  const Tensor rows = dense(v);
  const EdgeConvTensors t{.near_mask = u, .far_mask = rows, .near = u, .far = rows};
  dispatch_wide(u, [&](auto zero) { edge_sum_cpu(params<decltype(zero)>(n, held.pointers(), t, slope, u)); });
}

Tensor edge_values_cpu(
    const std::optional<Tensor>& near_mask, const std::optional<Tensor>& far_mask, const std::optional<Tensor>& near,
    const std::optional<Tensor>& far, const std::optional<Tensor>& per_edge, double slope, int64_t others, int64_t rows,
    const std::vector<Tensor>& graph, int64_t tables) {
  const char* op = "edge_values";
  const EdgeConvTensors given{
      .near_mask = near_mask, .far_mask = far_mask, .near = near, .far = far, .per_edge = per_edge};
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeConvSizes n = check_edge_conv(op, given, others, rows, read);
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), rows);
  const EdgeConvTensors t = ready(given);
  // Where the rows are named by a list, some may be named by no slot.
  const bool whole = !read.slot.has_value() && !read.edge.has_value() && rows == n.g.E;
  const Tensor out = whole ? torch::stable::new_empty(t.any_value(), {rows, n.D})
                           : torch::stable::new_zeros(t.any_value(), {rows, n.D});
  dispatch_wide(out, [&](auto zero) { edge_values_cpu(params<decltype(zero)>(n, held.pointers(), t, slope, out)); });
  return narrowed(out, given.any_value().scalar_type());
}

Tensor edge_dot_cpu(
    const Tensor& grad, const std::optional<Tensor>& far_grad, const std::optional<Tensor>& near_mask,
    const std::optional<Tensor>& far_mask, const std::optional<Tensor>& near, const std::optional<Tensor>& far,
    double slope, int64_t others, int64_t rows, const std::vector<Tensor>& graph, int64_t tables) {
  const char* op = "edge_dot";
  const EdgeConvTensors given{
      .near_mask = near_mask, .far_mask = far_mask, .near = near, .far = far, .grad = grad, .far_grad = far_grad};
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeConvSizes n = check_edge_conv(op, given, others, rows, read);
  check_edge_dot_grads(n, given);
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), rows);
  const EdgeConvTensors t = ready(given);
  const Tensor out = torch::stable::new_zeros(t.any_value(), {rows});
  dispatch_wide(out, [&](auto zero) { edge_dot_cpu(params<decltype(zero)>(n, held.pointers(), t, slope, out)); });
  return narrowed(out, grad.scalar_type());
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("edge_sum", TORCH_BOX(&polygraph::edge_sum_cpu));
  m.impl("edge_sum_", TORCH_BOX(&polygraph::edge_sum_in_place_cpu));
  m.impl("edge_values", TORCH_BOX(&polygraph::edge_values_cpu));
  m.impl("edge_dot", TORCH_BOX(&polygraph::edge_dot_cpu));
}

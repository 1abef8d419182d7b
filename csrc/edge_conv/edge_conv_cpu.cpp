// CPU sums over edges: float32 and float64; half types are widened to float32 first.
#include <utility>

#include "common/simd.h"
#include "edge_conv/edge_conv.h"

namespace polygraph {
namespace {

template <class T>
struct EdgeConvParams {
  EdgeConvSizes n;
  GraphPointers graph;
  const T* seg_mask;  // [S, D]; these are null where absent
  const T* oth_mask;  // [O, D]
  const T* seg_val;   // [S, D]
  const T* oth_val;   // [O, D]
  const T* edge_val;  // [E', D]
  const T* weight;    // [E']
  const T* grad;      // [S, D], edge_dot only
  const T* oth_grad;  // [O, D], edge_dot only
  T slope;
  T* out;
  bool fetch;  // the other nodes' rows, or those of edges in another order, do not fit in a cache that is near
};

// What a sum adds up. The last two look at run time for what is there.
enum class Form {
  activation,      // m (u + v), with the masks as values
  others,          // oth_val
  edges,           // edge_val
  masked_others,   // m oth_val
  masked_segment,  // m seg_val
  weighted,        // weight (seg_val + oth_val)
  masked,
  plain,
};

// What the masks do: nothing, for they are not there; multiply with the slope; or, with a slope of 0, leave out.
enum class Kink { none, leaky, relu };

template <class T>
Kink kink_of(const EdgeConvParams<T>& p) {
  return p.seg_mask == nullptr ? Kink::none : p.slope == T(0) ? Kink::relu : Kink::leaky;
}

constexpr int64_t kNearBytes = 1 << 20;

#define POLYGRAPH_KERNEL_FILE "edge_conv/edge_conv_kernel.inc"
#include "common/each_isa.inc"

// Contiguous and wide enough; these own what the parameters point to.
EdgeConvTensors ready(const EdgeConvTensors& t) {
  return {widened(dense(t.seg_mask)), widened(dense(t.oth_mask)), widened(dense(t.seg_val)),
          widened(dense(t.oth_val)),  widened(dense(t.edge_val)), widened(dense(t.weight))};
}

template <class T>
EdgeConvParams<T> params(
    const EdgeConvSizes& n, const GraphPointers& graph, const EdgeConvTensors& t, double slope, Tensor& out,
    const std::optional<Tensor>& grad = std::nullopt, const std::optional<Tensor>& oth_grad = std::nullopt) {
  const bool nodes = t.oth_val.has_value() || t.oth_mask.has_value();
  const bool scattered = t.edge_val.has_value() && (graph.slot != nullptr || graph.edge != nullptr);
  const int64_t rows = nodes ? n.g.O : scattered ? n.rows : 0;  // that may lie anywhere
  return {
      n,
      graph,
      const_data<T>(t.seg_mask),
      const_data<T>(t.oth_mask),
      const_data<T>(t.seg_val),
      const_data<T>(t.oth_val),
      const_data<T>(t.edge_val),
      const_data<T>(t.weight),
      const_data<T>(grad),
      const_data<T>(oth_grad),
      static_cast<T>(slope),
      static_cast<T*>(out.mutable_data_ptr()),
      rows * n.D * static_cast<int64_t>(sizeof(T)) > kNearBytes};
}

int64_t work_per_segment(const EdgeConvSizes& n) {
  return (n.g.E / std::max<int64_t>(1, n.g.S) + 1) * n.D;
}

const Tensor& any_value(const EdgeConvTensors& t) {
  return t.seg_val.has_value() ? *t.seg_val : t.oth_val.has_value() ? *t.oth_val : *t.edge_val;
}

template <class T>
void edge_sum_cpu(const EdgeConvParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_sum<T>(p, begin, end));
  });
}

template <class T>
void edge_values_cpu(const EdgeConvParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_values<T>(p, begin, end));
  });
}

template <class T>
void edge_dot_cpu(const EdgeConvParams<T>& p) {
  parallel_tasks(p.n.g.S, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    POLYGRAPH_SIMD_CALL(edge_dot<T>(p, begin, end));
  });
}

}  // namespace

Tensor edge_sum_cpu(
    const std::optional<Tensor>& seg_mask, const std::optional<Tensor>& oth_mask, const std::optional<Tensor>& seg_val,
    const std::optional<Tensor>& oth_val, const std::optional<Tensor>& edge_val, const std::optional<Tensor>& weight,
    double slope, int64_t others, int64_t rows, const Tensor& ptr, const std::optional<Tensor>& slot,
    const Tensor& other, const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_slot*/, const std::optional<Tensor>& /*t_other*/) {
  const EdgeConvTensors given{seg_mask, oth_mask, seg_val, oth_val, edge_val, weight};
  const EdgeConvSizes n = check_edge_conv("edge_sum", given, others, rows, ptr, slot, other, edge);
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values("edge_sum", n.g, graph.pointers(), rows);
  const EdgeConvTensors t = ready(given);
  Tensor out = torch::stable::new_empty(any_value(t), {n.g.S, n.D});
  if (out.scalar_type() == ScalarType::Double) {
    edge_sum_cpu(params<double>(n, graph.pointers(), t, slope, out));
  } else {
    edge_sum_cpu(params<float>(n, graph.pointers(), t, slope, out));
  }
  return narrowed(out, any_value(given).scalar_type());
}

void edge_sum_in_place_cpu(Tensor u, const Tensor& v, double slope, const Tensor& ptr, const Tensor& other) {
  const char* op = "edge_sum_";
  check_shape(op, "v", v, "[O, D]", {-1, -1});
  const EdgeConvTensors given{u, v, u, v, std::nullopt, std::nullopt};
  const int64_t slots = other.numel();
  const EdgeConvSizes n = check_edge_conv(op, given, v.size(0), slots, ptr, std::nullopt, other, std::nullopt);
  POLYGRAPH_CHECK(!is_half(u.scalar_type()), op, ": u must be float32 or float64, got ", dtype_name(u.scalar_type()));
  POLYGRAPH_CHECK(u.is_contiguous(), op, ": u must be contiguous");
  POLYGRAPH_CHECK(
      u.numel() == 0 || u.const_data_ptr() != v.const_data_ptr(), op, ": u and v must be different tensors");
  const GraphTensors graph(ptr, std::nullopt, other, std::nullopt);
  check_graph_values(op, n.g, graph.pointers(), slots);
  const Tensor rows = dense(v);
  const EdgeConvTensors t{u, rows, u, rows, std::nullopt, std::nullopt};
  if (u.scalar_type() == ScalarType::Double) {
    edge_sum_cpu(params<double>(n, graph.pointers(), t, slope, u));
  } else {
    edge_sum_cpu(params<float>(n, graph.pointers(), t, slope, u));
  }
}

Tensor edge_values_cpu(
    const std::optional<Tensor>& seg_mask, const std::optional<Tensor>& oth_mask, const std::optional<Tensor>& seg_val,
    const std::optional<Tensor>& oth_val, const std::optional<Tensor>& edge_val, double slope, int64_t others,
    int64_t rows, const Tensor& ptr, const std::optional<Tensor>& slot, const Tensor& other,
    const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/,
    const std::optional<Tensor>& /*t_other*/) {
  const EdgeConvTensors given{seg_mask, oth_mask, seg_val, oth_val, edge_val, std::nullopt};
  const EdgeConvSizes n = check_edge_conv("edge_values", given, others, rows, ptr, slot, other, edge);
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values("edge_values", n.g, graph.pointers(), rows);
  const EdgeConvTensors t = ready(given);
  // Where the rows are named by a list, some may be named by no slot.
  const bool whole = !slot.has_value() && !edge.has_value() && rows == n.g.E;
  Tensor out =
      whole ? torch::stable::new_empty(any_value(t), {rows, n.D}) : torch::stable::new_zeros(any_value(t), {rows, n.D});
  if (out.scalar_type() == ScalarType::Double) {
    edge_values_cpu(params<double>(n, graph.pointers(), t, slope, out));
  } else {
    edge_values_cpu(params<float>(n, graph.pointers(), t, slope, out));
  }
  return narrowed(out, any_value(given).scalar_type());
}

Tensor edge_dot_cpu(
    const Tensor& grad, const std::optional<Tensor>& oth_grad, const std::optional<Tensor>& seg_mask,
    const std::optional<Tensor>& oth_mask, const std::optional<Tensor>& seg_val, const std::optional<Tensor>& oth_val,
    double slope, int64_t others, int64_t rows, const Tensor& ptr, const std::optional<Tensor>& slot,
    const Tensor& other, const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_slot*/, const std::optional<Tensor>& /*t_other*/) {
  const EdgeConvTensors given{seg_mask, oth_mask, seg_val, oth_val, std::nullopt, std::nullopt};
  const EdgeConvSizes n = check_edge_conv("edge_dot", given, others, rows, ptr, slot, other, edge);
  check_edge_dot_grads(n, grad, oth_grad, any_value(given));
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values("edge_dot", n.g, graph.pointers(), rows);
  const EdgeConvTensors t = ready(given);
  const std::optional<Tensor> near = widened(dense(grad));
  const std::optional<Tensor> far = widened(dense(oth_grad));
  Tensor out = torch::stable::new_zeros(any_value(t), {rows});
  if (out.scalar_type() == ScalarType::Double) {
    edge_dot_cpu(params<double>(n, graph.pointers(), t, slope, out, near, far));
  } else {
    edge_dot_cpu(params<float>(n, graph.pointers(), t, slope, out, near, far));
  }
  return narrowed(out, grad.scalar_type());
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("edge_sum", TORCH_BOX(&polygraph::edge_sum_cpu));
  m.impl("edge_sum_", TORCH_BOX(&polygraph::edge_sum_in_place_cpu));
  m.impl("edge_values", TORCH_BOX(&polygraph::edge_values_cpu));
  m.impl("edge_dot", TORCH_BOX(&polygraph::edge_dot_cpu));
}

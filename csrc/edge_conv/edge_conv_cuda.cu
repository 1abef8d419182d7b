// CUDA sums over edges: launches, entry points and their registration.
#include "edge_conv/edge_conv_kernels.cuh"

namespace polygraph {
namespace {

template <class T>
bool takes_packs(const EdgeConvParams<T>& p) {
  bool aligned = p.n.D % kPackWidth<T> == 0;
  const T* const rows[] = {p.seg_mask, p.oth_mask, p.seg_val, p.oth_val, p.edge_val, p.grad, p.oth_grad};
  for (const T* pointer : rows) {
    aligned = aligned && is_aligned(pointer, 16);
  }
  return aligned;
}

template <class T>
Form form_of(const EdgeConvParams<T>& p) {
  const bool nodes = p.seg_mask != nullptr || p.seg_val != nullptr || p.oth_val != nullptr;
  if (p.edge_val != nullptr) {
    return nodes ? Form::any : Form::edges;
  }
  if (p.seg_mask == nullptr) {
    return Form::plain;
  }
  return p.seg_mask == p.seg_val && p.oth_mask == p.oth_val ? Form::activation : Form::masked;
}

// Calls fn with the form as a compile-time constant, which is one of kForms.
template <Form... kForms, class F>
void with_form(Form form, const F& fn) {
  (static_cast<void>(form == kForms ? fn(std::integral_constant<Form, kForms>()) : void()), ...);
}

template <class T>
void launch_edge_sum(EdgeConvParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  const bool packed = takes_packs(p);
  const int64_t packs = p.n.D / (packed ? kVec : 1);
  p.work = share_segments("edge_sum", p.n.g, p.graph.ptr, packs, memory);
  p.partial = memory.take<Acc<T>>(p.work.places * p.n.D);
  with_form<Form::plain, Form::edges, Form::activation, Form::masked, Form::any>(form_of(p), [&](auto form) {
    start_kernel(
        all_units(p.work, packs), scope, packed ? edge_sum_kernel<T, kVec, form()> : edge_sum_kernel<T, 1, form()>, p);
  });
  launch_join_sums<T>({p.work, p.partial, p.out, p.n.D}, scope);
}

template <class T>
void launch_edge_values(EdgeConvParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
  constexpr int kVec = kPackWidth<T>;
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  const bool packed = takes_packs(p);
  const int64_t packs = p.n.D / (packed ? kVec : 1);
  p.work = share_segments("edge_values", p.n.g, p.graph.ptr, packs, memory);
  const Form known = form_of(p) == Form::edges ? Form::any : form_of(p);
  with_form<Form::plain, Form::activation, Form::masked, Form::any>(known, [&](auto form) {
    start_kernel(
        all_units(p.work, packs), scope,
        packed ? edge_values_kernel<T, kVec, form()> : edge_values_kernel<T, 1, form()>, p);
  });
}

template <class T>
void launch_edge_dot(EdgeConvParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  const int64_t parts = std::min<int64_t>(ceil_div(p.n.D, kPackWidth<T>), kWarp);
  p.work = share_segments("edge_dot", p.n.g, p.graph.ptr, parts, memory);
  const bool packed = takes_packs(p);
  if (p.oth_grad == nullptr) {
    with_form<Form::plain, Form::activation, Form::masked>(form_of(p), [&](auto form) {
      start_kernel(
          all_units(p.work, parts), scope,
          packed ? edge_dot_kernel<T, true, form(), false> : edge_dot_kernel<T, false, form(), false>, p);
    });
    return;
  }
  const Form known = form_of(p) == Form::activation ? Form::masked : form_of(p);
  with_form<Form::plain, Form::masked>(known, [&](auto form) {
    start_kernel(
        all_units(p.work, parts), scope,
        packed ? edge_dot_kernel<T, true, form(), true> : edge_dot_kernel<T, false, form(), true>, p);
  });
}

EdgeConvTensors dense(const EdgeConvTensors& t) {
  return {polygraph::dense(t.seg_mask), polygraph::dense(t.oth_mask), polygraph::dense(t.seg_val),
          polygraph::dense(t.oth_val),  polygraph::dense(t.edge_val), polygraph::dense(t.weight)};
}

const Tensor& any_value(const EdgeConvTensors& t) {
  return t.seg_val.has_value() ? *t.seg_val : t.oth_val.has_value() ? *t.oth_val : *t.edge_val;
}

// Nodes whose rows are read, and rows of edges, are numbered by 32 bits; more nodes may there be if none has rows.
void check_numbers(const char* op, const EdgeConvSizes& n, const EdgeConvTensors& t, bool far = false) {
  const bool rows = far || t.oth_mask.has_value() || t.oth_val.has_value();
  check_row_numbers(op, rows ? n.g.O : 0, n.rows, n.D * any_value(t).element_size());
}

template <class T>
EdgeConvParams<T> params(
    const EdgeConvSizes& n, const GraphPointers& graph, const EdgeConvTensors& t, double slope, const Tensor& out,
    const std::optional<Tensor>& grad = std::nullopt, const std::optional<Tensor>& oth_grad = std::nullopt) {
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
      bend_at_zero<Acc<T>>(slope),
      mutable_data<T>(out),
      static_cast<uint32_t>(n.D * static_cast<int64_t>(sizeof(T))),
      {},
      nullptr};
}

}  // namespace

Tensor edge_sum_cuda(
    const std::optional<Tensor>& seg_mask, const std::optional<Tensor>& oth_mask, const std::optional<Tensor>& seg_val,
    const std::optional<Tensor>& oth_val, const std::optional<Tensor>& edge_val, const std::optional<Tensor>& weight,
    double slope, int64_t others, int64_t rows, const Tensor& ptr, const std::optional<Tensor>& slot,
    const Tensor& other, const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_slot*/, const std::optional<Tensor>& /*t_other*/) {
  const EdgeConvTensors given{seg_mask, oth_mask, seg_val, oth_val, edge_val, weight};
  const EdgeConvSizes n = check_edge_conv("edge_sum", given, others, rows, ptr, slot, other, edge);
  check_numbers("edge_sum", n, given);
  const DeviceScope scope(any_value(given));
  const GraphTensors graph(ptr, slot, other, edge);
  const EdgeConvTensors t = dense(given);
  const Tensor out = torch::stable::new_empty(any_value(t), {n.g.S, n.D});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_sum<T>(params<T>(n, graph.pointers(), t, slope, out), memory, scope);
  });
  return out;
}

Tensor edge_values_cuda(
    const std::optional<Tensor>& seg_mask, const std::optional<Tensor>& oth_mask, const std::optional<Tensor>& seg_val,
    const std::optional<Tensor>& oth_val, const std::optional<Tensor>& edge_val, double slope, int64_t others,
    int64_t rows, const Tensor& ptr, const std::optional<Tensor>& slot, const Tensor& other,
    const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/,
    const std::optional<Tensor>& /*t_other*/) {
  const EdgeConvTensors given{seg_mask, oth_mask, seg_val, oth_val, edge_val, std::nullopt};
  const EdgeConvSizes n = check_edge_conv("edge_values", given, others, rows, ptr, slot, other, edge);
  check_numbers("edge_values", n, given);
  const DeviceScope scope(any_value(given));
  const GraphTensors graph(ptr, slot, other, edge);
  const EdgeConvTensors t = dense(given);
  const Tensor out = torch::stable::new_zeros(any_value(t), {rows, n.D});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_values<T>(params<T>(n, graph.pointers(), t, slope, out), memory, scope);
  });
  return out;
}

Tensor edge_dot_cuda(
    const Tensor& grad, const std::optional<Tensor>& oth_grad, const std::optional<Tensor>& seg_mask,
    const std::optional<Tensor>& oth_mask, const std::optional<Tensor>& seg_val, const std::optional<Tensor>& oth_val,
    double slope, int64_t others, int64_t rows, const Tensor& ptr, const std::optional<Tensor>& slot,
    const Tensor& other, const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_slot*/, const std::optional<Tensor>& /*t_other*/) {
  const EdgeConvTensors given{seg_mask, oth_mask, seg_val, oth_val, std::nullopt, std::nullopt};
  const EdgeConvSizes n = check_edge_conv("edge_dot", given, others, rows, ptr, slot, other, edge);
  check_edge_dot_grads(n, grad, oth_grad, any_value(given));
  check_numbers("edge_dot", n, given, oth_grad.has_value());
  const DeviceScope scope(grad);
  const GraphTensors graph(ptr, slot, other, edge);
  const EdgeConvTensors t = dense(given);
  const std::optional<Tensor> near = polygraph::dense(grad);
  const std::optional<Tensor> far = polygraph::dense(oth_grad);
  const Tensor out = torch::stable::new_zeros(grad, {rows});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_dot<T>(params<T>(n, graph.pointers(), t, slope, out, near, far), memory, scope);
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("edge_sum", TORCH_BOX(&polygraph::edge_sum_cuda));
  m.impl("edge_values", TORCH_BOX(&polygraph::edge_values_cuda));
  m.impl("edge_dot", TORCH_BOX(&polygraph::edge_dot_cuda));
}

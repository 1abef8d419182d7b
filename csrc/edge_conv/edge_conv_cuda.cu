// CUDA sums over edges: launches, entry points and their registration.
#include "edge_conv/edge_conv_kernels.cuh"

namespace polygraph {
namespace {

template <class T>
bool takes_packs(const EdgeConvCudaParams<T>& p) {
  bool aligned = p.n.D % kPackWidth<T> == 0;
  const T* const rows[] = {p.near_mask, p.far_mask, p.near, p.far, p.per_edge, p.grad, p.far_grad};
  for (const T* pointer : rows) {
    aligned = aligned && is_aligned(pointer, 16);
  }
  return aligned;
}

template <class T>
Form form_of(const EdgeConvCudaParams<T>& p) {
  const bool nodes = p.near_mask != nullptr || p.near != nullptr || p.far != nullptr;
  if (p.per_edge != nullptr) {
    return nodes ? Form::any : Form::edges;
  }
  if (p.near_mask == nullptr) {
    return Form::plain;
  }
  return p.near_mask == p.near && p.far_mask == p.far ? Form::activation : Form::masked;
}

// Calls fn with the form as a compile-time constant, which is one of kForms.
template <Form... kForms, class F>
void with_form(Form form, const F& fn) {
  (static_cast<void>(form == kForms ? fn(std::integral_constant<Form, kForms>()) : void()), ...);
}

template <class T>
void launch_edge_sum(EdgeConvCudaParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
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
void launch_edge_values(EdgeConvCudaParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
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
void launch_edge_dot(EdgeConvCudaParams<T> p, SegmentMemory& memory, const DeviceScope& scope) {
  if (p.n.g.S * p.n.D == 0) {
    return;
  }
  const int64_t parts = std::min<int64_t>(ceil_div(p.n.D, kPackWidth<T>), kWarp);
  p.work = share_segments("edge_dot", p.n.g, p.graph.ptr, parts, memory);
  const bool packed = takes_packs(p);
  if (p.far_grad == nullptr) {
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

EdgeConvTensors ready(const EdgeConvTensors& given) {
  return given.each([](const std::optional<Tensor>& t) { return dense(t); });
}

// Nodes whose rows are read, and rows of edges, are numbered by 32 bits; more nodes may there be if none has rows.
void check_numbers(const char* op, const EdgeConvSizes& n, const EdgeConvTensors& t) {
  const bool rows = t.far_grad.has_value() || t.far_mask.has_value() || t.far.has_value();
  check_row_numbers(op, rows ? n.g.O : 0, n.rows, n.D * t.any_value().element_size());
}

}  // namespace

Tensor edge_sum_cuda(
    const std::optional<Tensor>& near_mask, const std::optional<Tensor>& far_mask, const std::optional<Tensor>& near,
    const std::optional<Tensor>& far, const std::optional<Tensor>& per_edge, const std::optional<Tensor>& weight,
    double slope, int64_t others, int64_t rows, const std::vector<Tensor>& graph, int64_t tables) {
  const char* op = "edge_sum";
  const EdgeConvTensors given{
      .near_mask = near_mask, .far_mask = far_mask, .near = near, .far = far, .per_edge = per_edge, .weight = weight};
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeConvSizes n = check_edge_conv(op, given, others, rows, read);
  check_numbers(op, n, given);
  const DeviceScope scope(given.any_value());
  const GraphTensors held(read);
  const EdgeConvTensors t = ready(given);
  const Tensor out = torch::stable::new_empty(t.any_value(), {n.g.S, n.D});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_sum<T>({EdgeConvParams<T>(n, held.pointers(), t, out), slope}, memory, scope);
  });
  return out;
}

Tensor edge_values_cuda(
    const std::optional<Tensor>& near_mask, const std::optional<Tensor>& far_mask, const std::optional<Tensor>& near,
    const std::optional<Tensor>& far, const std::optional<Tensor>& per_edge, double slope, int64_t others, int64_t rows,
    const std::vector<Tensor>& graph, int64_t tables) {
  const char* op = "edge_values";
  const EdgeConvTensors given{
      .near_mask = near_mask, .far_mask = far_mask, .near = near, .far = far, .per_edge = per_edge};
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeConvSizes n = check_edge_conv(op, given, others, rows, read);
  check_numbers(op, n, given);
  const DeviceScope scope(given.any_value());
  const GraphTensors held(read);
  const EdgeConvTensors t = ready(given);
  const Tensor out = torch::stable::new_zeros(t.any_value(), {rows, n.D});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_values<T>({EdgeConvParams<T>(n, held.pointers(), t, out), slope}, memory, scope);
  });
  return out;
}

Tensor edge_dot_cuda(
    const Tensor& grad, const std::optional<Tensor>& far_grad, const std::optional<Tensor>& near_mask,
    const std::optional<Tensor>& far_mask, const std::optional<Tensor>& near, const std::optional<Tensor>& far,
    double slope, int64_t others, int64_t rows, const std::vector<Tensor>& graph, int64_t tables) {
  const char* op = "edge_dot";
  const EdgeConvTensors given{
      .near_mask = near_mask, .far_mask = far_mask, .near = near, .far = far, .grad = grad, .far_grad = far_grad};
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeConvSizes n = check_edge_conv(op, given, others, rows, read);
  check_edge_dot_grads(n, given);
  check_numbers(op, n, given);
  const DeviceScope scope(given.any_value());
  const GraphTensors held(read);
  const EdgeConvTensors t = ready(given);
  const Tensor out = torch::stable::new_zeros(grad, {rows});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_dot<T>({EdgeConvParams<T>(n, held.pointers(), t, out), slope}, memory, scope);
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("edge_sum", TORCH_BOX(&polygraph::edge_sum_cuda));
  m.impl("edge_values", TORCH_BOX(&polygraph::edge_values_cuda));
  m.impl("edge_dot", TORCH_BOX(&polygraph::edge_dot_cuda));
}

// CPU largest neighbor: float32 and float64; half types are widened to float32 first.
#include "common/simd.h"
#include "edge_max/edge_max.h"

namespace polygraph {
namespace {

#define POLYGRAPH_KERNEL_FILE "edge_max/edge_max_kernel.inc"
#include "common/each_isa.inc"

// Channels of a task: a cache line of float32.
constexpr int64_t kChannels = 16;

template <class T>
void edge_max_cpu(const EdgeMaxParams<T>& p) {
  const int64_t work = (p.n.g.E / std::max<int64_t>(1, p.n.g.S) + 1) * p.n.D;
  parallel_tasks(p.n.g.S, work, [&](int64_t begin, int64_t end) { POLYGRAPH_SIMD_CALL(edge_max<T>(p, begin, end)); });
}

// Calls fn(c, end) on blocks of channels.
template <class F>
void for_channels(const EdgeMaxSizes& n, const F& fn) {
  const int64_t blocks = ceil_div(n.D, kChannels);
  parallel_tasks(blocks, n.g.S * kChannels, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      fn(block * kChannels, std::min(n.D, (block + 1) * kChannels));
    }
  });
}

// Adds to p.out, which is 0 before.
template <class T>
void scatter(const EdgeArgParams<T>& p) {
  const int64_t D = p.n.D;
  for_channels(p.n, [&](int64_t begin, int64_t end) {
    for (int64_t s = 0; s < p.n.g.S; ++s) {
      for (int64_t c = begin; c < end; ++c) {
        const int64_t slot = p.arg[s * D + c];
        if (slot >= 0) {
          p.out[p.other[slot] * D + c] += p.from[s * D + c];
        }
      }
    }
  });
}

template <class T>
void take(const EdgeArgParams<T>& p) {
  const int64_t D = p.n.D;
  parallel_tasks(p.n.g.S, D, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      for (int64_t c = 0; c < D; ++c) {
        const int64_t slot = p.arg[s * D + c];
        p.out[s * D + c] = slot < 0 ? T(0) : p.from[p.other[slot] * D + c];
      }
    }
  });
}

// arg [S, D] names slots that hold an edge to a node, or is -1.
void check_args(const char* op, const EdgeMaxSizes& n, const Tensor& arg, const Tensor& other) {
  const int32_t* args = const_data<int32_t>(arg);
  const int64_t* others = const_data<int64_t>(other);
  std::atomic<bool> valid{true};
  check_within(op, "other", others, n.g.E, -1, n.g.O);
  parallel_tasks(n.g.S * n.D, 2, [&](int64_t begin, int64_t end) {
    bool good = true;
    for (int64_t i = begin; i < end; ++i) {
      good &= args[i] == -1 || (args[i] >= 0 && args[i] < n.g.E && others[args[i]] >= 0);
    }
    if (!good) {
      valid = false;
    }
  });
  POLYGRAPH_CHECK(valid, op, ": arg must name slots that hold an edge");
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> edge_max_cpu(
    const Tensor& v, const std::optional<Tensor>& sign, bool with_sum, const Tensor& ptr, const Tensor& other,
    const std::optional<Tensor>& /*target*/, const std::optional<Tensor>& /*t_ptr*/,
    const std::optional<Tensor>& /*t_slot*/) {
  const EdgeMaxSizes n = check_edge_max(v, sign, ptr, other);
  const GraphTensors graph({.ptr = ptr, .other = other});
  check_graph_values("edge_max", n.g, graph.pointers(), n.g.E);
  const Tensor features = widened(dense(v));
  std::optional<Tensor> signs;
  if (sign.has_value()) {
    signs = widened(dense(*sign));
  }
  Tensor value = torch::stable::new_empty(features, {n.g.S, n.D});
  Tensor arg = torch::stable::new_empty(features, {n.g.S, n.D}, ScalarType::Int);
  Tensor sum = torch::stable::new_empty(features, {with_sum ? n.g.S : 0, n.D});
  dispatch_wide(features, [&](auto zero) {
    using T = decltype(zero);
    edge_max_cpu(
        EdgeMaxParams<T>{
            .n = n,
            .graph = graph.pointers(),
            .v = const_data<T>(features),
            .sign = const_data<T>(signs),
            .value = mutable_data<T>(value),
            .arg = mutable_data<int32_t>(arg),
            .sum = with_sum ? mutable_data<T>(sum) : nullptr});
  });
  return {narrowed(value, v.scalar_type()), arg, narrowed(sum, v.scalar_type())};
}

Tensor edge_max_backward_cpu(
    const Tensor& grad, const Tensor& arg, int64_t others, const Tensor& other, const std::optional<Tensor>& target,
    const std::optional<Tensor>& t_ptr, const std::optional<Tensor>& t_slot) {
  const EdgeMaxSizes n = check_edge_max_backward(grad, arg, others, other, target, t_ptr, t_slot);
  const Tensor args = dense(arg);
  const Tensor sources = dense(other);
  check_args("edge_max_backward", n, args, sources);
  const Tensor upstream = widened(dense(grad));
  Tensor out = torch::stable::new_zeros(upstream, {n.g.O, n.D});
  dispatch_wide(upstream, [&](auto zero) {
    using T = decltype(zero);
    scatter<T>(
        {.n = n,
         .from = const_data<T>(upstream),
         .arg = const_data<int32_t>(args),
         .other = const_data<int64_t>(sources),
         .out = mutable_data<T>(out)});
  });
  return narrowed(out, grad.scalar_type());
}

Tensor edge_take_cpu(
    const Tensor& v, const Tensor& arg, const Tensor& other, const std::optional<Tensor>& /*target*/,
    const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/) {
  const EdgeMaxSizes n = check_edge_take(v, arg, other);
  const Tensor args = dense(arg);
  const Tensor sources = dense(other);
  check_args("edge_take", n, args, sources);
  const Tensor features = widened(dense(v));
  Tensor out = torch::stable::new_empty(features, {n.g.S, n.D});
  dispatch_wide(features, [&](auto zero) {
    using T = decltype(zero);
    take<T>(
        {.n = n,
         .from = const_data<T>(features),
         .arg = const_data<int32_t>(args),
         .other = const_data<int64_t>(sources),
         .out = mutable_data<T>(out)});
  });
  return narrowed(out, v.scalar_type());
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("edge_max", TORCH_BOX(&polygraph::edge_max_cpu));
  m.impl("edge_max_backward", TORCH_BOX(&polygraph::edge_max_backward_cpu));
  m.impl("edge_take", TORCH_BOX(&polygraph::edge_take_cpu));
}

// CUDA softmax of edge scores: float32, float64, and half types that compute in float32.
#include "common/graph.cuh"
#include "edge_softmax/edge_softmax.h"

namespace polygraph {
namespace {

constexpr int kThreads = 256;
constexpr int kSlotLanes = 8;  // threads that share a segment's slots where columns are summed

template <class A>
constexpr A kNoScore = -std::numeric_limits<A>::infinity();

template <class T>
struct EdgeSoftmaxParams {
  EdgeSoftmaxSizes n;
  GraphPointers graph;
  const T* u;     // [S, H]; null in the derivative of linear scores
  const T* v;     // [O, H]
  const T* p;     // [E', H], backward only
  const T* grad;  // [E', H], likewise
  Acc<T> slope;
  T* out;  // [E', H], 0 before
};

template <class T>
__device__ __forceinline__ Acc<T> value(const T* row, int64_t h) {
  return static_cast<Acc<T>>(row[h]);
}

template <class T>
__device__ __forceinline__ Acc<T> score(const EdgeSoftmaxParams<T>& p, int64_t s, int64_t other, int64_t h) {
  const Acc<T> sum = value(p.u + s * p.n.H, h) + value(p.v + other * p.n.H, h);
  return sum > 0 ? sum : p.slope * sum;
}

template <class T>
__device__ __forceinline__ Acc<T> kink(const EdgeSoftmaxParams<T>& p, int64_t s, int64_t other, int64_t h) {
  if (p.u == nullptr) {
    return 1;
  }
  return value(p.u + s * p.n.H, h) + value(p.v + other * p.n.H, h) > 0 ? Acc<T>(1) : p.slope;
}

// The larger; NaN if either is.
template <class A>
__device__ __forceinline__ A larger(A a, A b) {
  return b <= a ? a : (a <= b ? b : a + b);
}

__device__ __forceinline__ float power(float x) {
  return expf(x);
}
__device__ __forceinline__ double power(double x) {
  return exp(x);
}

// A thread has one column of one segment, neighbouring threads neighbouring columns; the slots are passed three times,
// and what is read comes from the caches after the first. Safe: one writer a number.
template <class T>
__global__ void __launch_bounds__(kThreads) softmax_of_slots_kernel(EdgeSoftmaxParams<T> p) {
  for (int64_t item = first_item(); item < p.n.g.S * p.n.H; item += item_stride()) {
    const int64_t s = quotient(item, p.n.H);
    const int64_t h = item - s * p.n.H;
    const int64_t first = p.graph.ptr[s];
    const int64_t last = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("edge_softmax", first, last, p.n.g.E);
    Acc<T> most = kNoScore<Acc<T>>;
    for (int64_t position = first; position < last; ++position) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
      if (at.other >= 0) {
        most = larger(most, score(p, s, at.other, h));
      }
    }
    Acc<T> total = 0;
    for (int64_t position = first; position < last; ++position) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
      if (at.other >= 0) {
        total += power(score(p, s, at.other, h) - most);
      }
    }
    for (int64_t position = first; position < last; ++position) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
      if (at.other >= 0) {
        p.out[at.row * p.n.H + h] = static_cast<T>(power(score(p, s, at.other, h) - most) / total);
      }
    }
  }
}

// Calls fn(segment, slot) for the slots of this thread, of a segment every kSlotLanes-th, that hold an edge.
template <class T, class F>
__device__ __forceinline__ void each_slot(const EdgeSoftmaxParams<T>& p, const F& fn) {
  for (int64_t item = first_item(); item < p.n.g.S * kSlotLanes; item += item_stride()) {
    const int64_t s = item / kSlotLanes;
    const int64_t first = p.graph.ptr[s];
    const int64_t last = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("edge_softmax", first, last, p.n.g.E);
    for (int64_t position = first + item % kSlotLanes; position < last; position += kSlotLanes) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
      if (at.other >= 0) {
        fn(s, at);
      }
    }
  }
}

// A thread has whole slots. Safe: one writer a row.
template <class T>
__global__ void __launch_bounds__(kThreads) softmax_of_columns_kernel(EdgeSoftmaxParams<T> p) {
  each_slot(p, [&](int64_t s, const GraphSlot& at) {
    Acc<T> most = kNoScore<Acc<T>>;
    for (int64_t h = 0; h < p.n.H; ++h) {
      most = larger(most, score(p, s, at.other, h));
    }
    Acc<T> total = 0;
    for (int64_t h = 0; h < p.n.H; ++h) {
      total += power(score(p, s, at.other, h) - most);
    }
    for (int64_t h = 0; h < p.n.H; ++h) {
      p.out[at.row * p.n.H + h] = static_cast<T>(power(score(p, s, at.other, h) - most) / total);
    }
  });
}

// As softmax_of_slots_kernel.
template <class T>
__global__ void __launch_bounds__(kThreads) backward_of_slots_kernel(EdgeSoftmaxParams<T> p) {
  for (int64_t item = first_item(); item < p.n.g.S * p.n.H; item += item_stride()) {
    const int64_t s = quotient(item, p.n.H);
    const int64_t h = item - s * p.n.H;
    const int64_t first = p.graph.ptr[s];
    const int64_t last = p.graph.ptr[s + 1];
    POLYGRAPH_CHECK_SEGMENT("edge_softmax_backward", first, last, p.n.g.E);
    Acc<T> total = 0;
    for (int64_t position = first; position < last; ++position) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
      if (at.other >= 0) {
        total += value(p.p, at.row * p.n.H + h) * value(p.grad, at.row * p.n.H + h);
      }
    }
    for (int64_t position = first; position < last; ++position) {
      const GraphSlot at = read_slot(p.graph, p.n.g, p.n.rows, position);
      if (at.other >= 0) {
        const int64_t place = at.row * p.n.H + h;
        const Acc<T> moved = value(p.p, place) * (value(p.grad, place) - total);
        p.out[place] = static_cast<T>(kink(p, s, at.other, h) * moved);
      }
    }
  }
}

// As softmax_of_columns_kernel.
template <class T>
__global__ void __launch_bounds__(kThreads) backward_of_columns_kernel(EdgeSoftmaxParams<T> p) {
  each_slot(p, [&](int64_t s, const GraphSlot& at) {
    const int64_t row = at.row * p.n.H;
    Acc<T> total = 0;
    for (int64_t h = 0; h < p.n.H; ++h) {
      total += value(p.p, row + h) * value(p.grad, row + h);
    }
    for (int64_t h = 0; h < p.n.H; ++h) {
      const Acc<T> moved = value(p.p, row + h) * (value(p.grad, row + h) - total);
      p.out[row + h] = static_cast<T>(kink(p, s, at.other, h) * moved);
    }
  });
}

template <class T, class Kernel>
void launch(
    const EdgeSoftmaxParams<T>& p, bool over_features, const DeviceScope& scope, Kernel of_slots, Kernel of_columns) {
  if (p.n.g.S * p.n.H == 0) {
    return;
  }
  const int64_t items = p.n.g.S * (over_features ? kSlotLanes : p.n.H);
  start_kernel({strided_blocks(items, kThreads), 1, kThreads, 0}, scope, over_features ? of_columns : of_slots, p);
}

}  // namespace

Tensor edge_softmax_cuda(
    const Tensor& u, const Tensor& v, double slope, bool over_features, int64_t rows, const Tensor& ptr,
    const std::optional<Tensor>& slot, const Tensor& other, const std::optional<Tensor>& edge,
    const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/,
    const std::optional<Tensor>& /*t_other*/) {
  const char* op = "edge_softmax";
  check_shape(op, "v", v, "[O, H]", {-1, -1});
  const EdgeSoftmaxSizes n = check_edge_softmax(op, u, u, v, v.size(0), rows, ptr, slot, other, edge);
  const DeviceScope scope(u);
  const GraphTensors graph(ptr, slot, other, edge);
  const Tensor near = dense(u), far = dense(v);
  const Tensor out = torch::stable::new_zeros(u, {rows, n.H});
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const EdgeSoftmaxParams<T> p{n,       graph.pointers(), const_data<T>(near),        const_data<T>(far),
                                 nullptr, nullptr,          static_cast<Acc<T>>(slope), mutable_data<T>(out)};
    launch(p, over_features, scope, softmax_of_slots_kernel<T>, softmax_of_columns_kernel<T>);
  });
  return out;
}

Tensor edge_softmax_backward_cuda(
    const Tensor& grad, const Tensor& p, const std::optional<Tensor>& u, const std::optional<Tensor>& v, double slope,
    bool over_features, int64_t others, const Tensor& ptr, const std::optional<Tensor>& slot, const Tensor& other,
    const std::optional<Tensor>& edge, const std::optional<Tensor>& /*t_ptr*/, const std::optional<Tensor>& /*t_slot*/,
    const std::optional<Tensor>& /*t_other*/) {
  const char* op = "edge_softmax_backward";
  check_shape(op, "p", p, "[E, H]", {-1, -1});
  const EdgeSoftmaxSizes n = check_edge_softmax(op, p, u, v, others, p.size(0), ptr, slot, other, edge);
  check_edge_rows(op, n, grad, p);
  const DeviceScope scope(p);
  const GraphTensors graph(ptr, slot, other, edge);
  const std::optional<Tensor> near = dense(u), far = dense(v);
  const Tensor shares = dense(p), upstream = dense(grad);
  const Tensor out = torch::stable::new_zeros(p, {n.rows, n.H});
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const EdgeSoftmaxParams<T> params{
        n,
        graph.pointers(),
        const_data<T>(near),
        const_data<T>(far),
        const_data<T>(shares),
        const_data<T>(upstream),
        static_cast<Acc<T>>(slope),
        mutable_data<T>(out)};
    launch(params, over_features, scope, backward_of_slots_kernel<T>, backward_of_columns_kernel<T>);
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("edge_softmax", TORCH_BOX(&polygraph::edge_softmax_cuda));
  m.impl("edge_softmax_backward", TORCH_BOX(&polygraph::edge_softmax_backward_cuda));
}

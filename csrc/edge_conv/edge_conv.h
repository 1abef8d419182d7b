// Sums over the edges of a graph whose values are near_s + far_o under an activation, and all their derivatives.
//
// A slot joins the segment s, the near node, and the other node o, the far one, and has the row e of edge features
// (common/graph.h).
//
//   edge_sum     out[s]  = sum over the slots of s of  weight[e] * m * (near[s] + far[o] + per_edge[e])      [S, D]
//   edge_values  out[e]  = m * (near[s] + far[o] + per_edge[e]);  rows of empty slots are 0                  [E', D]
//   edge_dot     out[e]  = sum over channels of  (grad[s] + far_grad[o]) * m * (near[s] + far[o])            [E']
//   edge_sum_    u[s]    = sum over the slots of s of  m * (u[s] + v[o]),  the masks being u and v: edge_sum in place
//   of
//                          its segments' values, for inference, where nobody asks for them again; on the CPU alone
//
//   m = slope where near_mask[s] + far_mask[o] <= 0, else 1 (channel by channel); without masks, m = 1. With a slope of
//   0 the product with m is 0, even if the other factor is not finite.
//
// With near = near_mask = u and far = far_mask = v, m (u + v) is the activation max(a, slope a) of a = u + v: none
// (slope 1), ReLU (0), leaky ReLU. Almost everywhere m is constant, and the three are partial derivatives of one form,
// linear in grad, in weight and in the values: their derivatives of every order are these three again, over the graph
// or its transpose.
//
// near_mask, near and grad [S, D], far_mask, far and far_grad [O, D], per_edge [E', D], weight [E']. All but grad may
// be absent: the masks come both or not at all, at least one value must be there, and weight does not come with
// per_edge. The sums of a segment and another node are formed before anything is multiplied: with opposite signs they
// are exact differences of values that lie close together, however far from 0 they are.
#pragma once

#include "common/graph.h"

namespace polygraph {

struct EdgeConvSizes {
  GraphSizes g;
  int64_t D;     // channels
  int64_t rows;  // of edge features, E'
};

struct EdgeConvTensors {
  std::optional<Tensor> near_mask = std::nullopt, far_mask = std::nullopt;
  std::optional<Tensor> near = std::nullopt, far = std::nullopt, per_edge = std::nullopt, weight = std::nullopt;
  std::optional<Tensor> grad = std::nullopt, far_grad = std::nullopt;  // edge_dot only

  const Tensor& any_value() const {
    return near.has_value() ? *near : far.has_value() ? *far : *per_edge;
  }

  // Each of them made ready for a kernel.
  template <class F>
  EdgeConvTensors each(const F& ready) const {
    return {
        .near_mask = ready(near_mask),
        .far_mask = ready(far_mask),
        .near = ready(near),
        .far = ready(far),
        .per_edge = ready(per_edge),
        .weight = ready(weight),
        .grad = ready(grad),
        .far_grad = ready(far_grad)};
  }
};

// What kernels of both devices read; null where absent.
template <class T>
struct EdgeConvParams {
  EdgeConvSizes n;
  GraphPointers graph;
  const T* near_mask = nullptr;  // [S, D]
  const T* far_mask = nullptr;   // [O, D]
  const T* near = nullptr;       // [S, D]
  const T* far = nullptr;        // [O, D]
  const T* per_edge = nullptr;   // [E', D]
  const T* weight = nullptr;     // [E']
  const T* grad = nullptr;       // [S, D], edge_dot only
  const T* far_grad = nullptr;   // [O, D], edge_dot only
  T* out = nullptr;

  EdgeConvParams(const EdgeConvSizes& sizes, const GraphPointers& pointers, const EdgeConvTensors& t, const Tensor& to)
      : n(sizes),
        graph(pointers),
        near_mask(const_data<T>(t.near_mask)),
        far_mask(const_data<T>(t.far_mask)),
        near(const_data<T>(t.near)),
        far(const_data<T>(t.far)),
        per_edge(const_data<T>(t.per_edge)),
        weight(const_data<T>(t.weight)),
        grad(const_data<T>(t.grad)),
        far_grad(const_data<T>(t.far_grad)),
        out(mutable_data<T>(to)) {}
};

inline EdgeConvSizes check_edge_conv(
    const char* op, const EdgeConvTensors& t, int64_t others, int64_t rows, const GraphTables& graph) {
  const std::optional<Tensor>& first = t.near.has_value() ? t.near : t.far.has_value() ? t.far : t.per_edge;
  POLYGRAPH_CHECK(first.has_value(), op, ": one of near, far and per_edge is needed");
  POLYGRAPH_CHECK(t.near_mask.has_value() == t.far_mask.has_value(), op, ": near_mask and far_mask come together");
  POLYGRAPH_CHECK(!t.weight.has_value() || !t.per_edge.has_value(), op, ": weight and per_edge exclude each other");
  check_count(op, "others", others);
  check_count(op, "rows", rows);
  const Tensor& like = *first;
  check_floating(op, "values", like);
  POLYGRAPH_CHECK(like.dim() == 2, op, ": values must have shape [*, D], got ", shape_string(like));
  const EdgeConvSizes n{.g = check_graph(op, like, others, graph), .D = like.size(1), .rows = rows};
  POLYGRAPH_CHECK(
      graph.edge.has_value() || rows == n.g.E, op, ": there are ", n.g.E, " slots and ", rows, " rows of edges");
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor, const char* meaning, int64_t count) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, like.scalar_type());
      check_shape(op, name, *tensor, meaning, {count, n.D});
      check_device(op, name, *tensor, like);
    }
  };
  check("near_mask", t.near_mask, "[S, D]", n.g.S);
  check("far_mask", t.far_mask, "[O, D]", n.g.O);
  check("near", t.near, "[S, D]", n.g.S);
  check("far", t.far, "[O, D]", n.g.O);
  check("per_edge", t.per_edge, "[E, D]", n.rows);
  if (t.weight.has_value()) {
    check_dtype(op, "weight", *t.weight, like.scalar_type());
    check_shape(op, "weight", *t.weight, "[E]", {n.rows});
    check_device(op, "weight", *t.weight, like);
  }
  return n;
}

inline void check_edge_dot_grads(const EdgeConvSizes& n, const EdgeConvTensors& t) {
  const char* op = "edge_dot";
  const Tensor& like = t.any_value();
  check_dtype(op, "grad", *t.grad, like.scalar_type());
  check_shape(op, "grad", *t.grad, "[S, D]", {n.g.S, n.D});
  check_device(op, "grad", *t.grad, like);
  if (t.far_grad.has_value()) {
    check_dtype(op, "far_grad", *t.far_grad, like.scalar_type());
    check_shape(op, "far_grad", *t.far_grad, "[O, D]", {n.g.O, n.D});
    check_device(op, "far_grad", *t.far_grad, like);
  }
}

}  // namespace polygraph

// Softmax of edge scores that are made of nodes, and its derivative.
//
// A slot joins the segment s and the other node o and has the row e of edge features (common/graph.h). Its scores are
//   t[e, h] = act(u[s, h] + v[o, h]),   act(a) = slope a where a <= 0 (0 with a slope of 0), else a.
//
//   edge_softmax            p[e, h] = exp(t[e, h]) / sum of exp(t[k, h])   over the slots k of s
//                                     or / sum over g of exp(t[e, g])     if over_features
//   edge_softmax_backward   inner[e, h] = m p[e, h] (grad[e, h] - sum of p grad over the same),
//                                     m = slope where u[s, h] + v[o, h] <= 0, else 1; without u and v, m = 1
//
// u [S, H], v [O, H], p and grad and inner [E', H]. Rows of empty slots are 0. The largest score is taken off before
// exp. Each sum has a fixed order, so results repeat bit for bit.
#pragma once

#include "common/graph.h"

namespace polygraph {

struct EdgeSoftmaxSizes {
  GraphSizes g;
  int64_t H;     // columns
  int64_t rows;  // of edge features, E'
};

// What kernels of both devices read.
template <class T>
struct EdgeSoftmaxParams {
  EdgeSoftmaxSizes n;
  GraphPointers graph;
  const T* u = nullptr;     // [S, H]; null in the derivative of linear scores
  const T* v = nullptr;     // [O, H]
  const T* p = nullptr;     // [E', H], backward only
  const T* grad = nullptr;  // [E', H], backward only
  T* out = nullptr;         // [E', H]; 0 before in rows that no slot names
};

inline EdgeSoftmaxSizes check_edge_softmax(
    const char* op, const Tensor& like, const std::optional<Tensor>& u, const std::optional<Tensor>& v, int64_t others,
    int64_t rows, const GraphTables& graph) {
  check_floating(op, "scores", like);
  POLYGRAPH_CHECK(like.dim() == 2, op, ": scores must have shape [*, H], got ", shape_string(like));
  check_count(op, "others", others);
  check_count(op, "rows", rows);
  POLYGRAPH_CHECK(u.has_value() == v.has_value(), op, ": u and v come together");
  const EdgeSoftmaxSizes n{.g = check_graph(op, like, others, graph), .H = like.size(1), .rows = rows};
  POLYGRAPH_CHECK(
      graph.edge.has_value() || rows == n.g.E, op, ": there are ", n.g.E, " slots and ", rows, " rows of edges");
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor, const char* meaning, int64_t count) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, like.scalar_type());
      check_shape(op, name, *tensor, meaning, {count, n.H});
      check_device(op, name, *tensor, like);
    }
  };
  check("u", u, "[S, H]", n.g.S);
  check("v", v, "[O, H]", n.g.O);
  return n;
}

inline void check_edge_rows(const char* op, const EdgeSoftmaxSizes& n, const Tensor& grad, const Tensor& p) {
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"grad", grad}, {"p", p}}) {
    check_dtype(op, name, tensor, p.scalar_type());
    check_shape(op, name, tensor, "[E, H]", {n.rows, n.H});
    check_device(op, name, tensor, p);
  }
}

}  // namespace polygraph

// The edge-wise halves of edge-conditioned convolutions: what is left of them when every product with a weight matrix
// is taken per node. light_ecc and the ways of ecc by targets and by sources are made of the two operators
// (polygraph/ops/_light_ecc_form.py, polygraph/ops/ecc/choice.py); ecc_tile and ecc_lane are the ways without them.
//
//   edge_outer_    out[s - first] = sum over the slots of s of  phi'[e] (x) x[r]              [last - first, H', C]
//   edge_inner_    a[e, h] = sum_c G[s - first, h, c] x[r, c]                                 [E', H']
//                  y[e, c] = (y[e, c] if add) + sum_h phi'[e, h] G[s - first, h, c]           [E', C]
//
// for the segments first <= s < last, of which there are as many as matrices in out and in G [last - first, H', C]. A
// slot has the row e of edge features, and r = e if x_per_edge, else the other node o.
//
// phi and x come as lists of tensors. One tensor is the rows as they are: phi [E', H], x [O, C] or [E', C]. Two are the
// near part [S, *] and the far part [O, *], whose sum near[s] + far[o] is activated on the fly, act(p) = p <= 0 ?
// slope p : p (0 with a slope of 0). None: y needs no x, a no phi. phi' is phi, with a column of ones after it where H'
// = H + 1.
//
// Results go to tensors that are given, so that the caller takes the segments, and the columns of phi, a chunk at a
// time, and no matrix exists for all nodes; of a and y only the rows of the slots that are visited are written. a may
// be a part of the columns of a larger tensor. Each row belongs to one slot, and each sum has a fixed order, so results
// repeat bit for bit.
#pragma once

#include "common/graph.h"

namespace polygraph {

struct EdgeProductSizes {
  GraphSizes g;
  int64_t rows;         // of edge features, E'
  int64_t H, C;         // columns of phi, channels of x
  int64_t ones;         // 0 or 1
  int64_t first, last;  // segments
  bool x_per_edge;

  int64_t hidden() const {
    return H + ones;
  }
};

// The rows of phi and of x, as they are or of two parts.
struct EdgeProductTensors {
  std::optional<Tensor> phi = std::nullopt;     // [E', H]
  std::optional<Tensor> near = std::nullopt;    // [S, H]
  std::optional<Tensor> far = std::nullopt;     // [O, H]
  std::optional<Tensor> x = std::nullopt;       // [O, C] or [E', C]
  std::optional<Tensor> near_x = std::nullopt;  // [S, C], of two parts

  bool has_phi() const {
    return phi.has_value() || near.has_value();
  }
};

// What the kernels of both devices read; A is the type that T is computed in.
template <class T, class A = T>
struct EdgeProductParams {
  EdgeProductSizes n;
  GraphPointers graph;
  const T* phi = nullptr;   // [E', H], null: from the nodes
  const T* near = nullptr;  // [S, H]
  const T* far = nullptr;   // [O, H]
  A slope = A(1);
  const T* x = nullptr;       // [O, C] or [E', C]
  const T* near_x = nullptr;  // [S, C], null: x is as it is
  const T* G = nullptr;       // [last - first, H', C], edge_inner_ only
  T* out = nullptr;           // [last - first, H', C], edge_outer_ only
  T* a = nullptr;             // [E', H'], null: not wanted
  T* y = nullptr;             // [E', C], null: not wanted
  int64_t a_step = 0;         // from row to row of a
  bool G_padded = false;      // two vectors can be read past the end of G
  bool add = false;           // to y
};

// Contiguous tensors, for as long as a kernel runs.
inline EdgeProductTensors ready(const EdgeProductTensors& t) {
  return {.phi = dense(t.phi), .near = dense(t.near), .far = dense(t.far), .x = dense(t.x), .near_x = dense(t.near_x)};
}

template <class T, class A = T>
EdgeProductParams<T, A> edge_product_params(
    const EdgeProductSizes& n, const GraphPointers& graph, const EdgeProductTensors& t, double slope) {
  return {
      .n = n,
      .graph = graph,
      .phi = const_data<T>(t.phi),
      .near = const_data<T>(t.near),
      .far = const_data<T>(t.far),
      .slope = static_cast<A>(slope),
      .x = const_data<T>(t.x),
      .near_x = const_data<T>(t.near_x)};
}

// A list of phi: one tensor, or near and far.
inline void read_phi(const char* op, const std::vector<Tensor>& list, EdgeProductTensors& t) {
  POLYGRAPH_CHECK(list.size() <= 2, op, ": phi is one tensor, or near and far, got ", list.size(), " tensors");
  if (list.size() == 1) {
    t.phi = list[0];
  } else if (list.size() == 2) {
    t.near = list[0];
    t.far = list[1];
  }
}

inline EdgeProductTensors read_lists(
    const char* op, const std::vector<Tensor>& phi, const std::vector<Tensor>& x, bool x_per_edge) {
  EdgeProductTensors t;
  read_phi(op, phi, t);
  POLYGRAPH_CHECK(x.size() <= 2, op, ": x is one tensor, or near and far, got ", x.size(), " tensors");
  POLYGRAPH_CHECK(x.size() < 2 || !x_per_edge, op, ": near and far of x are of nodes, not of edges");
  if (!x.empty()) {
    t.x = x.back();
  }
  if (x.size() == 2) {
    t.near_x = x[0];
  }
  return t;
}

// `like` is a tensor of the wanted dtype and device, C its channels, hidden H'; `rows` those of edge features, or -1:
// no tensor has them, so that any row may be named.
inline EdgeProductSizes check_edge_product(
    const char* op, const Tensor& like, int64_t C, const EdgeProductTensors& t, bool x_per_edge, int64_t hidden,
    int64_t others, int64_t rows, int64_t first, int64_t count, const GraphTables& graph) {
  check_floating(op, "x", like);
  check_count(op, "others", others);
  check_width(op, "hidden features", hidden);
  check_width(op, "channels of x", C);
  const std::optional<Tensor>& made = t.phi.has_value() ? t.phi : t.far;
  POLYGRAPH_CHECK(
      !made.has_value() || made->dim() == 2, op, ": phi must have 2 dimensions, got ",
      made.has_value() ? made->dim() : 0);
  const int64_t H = made.has_value() ? made->size(1) : hidden;
  POLYGRAPH_CHECK(
      hidden == H || hidden == H + 1, op, ": of H' = ", hidden, " hidden features phi must have H' or H' - 1, got ", H);
  const GraphSizes g = check_graph(op, like, others, graph);
  constexpr int64_t kAny = int64_t(1) << 62;
  const int64_t all_rows = rows >= 0 ? rows : graph.edge.has_value() ? kAny : g.E;
  POLYGRAPH_CHECK(
      graph.edge.has_value() || all_rows == g.E, op, ": there are ", g.E, " slots and ", all_rows, " rows of edges");
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor, const char* meaning, int64_t size,
                         int64_t columns) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, like.scalar_type());
      check_shape(op, name, *tensor, meaning, {size, columns});
      check_device(op, name, *tensor, like);
    }
  };
  check("x", t.x, x_per_edge ? "[E, C]" : "[N, C]", x_per_edge ? all_rows : others, C);
  check("near of x", t.near_x, "[S, C]", g.S, C);
  check("phi", t.phi, "[E, H]", all_rows, H);
  check("near", t.near, "[S, H]", g.S, H);
  check("far", t.far, "[O, H]", others, H);
  POLYGRAPH_CHECK(
      0 <= first && first + count <= g.S, op, ": segments ", first, " to ", first + count, " of ", g.S,
      " do not exist");
  return {
      .g = g,
      .rows = all_rows,
      .H = H,
      .C = C,
      .ones = hidden - H,
      .first = first,
      .last = first + count,
      .x_per_edge = x_per_edge};
}

inline EdgeProductSizes check_edge_outer(
    const EdgeProductTensors& t, bool x_per_edge, int64_t others, int64_t first, const GraphTables& graph,
    const Tensor& out) {
  const char* op = "edge_outer_";
  POLYGRAPH_CHECK(t.x.has_value(), op, ": x is needed");
  const Tensor& x = *t.x;
  check_shape(op, "x", x, "[N, C]", {-1, -1});
  check_shape(op, "out", out, "[last - first, H', C]", {-1, -1, x.size(1)});
  POLYGRAPH_CHECK(t.has_phi() || out.size(1) == 0, op, ": phi is needed");
  const int64_t rows = t.phi.has_value() && t.phi->dim() > 0 ? t.phi->size(0) : x_per_edge ? x.size(0) : -1;
  const EdgeProductSizes n =
      check_edge_product(op, x, x.size(1), t, x_per_edge, out.size(1), others, rows, first, out.size(0), graph);
  check_dtype(op, "out", out, x.scalar_type());
  check_device(op, "out", out, x);
  POLYGRAPH_CHECK(out.is_contiguous(), op, ": out must be contiguous");
  return n;
}

inline EdgeProductSizes check_edge_inner(
    const Tensor& G, const EdgeProductTensors& t, bool x_per_edge, int64_t others, int64_t first,
    const GraphTables& graph, const std::optional<Tensor>& a, const std::optional<Tensor>& y) {
  const char* op = "edge_inner_";
  check_shape(op, "G", G, "[last - first, H', C]", {-1, -1, -1});
  POLYGRAPH_CHECK(!a.has_value() || t.x.has_value(), op, ": a needs x");
  POLYGRAPH_CHECK(!y.has_value() || t.has_phi(), op, ": y needs phi");
  const std::optional<Tensor>& result = y.has_value() ? y : a;
  const int64_t rows = result.has_value() && result->dim() > 0 ? result->size(0) : -1;
  const EdgeProductSizes n =
      check_edge_product(op, G, G.size(2), t, x_per_edge, G.size(1), others, rows, first, G.size(0), graph);
  const auto check = [&](const char* name, const std::optional<Tensor>& out, const char* meaning, int64_t columns) {
    if (out.has_value()) {
      check_dtype(op, name, *out, G.scalar_type());
      check_shape(op, name, *out, meaning, {rows, columns});
      check_device(op, name, *out, G);
    }
  };
  check("a", a, "[E, H']", n.hidden());
  check("y", y, "[E, C]", n.C);
  POLYGRAPH_CHECK(!a.has_value() || n.hidden() < 2 || a->stride(1) == 1, op, ": rows of a must be contiguous");
  POLYGRAPH_CHECK(!y.has_value() || y->is_contiguous(), op, ": y must be contiguous");
  return n;
}

}  // namespace polygraph

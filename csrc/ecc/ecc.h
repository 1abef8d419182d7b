// The edge-wise halves of edge-conditioned convolutions: what is left of them when every product with a weight matrix
// is taken per node.
//
//   edge_outer_    Z[s - first] = sum over the slots of s of  phi'[e] (x) x[r]              [H', C]
//   edge_inner_    a[e, h] = sum_c G[s - first, h, c] x[r, c]
//                  y[e, c] = (y[e, c] if add) + sum_h phi'[e, h] G[s - first, h, c]
//
// for the segments first <= s < last. A slot has the row e of edge features, and r = e if x_per_edge, else the other
// node. phi' is phi [E', H] with a column of ones behind it if `ones`: H' = H + ones. Without phi it is made on the fly
// from nodes, act(p) = p <= 0 ? slope p : p (0 with a slope of 0) of p = seg_phi[s] + oth_phi[o]; so is a row of x,
// from seg_x[s] + x[o], if seg_x is given. a [E', H'] (a part of the columns of a larger one, too), y [E', C]. Results
// go to tensors that are given, so that the caller takes the segments, and the columns of phi, a chunk at a time, and Z
// and G never exist whole; of a and y only the rows of the slots that are visited are written. y needs no x, a no phi.
// Each row belongs to one slot, and each sum has a fixed order, so results repeat bit for bit.
//
// On the CPU, where the matrices of a node are small, both halves take turns for a tile of segments, W [H', C, D]
// having any strides:
//
//   tile_ecc_           out[s] = sum over h, c of Z[s, h, c] W[h, c]                          [S, D]
//   tile_ecc_backward_  a and y as above of G[s, h, c] = <W[h, c], grad[s]>, a being 0 where a slot is empty;
//                       to[h, c] = sum over s of Z[s, h, c] grad[s]                           [H', C, D]
#pragma once

#include "common/graph.h"

namespace polygraph {

struct EccSizes {
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

struct EccPhi {
  std::optional<Tensor> phi, seg_phi, oth_phi;
};

// `like` is a tensor of the wanted dtype and device, C its channels.
inline EccSizes check_ecc(
    const char* op, const Tensor& like, int64_t C, const EccPhi& phi, const std::optional<Tensor>& x,
    const std::optional<Tensor>& seg_x, bool x_per_edge, bool ones, int64_t hidden, int64_t others, int64_t rows,
    int64_t first, int64_t last, const Tensor& ptr, const std::optional<Tensor>& slot, const Tensor& other,
    const std::optional<Tensor>& edge) {
  check_floating(op, "x", like);
  check_count(op, "others", others);
  check_count(op, "rows", rows);
  const int64_t H = hidden - (ones ? 1 : 0);
  POLYGRAPH_CHECK(H >= 0, op, ": hidden must be at least ", ones ? 1 : 0, ", got ", hidden);
  check_width(op, "hidden features", hidden);
  check_width(op, "channels of x", C);
  const EccSizes n{
      check_graph(op, like, others, ptr, slot, other, edge), rows, H, C, ones ? 1 : 0, first, last, x_per_edge};
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor, const char* meaning, int64_t count,
                         int64_t columns) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, like.scalar_type());
      check_shape(op, name, *tensor, meaning, {count, columns});
      check_device(op, name, *tensor, like);
    }
  };
  POLYGRAPH_CHECK(
      phi.seg_phi.has_value() == phi.oth_phi.has_value() && !(phi.phi.has_value() && phi.seg_phi.has_value()), op,
      ": either phi is given, or seg_phi and oth_phi");
  check("x", x, x_per_edge ? "[E, C]" : "[N, C]", x_per_edge ? rows : others, C);
  check("seg_x", seg_x, "[S, C]", n.g.S, C);
  POLYGRAPH_CHECK(!seg_x.has_value() || (x.has_value() && !x_per_edge), op, ": seg_x needs x of nodes");
  check("phi", phi.phi, "[E, H]", rows, H);
  check("seg_phi", phi.seg_phi, "[S, H]", n.g.S, H);
  check("oth_phi", phi.oth_phi, "[O, H]", others, H);
  POLYGRAPH_CHECK(edge.has_value() || rows == n.g.E, op, ": there are ", n.g.E, " slots and ", rows, " rows of edges");
  POLYGRAPH_CHECK(
      0 <= first && first <= last && last <= n.g.S, op, ": segments ", first, " to ", last, " of ", n.g.S,
      " do not exist");
  return n;
}

inline void check_ecc_inner(
    const EccSizes& n, const Tensor& G, const EccPhi& phi, const std::optional<Tensor>& x,
    const std::optional<Tensor>& a, const std::optional<Tensor>& y) {
  const char* op = "edge_inner_";
  check_shape(op, "G", G, "[last - first, H', C]", {n.last - n.first, n.hidden(), n.C});
  POLYGRAPH_CHECK(!a.has_value() || x.has_value(), op, ": a needs x");
  POLYGRAPH_CHECK(!y.has_value() || phi.phi.has_value() || phi.seg_phi.has_value(), op, ": y needs phi");
  const auto check = [&](const char* name, const std::optional<Tensor>& out, const char* meaning, int64_t columns) {
    if (out.has_value()) {
      check_dtype(op, name, *out, G.scalar_type());
      check_shape(op, name, *out, meaning, {n.rows, columns});
      check_device(op, name, *out, G);
    }
  };
  check("a", a, "[E, H']", n.hidden());
  check("y", y, "[E, C]", n.C);
  POLYGRAPH_CHECK(!a.has_value() || n.hidden() < 2 || a->stride(1) == 1, op, ": rows of a must be contiguous");
  POLYGRAPH_CHECK(!y.has_value() || y->is_contiguous(), op, ": y must be contiguous");
}

inline void check_ecc_outer(const EccSizes& n, const EccPhi& phi, const Tensor& x, const Tensor& out) {
  const char* op = "edge_outer_";
  POLYGRAPH_CHECK(phi.phi.has_value() || phi.seg_phi.has_value() || n.H == 0, op, ": phi is needed");
  check_dtype(op, "out", out, x.scalar_type());
  check_shape(op, "out", out, "[last - first, H', C]", {n.last - n.first, n.hidden(), n.C});
  check_device(op, "out", out, x);
  POLYGRAPH_CHECK(out.is_contiguous(), op, ": out must be contiguous");
}

inline EccSizes check_tile_ecc(
    const char* op, const Tensor& x, const EccPhi& phi, const Tensor& weight, bool ones, int64_t rows,
    const Tensor& ptr, const std::optional<Tensor>& slot, const Tensor& other, const std::optional<Tensor>& edge) {
  check_floating(op, "x", x);
  POLYGRAPH_CHECK(!is_half(x.scalar_type()), op, ": half types are widened before on the CPU");
  check_shape(op, "x", x, "[N, C]", {-1, -1});
  check_dtype(op, "weight", weight, x.scalar_type());
  check_shape(op, "weight", weight, "[H', C, D]", {-1, x.size(1), -1});
  check_device(op, "weight", weight, x);
  check_width(op, "channels of the result", weight.size(2));
  const int64_t segments = ptr.dim() == 1 ? std::max<int64_t>(0, ptr.size(0) - 1) : 0;
  return check_ecc(
      op, x, x.size(1), phi, x, std::nullopt, false, ones, weight.size(0), x.size(0), rows, 0, segments, ptr, slot,
      other, edge);
}

inline void check_tile_result(
    const char* op, const char* name, const Tensor& x, const std::optional<Tensor>& out,
    std::initializer_list<int64_t> shape) {
  if (out.has_value()) {
    check_dtype(op, name, *out, x.scalar_type());
    check_shape(op, name, *out, "of the result", shape);
    check_device(op, name, *out, x);
    POLYGRAPH_CHECK(out->is_contiguous(), op, ": ", name, " must be contiguous");
  }
}

}  // namespace polygraph

// Edge-conditioned convolution on the CPU with targets side by side in the lanes of vectors, so that what an edge and
// what a target need exists for a few targets at a time, and in cache.
//
//   ecc_lane_           out[s, d] = sum over the slots of s, c, h of  x[r, c] phi[e, h] W[h, c, d]
//                                 + sum over the slots of s, c of     x[r, c] b[c, d]
//   ecc_lane_backward_  of <g, out>, for the segments first <= s < last:
//                       y[e, c]       to x[r, c]                            [E', C]
//                       a[p, h]       to phi or, where there is a layer, to the input of the activation  [P, H]
//                       f[p, h]       phi again                             [P, H or more]
//                       with p the position of the slot, less ptr[first]
//   ecc_lane_weight_    to[c, d, h] += sum over the slots p of first <= s < last of  f[p, h] x[r, c] g[s, d]
//
// A slot has the row e of edge features, and r, the other node. phi is a list:
//   phi [E', H]                                            itself
//   near [S, H], far [O, H]                                act(near[s] + far[o])
//   features [E', F], layer [H, F], shift [H]              act(features[e] layer^T + shift)
// with act(p) = p <= 0 ? slope p : p (0 with a slope of 0), and slope >= 0 for derivatives, which take the first or the
// last form. x [O, C], g [S, D], b [C, D]; W [H, C, D] has any strides. Segments with fewer slots than others in
// the lanes are padded with zeros: the caller takes this way only where segments have about as many slots each. Every
// sum has an order that depends on neither the number of threads nor the other lanes. No graph here has a list of
// slots.
#pragma once

#include "common/graph.h"

namespace polygraph {

struct LaneSizes {
  GraphSizes g;
  int64_t rows;         // of edge features, E'
  int64_t F, H, C, D;   // edge features, hidden, channels in and out
  int64_t first, last;  // segments
  int64_t most = 0;     // slots of a segment
};

struct LaneHidden {
  std::optional<Tensor> phi = std::nullopt;    // [E', H], with a layer [E', F]
  std::optional<Tensor> near = std::nullopt;   // [S, H]
  std::optional<Tensor> far = std::nullopt;    // [O, H]
  std::optional<Tensor> layer = std::nullopt;  // [H, F]
  std::optional<Tensor> shift = std::nullopt;  // [H]
};

inline LaneHidden read_hidden(const char* op, const std::vector<Tensor>& phi) {
  switch (phi.size()) {
    case 1:
      return {.phi = phi[0]};
    case 2:
      return {.near = phi[0], .far = phi[1]};
    case 3:
      return {.phi = phi[0], .layer = phi[1], .shift = phi[2]};
    default:
      POLYGRAPH_CHECK(
          false, op, ": phi is one tensor, near and far, or features, layer and shift, got ", phi.size(), " tensors");
  }
  return {};
}

inline LaneSizes check_ecc_lane(
    const char* op, const Tensor& x, const LaneHidden& t, int64_t H, int64_t D, int64_t first, int64_t last,
    const GraphTables& graph) {
  check_floating(op, "x", x);
  check_shape(op, "x", x, "[N, C]", {-1, -1});
  POLYGRAPH_CHECK(!is_half(x.scalar_type()), op, ": half types are widened before on the CPU");
  POLYGRAPH_CHECK(!graph.slot.has_value(), op, ": a graph with a list of slots is not taken");
  const GraphSizes g = check_graph(op, x, x.size(0), graph);
  const int64_t rows = t.phi.has_value() && t.phi->dim() > 0 ? t.phi->size(0) : g.E;
  const int64_t F = t.layer.has_value() && t.layer->dim() == 2 ? t.layer->size(1) : H;
  for (const int64_t width : {F, H, x.size(1), D}) {
    check_width(op, "channels", width);
  }
  POLYGRAPH_CHECK(
      graph.edge.has_value() || rows == g.E, op, ": there are ", g.E, " slots and ", rows, " rows of edges");
  POLYGRAPH_CHECK(
      0 <= first && first <= last && last <= g.S, op, ": segments ", first, " to ", last, " of ", g.S, " do not exist");
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor, const char* meaning,
                         std::initializer_list<int64_t> shape) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, x.scalar_type());
      check_shape(op, name, *tensor, meaning, shape);
      check_device(op, name, *tensor, x);
    }
  };
  check("phi", t.phi, t.layer.has_value() ? "[E, F]" : "[E, H]", {rows, F});
  check("layer", t.layer, "[H, F]", {H, F});
  check("shift", t.shift, "[H]", {H});
  check("near", t.near, "[S, H]", {g.S, H});
  check("far", t.far, "[O, H]", {g.O, H});
  return {.g = g, .rows = rows, .F = F, .H = H, .C = x.size(1), .D = D, .first = first, .last = last};
}

}  // namespace polygraph

// Edge-conditioned convolution on the CPU with targets side by side in the lanes of vectors, so that what an edge and
// what a target need exists for a few targets at a time, and in cache.
//
//   lane_ecc_           out[s, d] = sum over the slots of s, c, h of  x[r, c] phi[e, h] W[h, c, d]
//                                 + sum over the slots of s, c of     x[r, c] b[c, d]
//   lane_ecc_backward_  of <g, out>, for the segments first <= s < last:
//                       y[e, c]       to x[r, c]                            [E', C]
//                       a[p, h]       to phi, or to what is in the activation, where there is a layer  [P, H]
//                       f[p, h]       phi again                             [P, H or more]
//                       with p the position of the slot, less ptr[first]
//   lane_ecc_weight_    to[c, d, h] += sum over the slots p of first <= s < last of  f[p, h] x[r, c] g[s, d]
//
// A slot has the row e of edge features, and r, the other node. phi is one of
//   features [E', H]                                  themselves
//   act(features [E', F] layer [H, F]^T + shift [H])  if there is a layer
//   act(near [S, H] + far [O, H])                     without features
// with act(p) = p <= 0 ? slope p : p (0 with a slope of 0), and slope >= 0 for derivatives. W has any strides. Segments
// with fewer slots than their neighbours in the lanes are filled up with zeros: the caller sees to it that numbers of
// slots do not differ much. Every sum has an order that depends on neither the number of threads nor the other lanes.
#pragma once

#include "common/graph.h"

namespace polygraph {

struct LaneSizes {
  GraphSizes g;
  int64_t rows;         // of edge features, E'
  int64_t F, H, C, D;   // edge features, hidden, channels in and out
  int64_t first, last;  // segments
  int64_t most;         // slots of a segment
};

struct LaneFeatures {
  std::optional<Tensor> features, layer, shift, near, far;
};

inline LaneSizes check_lane_ecc(
    const char* op, const Tensor& x, const LaneFeatures& phi, int64_t H, int64_t D, int64_t rows, int64_t first,
    int64_t last, const Tensor& ptr, const Tensor& other, const std::optional<Tensor>& edge) {
  check_floating(op, "x", x);
  check_shape(op, "x", x, "[N, C]", {-1, -1});
  POLYGRAPH_CHECK(!is_half(x.scalar_type()), op, ": half types are widened before on the CPU");
  const GraphSizes g = check_graph(op, x, x.size(0), ptr, std::nullopt, other, edge);
  check_count(op, "rows", rows);
  for (const int64_t width : {phi.layer.has_value() ? phi.layer->size(1) : H, H, x.size(1), D}) {
    check_width(op, "channels", width);
  }
  POLYGRAPH_CHECK(edge.has_value() || rows == g.E, op, ": there are ", g.E, " slots and ", rows, " rows of edges");
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
  POLYGRAPH_CHECK(
      phi.near.has_value() == phi.far.has_value() && !(phi.features.has_value() && phi.near.has_value()), op,
      ": either features are given, or near and far");
  POLYGRAPH_CHECK(
      !phi.layer.has_value() || (phi.features.has_value() && phi.shift.has_value()), op,
      ": a layer needs features and shift");
  const int64_t F = phi.layer.has_value() ? phi.layer->size(1) : H;
  check("phi", phi.features, phi.layer.has_value() ? "[E, F]" : "[E, H]", {rows, F});
  check("layer", phi.layer, "[H, F]", {H, F});
  check("shift", phi.shift, "[H]", {H});
  check("near", phi.near, "[S, H]", {g.S, H});
  check("far", phi.far, "[O, H]", {g.O, H});
  return {g, rows, F, H, x.size(1), D, first, last, 0};
}

}  // namespace polygraph

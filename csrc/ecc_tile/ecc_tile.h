// Edge-conditioned convolution on the CPU where the matrix of a segment is small: for a tile of segments the edge-wise
// halves (edge_product/edge_product.h) and the weights take turns, and what is between them stays in cache.
//
//   ecc_tile_           out[s, d] = sum over h, c of Z[s, h, c] W[h, c, d]                                    [S, D]
//                       Z[s]      = sum over the slots of s of phi'[e] (x) x[o]                               [H', C]
//   ecc_tile_backward_  a[e, h]   = sum_c G[s, h, c] x[o, c];  0 where a slot is empty                        [E', H']
//                       y[e, c]   = sum_h phi'[e, h] G[s, h, c],  with G[s, h, c] = <W[h, c], grad[s]>        [E', C]
//                       to[h, c]  = sum over s of Z[s, h, c] grad[s]                                          [H', C,
//                       D]
//
// phi is a list, as in edge_product.h, and has a column of ones after it where W [H', C, D], of any strides, has one
// matrix more than phi has columns. x [O, C], grad [S, D].
#pragma once

#include "edge_product/edge_product.h"

namespace polygraph {

inline EdgeProductSizes check_ecc_tile(
    const char* op, const Tensor& x, const EdgeProductTensors& t, const Tensor& weight, const GraphTables& graph) {
  check_floating(op, "x", x);
  POLYGRAPH_CHECK(!is_half(x.scalar_type()), op, ": half types are widened before on the CPU");
  check_shape(op, "x", x, "[N, C]", {-1, -1});
  check_dtype(op, "weight", weight, x.scalar_type());
  check_shape(op, "weight", weight, "[H', C, D]", {-1, x.size(1), -1});
  check_device(op, "weight", weight, x);
  check_width(op, "channels of the result", weight.size(2));
  POLYGRAPH_CHECK(t.has_phi() || weight.size(0) == 0, op, ": phi is needed");
  const int64_t segments = graph.ptr.dim() == 1 ? std::max<int64_t>(0, graph.ptr.size(0) - 1) : 0;
  const int64_t rows = t.phi.has_value() && t.phi->dim() > 0 ? t.phi->size(0) : -1;
  return check_edge_product(op, x, x.size(1), t, false, weight.size(0), x.size(0), rows, 0, segments, graph);
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

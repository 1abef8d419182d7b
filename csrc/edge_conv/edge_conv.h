// Sums over the edges of a graph whose values are u_s + v_o under an activation, and all their derivatives.
//
// A slot joins the segment s and the other node o and has the row e of edge features (common/graph.h).
//
//   edge_sum     out[s]  = sum over the slots of s of  weight[e] * m * (seg_val[s] + oth_val[o] + edge_val[e])
//   edge_values  out[e]  = m * (seg_val[s] + oth_val[o] + edge_val[e])            rows of empty slots are 0
//   edge_dot     out[e]  = sum over channels of  (grad[s] + oth_grad[o]) * m * (seg_val[s] + oth_val[o])
//   edge_sum_    u[s]   = sum over the slots of s of  m * (u[s] + v[o]),  the masks being u and v: edge_sum in place of
//                         its segments' values, for inference, where nobody asks for them again; on the CPU alone
//
//   m = slope where seg_mask[s] + oth_mask[o] <= 0, else 1 (channel by channel); without masks, m = 1. With a slope of
//   0 what is multiplied with m is left out, even if it is not finite.
//
// With seg_val = seg_mask = u and oth_val = oth_mask = v, m (u + v) is the activation max(a, slope a) of a = u + v:
// none (slope 1), ReLU (0), leaky ReLU. Almost everywhere m is constant, and the three are partial derivatives of one
// form, linear in grad, in weight and in the values: their derivatives of every order are these three again, over the
// graph or its transpose.
//
// t_ptr, t_slot, t_other are the same graph seen from the other side, for the derivatives; the kernels do not read
// them. seg_* [S, D], oth_* [O, D], edge_val [E', D], weight [E'], grad [S, D]; all but grad may be absent: the masks
// come both or not at all, at least one value must be there, and weight does not come with edge_val. The sums of a
// segment and another node are formed before anything is multiplied: with opposite signs they are exact differences of
// what lies close together, however far from 0 that is.
#pragma once

#include "common/graph.h"

namespace polygraph {

struct EdgeConvSizes {
  GraphSizes g;
  int64_t D;     // channels
  int64_t rows;  // of edge features, E'
};

struct EdgeConvTensors {
  std::optional<Tensor> seg_mask, oth_mask, seg_val, oth_val, edge_val, weight;
};

inline EdgeConvSizes check_edge_conv(
    const char* op, const EdgeConvTensors& t, int64_t others, int64_t rows, const Tensor& ptr,
    const std::optional<Tensor>& slot, const Tensor& other, const std::optional<Tensor>& edge) {
  const std::optional<Tensor>& first = t.seg_val.has_value()   ? t.seg_val
                                       : t.oth_val.has_value() ? t.oth_val
                                                               : t.edge_val;
  POLYGRAPH_CHECK(first.has_value(), op, ": one of seg_val, oth_val and edge_val is needed");
  POLYGRAPH_CHECK(t.seg_mask.has_value() == t.oth_mask.has_value(), op, ": seg_mask and oth_mask come together");
  POLYGRAPH_CHECK(!t.weight.has_value() || !t.edge_val.has_value(), op, ": weight and edge_val exclude each other");
  check_count(op, "others", others);
  check_count(op, "rows", rows);
  const Tensor& like = *first;
  check_floating(op, "values", like);
  POLYGRAPH_CHECK(like.dim() == 2, op, ": values must have shape [*, D], got ", shape_string(like));
  const EdgeConvSizes n{check_graph(op, like, others, ptr, slot, other, edge), like.size(1), rows};
  POLYGRAPH_CHECK(edge.has_value() || rows == n.g.E, op, ": there are ", n.g.E, " slots and ", rows, " rows of edges");
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor, const char* meaning, int64_t count) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, like.scalar_type());
      check_shape(op, name, *tensor, meaning, {count, n.D});
      check_device(op, name, *tensor, like);
    }
  };
  check("seg_mask", t.seg_mask, "[S, D]", n.g.S);
  check("oth_mask", t.oth_mask, "[O, D]", n.g.O);
  check("seg_val", t.seg_val, "[S, D]", n.g.S);
  check("oth_val", t.oth_val, "[O, D]", n.g.O);
  check("edge_val", t.edge_val, "[E, D]", n.rows);
  if (t.weight.has_value()) {
    check_dtype(op, "weight", *t.weight, like.scalar_type());
    check_shape(op, "weight", *t.weight, "[E]", {n.rows});
    check_device(op, "weight", *t.weight, like);
  }
  return n;
}

inline void check_edge_dot_grads(
    const EdgeConvSizes& n, const Tensor& grad, const std::optional<Tensor>& oth_grad, const Tensor& like) {
  const char* op = "edge_dot";
  check_dtype(op, "grad", grad, like.scalar_type());
  check_shape(op, "grad", grad, "[S, D]", {n.g.S, n.D});
  check_device(op, "grad", grad, like);
  if (oth_grad.has_value()) {
    check_dtype(op, "oth_grad", *oth_grad, like.scalar_type());
    check_shape(op, "oth_grad", *oth_grad, "[O, D]", {n.g.O, n.D});
    check_device(op, "oth_grad", *oth_grad, like);
  }
}

}  // namespace polygraph

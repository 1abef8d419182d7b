// The edge-wise stages of lightweight ECC on the CPU. Every product with a weight matrix is PyTorch's, of some nodes at
// a time (polygraph/ops/_light_ecc_fused.py): P[s] = x[s] R and G[s] = grad[s] L, [R, W], W = H + 1; what is left
// follows here.
//
//   light_factors_           seen from the sources, whose matrices P are given:
//     s[r] = P[s, r] . phi'    k[r] = kappa[r] . phi'
//     found[slot] = (s, k) or, where it has R columns alone, s k                                        [E, 2 R]
//   light_outer_             seen from the targets:
//     Z[s, r] = sum over the slots of s of gamma s[r] k[r] phi'                                         [S', R, W]
//   light_backward_targets_  seen from the targets, whose matrices G are given; t[r] = G[s, r] . phi':
//     Z as above    found[slot] = (gamma k t, gamma s t), the gradients of s and of k
//     d[e] = act'(sum over r of gamma s[r] k[r] G[s, r])    d_gamma[e] = sum over r of s[r] k[r] t[r]
//   light_backward_sources_  seen from the sources, whose matrices P are given; (ds, dk) = found[slot]:
//     Z[s, r] = sum over the slots of s of ds[r] phi'
//     sums[b, r] = sum over the slots of the segments of block b of dk[r] phi'                          [blocks, R, W]
//     d[e] += act'(sum over r of ds[r] P[s, r] + dk[r] kappa[r])    d_near[s] = sum over its slots of d   [S', H]
//
// for the segments first <= s < first + S', of which there are as many as matrices. phi is a list of one tensor, the
// rows of edges [E', H], or of two, near [S, H] and far [O, H], as in edge_product.h; phi' is phi with a one after it.
// d has a row of H numbers for each row of phi, or, where phi is made of nodes, for each slot; act' is the derivative
// of the activation then, and 1 otherwise. gamma [E'] may be absent: 1. Each row belongs to one slot, each sum has a
// fixed order, a block is kLightBlock segments: results repeat bit for bit on any number of threads.
#pragma once

#include "edge_product/edge_product.h"

namespace polygraph {

constexpr int64_t kLightBlock = 16;

// H and the number of hidden features are as in edge_product.h, the channels C are the ranks R.
template <class T>
struct LightParams {
  EdgeProductSizes n;
  GraphPointers graph;
  const T* phi = nullptr;   // [E', H], null: from the nodes
  const T* near = nullptr;  // [S, H]
  const T* far = nullptr;   // [O, H]
  T slope = T(1);
  const T* matrix = nullptr;  // [S', R, W]
  const T* kappa = nullptr;   // [R, W]
  const T* gamma = nullptr;   // [E'], null: 1
  T* found = nullptr;         // [E, columns]
  int64_t columns = 0;        // R or 2 R
  T* z = nullptr;             // [S', R, W]
  T* d = nullptr;             // [E or E', H]
  T* d_gamma = nullptr;       // [E'], null: not wanted
  T* d_near = nullptr;        // [S', H], null: not wanted
  T* sums = nullptr;          // [blocks, R, W]

  int64_t rank() const {
    return n.C;
  }
  int64_t width() const {
    return n.hidden();
  }
};

// `matrices` are of the segments, [S', R, W].
inline EdgeProductSizes check_light(
    const char* op, const char* name, const Tensor& matrices, const std::vector<Tensor>& phi,
    const std::optional<Tensor>& gamma, int64_t others, int64_t first, const GraphTables& graph, const Tensor& found,
    bool both) {
  check_floating(op, name, matrices);
  POLYGRAPH_CHECK(!is_half(matrices.scalar_type()), op, ": half types are widened before on the CPU");
  check_shape(op, name, matrices, "[S', R, W]", {-1, -1, -1});
  POLYGRAPH_CHECK(matrices.is_contiguous(), op, ": ", name, " must be contiguous");
  EdgeProductTensors t;
  read_phi(op, phi, t);
  POLYGRAPH_CHECK(t.has_phi(), op, ": phi is needed");
  const int64_t rank = matrices.size(1);
  const std::optional<Tensor>& edges = t.phi.has_value() ? t.phi : gamma;
  const int64_t rows = edges.has_value() && edges->dim() > 0 ? edges->size(0) : -1;
  const EdgeProductSizes n =
      check_edge_product(op, matrices, rank, t, false, matrices.size(2), others, rows, first, matrices.size(0), graph);
  POLYGRAPH_CHECK(n.ones == 1, op, ": ", name, " must have a column more than phi");
  check_dtype(op, "found", found, matrices.scalar_type());
  check_shape(op, "found", found, "[E, 2 R]", {n.g.E, -1});
  check_device(op, "found", found, matrices);
  POLYGRAPH_CHECK(
      found.size(1) == 2 * rank || (!both && found.size(1) == rank), op, ": found must have 2 R = ", 2 * rank,
      " columns, got ", found.size(1));
  POLYGRAPH_CHECK(found.is_contiguous(), op, ": found must be contiguous");
  return n;
}

// Shapes of rows are those of `meaning`.
inline void check_light_tensor(
    const char* op, const char* name, const std::optional<Tensor>& tensor, const Tensor& like, const char* meaning,
    std::initializer_list<int64_t> shape) {
  if (tensor.has_value()) {
    check_dtype(op, name, *tensor, like.scalar_type());
    check_shape(op, name, *tensor, meaning, shape);
    check_device(op, name, *tensor, like);
    POLYGRAPH_CHECK(tensor->is_contiguous(), op, ": ", name, " must be contiguous");
  }
}

}  // namespace polygraph

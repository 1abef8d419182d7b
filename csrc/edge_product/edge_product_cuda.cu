// CUDA edge-wise halves of ECC: float32, float64, and half types that accumulate in float32. Kernels and their launches
// are in edge_outer.cuh and edge_inner.cuh.
#include "common/graph.cuh"
#include "edge_product/edge_inner.cuh"
#include "edge_product/edge_outer.cuh"
#include "edge_product/edge_product.h"

namespace polygraph {
namespace {

// The tensor, or a copy of it, at an address that is a multiple of `bytes`.
Tensor aligned(const Tensor& tensor, int64_t bytes) {
  return is_aligned(tensor.const_data_ptr(), bytes) ? tensor : torch::stable::clone(tensor);
}

std::optional<Tensor> aligned(const std::optional<Tensor>& tensor, int64_t bytes) {
  return tensor.has_value() ? std::optional<Tensor>(aligned(*tensor, bytes)) : std::nullopt;
}

// Within the matrix of a segment the kernels count in 32 bits, past its ends by as much as tiles do.
void check_matrix_size(const char* op, const EdgeProductSizes& n) {
  constexpr int64_t kMost = int64_t(1) << 31;
  POLYGRAPH_CHECK(
      n.hidden() < kMost && n.C < kMost && (n.hidden() + 256) * (n.C + 1024) < kMost, op, ": a node's matrix of ",
      n.hidden(), " x ", n.C, " is too large");
}

}  // namespace

void edge_outer_cuda(
    const std::vector<Tensor>& phi, double slope, const std::vector<Tensor>& x, bool x_per_edge, int64_t others,
    int64_t first, const std::vector<Tensor>& graph, int64_t tables, Tensor out) {
  const char* op = "edge_outer_";
  const EdgeProductTensors given = read_lists(op, phi, x, x_per_edge);
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_edge_outer(given, x_per_edge, others, first, read, out);
  check_matrix_size(op, n);
  const DeviceScope scope(out);
  const GraphTensors held(read);
  const EdgeProductTensors t = ready(given);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    ProductParams<T> p = edge_product_params<T, Acc<T>>(n, held.pointers(), t, slope);
    p.out = mutable_data<T>(out);
    launch_edge_outer<T>(p, scope);
  });
}

void edge_inner_cuda(
    const Tensor& G, const std::vector<Tensor>& phi, double slope, const std::vector<Tensor>& x, bool x_per_edge,
    int64_t others, int64_t first, const std::vector<Tensor>& graph, int64_t tables, std::optional<Tensor> a,
    std::optional<Tensor> y, bool add) {
  const char* op = "edge_inner_";
  const EdgeProductTensors given = read_lists(op, phi, x, x_per_edge);
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeProductSizes n = check_edge_inner(G, given, x_per_edge, others, first, read, a, y);
  check_matrix_size(op, n);
  const DeviceScope scope(G);
  const GraphTensors held(read);
  dispatch_floating(G.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const int64_t bytes = n.C % kColumns == 0 ? kInnerBytes<T> : 1;
    const Tensor matrices = aligned(dense(G), bytes);
    const std::optional<Tensor> messages = aligned(y, bytes);
    EdgeProductTensors t = ready(given);
    t.x = aligned(t.x, bytes);
    t.near_x = aligned(t.near_x, bytes);
    ProductParams<T> p = edge_product_params<T, Acc<T>>(n, held.pointers(), t, slope);
    p.G = const_data<T>(matrices);
    p.a = a.has_value() ? mutable_data<T>(*a) : nullptr;
    p.a_step = a.has_value() ? a->stride(0) : 0;
    p.y = y.has_value() ? mutable_data<T>(*messages) : nullptr;
    p.add = add;
    launch_edge_inner<T>(p, scope);
    if (y.has_value() && messages->const_data_ptr() != y->const_data_ptr()) {
      torch::stable::copy_(*y, *messages);
    }
  });
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("edge_outer_", TORCH_BOX(&polygraph::edge_outer_cuda));
  m.impl("edge_inner_", TORCH_BOX(&polygraph::edge_inner_cuda));
}

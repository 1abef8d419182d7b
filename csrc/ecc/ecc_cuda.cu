// CUDA edge-wise halves of ECC: float32, float64, and half types that accumulate in float32. Kernels and their launches
// are in ecc_outer.cuh and ecc_inner.cuh.
#include "common/graph.cuh"
#include "ecc/ecc.h"
#include "ecc/ecc_inner.cuh"
#include "ecc/ecc_outer.cuh"

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
void check_matrix_size(const char* op, const EccSizes& n) {
  constexpr int64_t kMost = int64_t(1) << 31;
  POLYGRAPH_CHECK(
      n.hidden() < kMost && n.C < kMost && (n.hidden() + 256) * (n.C + 1024) < kMost, op, ": a node's matrix of ",
      n.hidden(), " x ", n.C, " is too large");
}

}  // namespace

void edge_outer_cuda(
    const std::optional<Tensor>& phi, const std::optional<Tensor>& seg_phi, const std::optional<Tensor>& oth_phi,
    double slope, const Tensor& x, const std::optional<Tensor>& seg_x, bool x_per_edge, bool ones, int64_t others,
    int64_t rows, int64_t first, int64_t last, const Tensor& ptr, const std::optional<Tensor>& slot,
    const Tensor& other, const std::optional<Tensor>& edge, Tensor out) {
  const char* op = "edge_outer_";
  check_shape(op, "x", x, "[N, C]", {-1, -1});
  check_shape(op, "out", out, "[last - first, H', C]", {-1, -1, -1});
  const EccPhi given{phi, seg_phi, oth_phi};
  const EccSizes n = check_ecc(
      op, x, x.size(1), given, x, seg_x, x_per_edge, ones, out.size(1), others, rows, first, last, ptr, slot, other,
      edge);
  check_ecc_outer(n, given, x, out);
  check_matrix_size(op, n);
  const DeviceScope scope(x);
  const GraphTensors graph(ptr, slot, other, edge);
  const EccPhi f{dense(phi), dense(seg_phi), dense(oth_phi)};
  const Tensor features = dense(x);
  const std::optional<Tensor> of_segments = dense(seg_x);
  dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_edge_outer<T>(
        {n, graph.pointers(), const_data<T>(f.phi), const_data<T>(f.seg_phi), const_data<T>(f.oth_phi),
         static_cast<Acc<T>>(slope), const_data<T>(features), const_data<T>(of_segments), nullptr, mutable_data<T>(out),
         nullptr, nullptr, 0, false},
        scope);
  });
}

void edge_inner_cuda(
    const Tensor& G, const std::optional<Tensor>& phi, const std::optional<Tensor>& seg_phi,
    const std::optional<Tensor>& oth_phi, double slope, const std::optional<Tensor>& x,
    const std::optional<Tensor>& seg_x, bool x_per_edge, bool ones, int64_t others, int64_t rows, int64_t first,
    int64_t last, const Tensor& ptr, const std::optional<Tensor>& slot, const Tensor& other,
    const std::optional<Tensor>& edge, std::optional<Tensor> a, std::optional<Tensor> y, bool add) {
  const char* op = "edge_inner_";
  check_shape(op, "G", G, "[last - first, H', C]", {-1, -1, -1});
  const EccPhi given{phi, seg_phi, oth_phi};
  const EccSizes n = check_ecc(
      op, G, G.size(2), given, x, seg_x, x_per_edge, ones, G.size(1), others, rows, first, last, ptr, slot, other,
      edge);
  check_ecc_inner(n, G, given, x, a, y);
  check_matrix_size(op, n);
  const DeviceScope scope(G);
  const GraphTensors graph(ptr, slot, other, edge);
  const EccPhi f{dense(phi), dense(seg_phi), dense(oth_phi)};
  dispatch_floating(G.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const int64_t bytes = n.C % kColumns == 0 ? kInnerBytes<T> : 1;
    const Tensor upstream = aligned(dense(G), bytes);
    const std::optional<Tensor> features = aligned(dense(x), bytes), of_segments = aligned(dense(seg_x), bytes);
    const std::optional<Tensor> messages = aligned(y, bytes);
    const EccParams<T> p{
        n,
        graph.pointers(),
        const_data<T>(f.phi),
        const_data<T>(f.seg_phi),
        const_data<T>(f.oth_phi),
        static_cast<Acc<T>>(slope),
        const_data<T>(features),
        const_data<T>(of_segments),
        const_data<T>(upstream),
        nullptr,
        a.has_value() ? mutable_data<T>(*a) : nullptr,
        y.has_value() ? mutable_data<T>(*messages) : nullptr,
        a.has_value() ? a->stride(0) : 0,
        add};
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

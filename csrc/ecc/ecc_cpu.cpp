// CPU edge-wise halves of ECC: float32 and float64; half types are widened to float32 by the callers.
#include <utility>
#include <vector>

#include "common/simd.h"
#include "ecc/ecc.h"

namespace polygraph {
namespace {

constexpr int kTileRows = 6;    // of a product, kept in registers
constexpr int64_t kSlots = 32;  // packed at a time; a multiple of every vector

template <class T>
struct EccParams {
  EccSizes n;
  GraphPointers graph;
  const T* phi;      // [E', H], null: from the nodes
  const T* seg_phi;  // [S, H]
  const T* oth_phi;  // [O, H]
  T slope;
  const T* x;      // [O, C] or [E', C]
  const T* seg_x;  // [S, C], null: x is as it is
  const T* G;      // [last - first, H', C], edge_inner only
  T* out;          // [last - first, H', C], edge_outer only
  T* a;            // [E', H'], null: not wanted
  T* y;            // [E', C], likewise
  int64_t a_step;  // from row to row of a
  bool add;        // to y
};

// A thread's own. Rows are as long as whole vectors, and there are as many as fill whole tiles; what lies past the ends
// is zero from the start or never stored.
template <class T>
struct EccScratch {
  int64_t rows[kSlots];    // of edge features
  int64_t others[kSlots];  // nodes
  int64_t count;
  int64_t phi_step, x_step;
  T* phi;      // [kSlots + kTileRows, phi_step]
  T* x;        // [kSlots, x_step] or [C, kSlots]
  T* row;      // [x_step], of x
  T* G;        // [H' + kTileRows, x_step]
  T* product;  // [H', kSlots] or [kSlots, x_step]
};

// A row that ends where the memory does, at `end`; what is behind it in `room` is of no account.
template <class T>
__attribute__((noinline, cold)) const T* copied_row(const T* from, const T* end, T* room) {
  std::copy(from, end, room);
  return room;
}

#define POLYGRAPH_KERNEL_FILE "ecc/ecc_kernel.inc"
#include "common/each_isa.inc"

int64_t whole(int64_t size, int64_t step) {
  return (size + step - 1) / step * step;
}

template <class T>
class Scratch {
 public:
  Scratch(const EccSizes& n, bool inner) {
    constexpr int64_t kLanes = 64 / static_cast<int64_t>(sizeof(T));  // of the widest vector, two of which are read
    view.x_step = whole(n.C, 2 * kLanes);
    view.phi_step = whole(n.hidden(), kTileRows) + kTileRows;
    const int64_t phi = (kSlots + kTileRows) * view.phi_step;
    const int64_t x = std::max(kSlots * view.x_step, n.C * kSlots);
    const int64_t G = inner ? (n.hidden() + kTileRows) * view.x_step : 0;
    const int64_t product = inner ? std::max(n.hidden() * kSlots, kSlots * view.x_step) : 0;
    memory.assign(static_cast<size_t>(phi + x + view.x_step + G + product), T(0));
    view.phi = memory.data();
    view.x = view.phi + phi;
    view.row = view.x + x;
    view.G = view.row + view.x_step;
    view.product = view.G + G;
  }

  EccScratch<T> view{};

 private:
  std::vector<T> memory;
};

int64_t work_per_segment(const EccSizes& n) {
  return (n.g.E / std::max<int64_t>(1, n.g.S) + 1) * n.hidden() * n.C;
}

template <class T>
void edge_outer_cpu(const EccParams<T>& p) {
  parallel_tasks(p.n.last - p.n.first, work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    const Scratch<T> scratch(p.n, false);
    POLYGRAPH_SIMD_CALL(edge_outer<T>(p, scratch.view, begin, end));
  });
}

template <class T>
void edge_inner_cpu(const EccParams<T>& p) {
  parallel_tasks(p.n.last - p.n.first, 2 * work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    const Scratch<T> scratch(p.n, true);
    POLYGRAPH_SIMD_CALL(edge_inner<T>(p, scratch.view, begin, end));
  });
}

}  // namespace

void edge_outer_cpu(
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
  STD_TORCH_CHECK(!is_half(x.scalar_type()), op, ": half types are widened before on the CPU");
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values(op, n.g, graph.pointers(), rows, first, last);
  const EccPhi f{dense(phi), dense(seg_phi), dense(oth_phi)};
  const std::optional<Tensor> features = dense(x), of_segments = dense(seg_x);
  dispatch_wide(out, [&](auto zero) {
    using T = decltype(zero);
    edge_outer_cpu(
        EccParams<T>{
            n, graph.pointers(), const_data<T>(f.phi), const_data<T>(f.seg_phi), const_data<T>(f.oth_phi),
            static_cast<T>(slope), const_data<T>(features), const_data<T>(of_segments), nullptr,
            static_cast<T*>(out.mutable_data_ptr()), nullptr, nullptr, 0, false});
  });
}

void edge_inner_cpu(
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
  STD_TORCH_CHECK(!is_half(G.scalar_type()), op, ": half types are widened before on the CPU");
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values(op, n.g, graph.pointers(), rows, first, last);
  const std::optional<Tensor> upstream = dense(G);
  const EccPhi f{dense(phi), dense(seg_phi), dense(oth_phi)};
  const std::optional<Tensor> features = dense(x), of_segments = dense(seg_x);
  dispatch_wide(G, [&](auto zero) {
    using T = decltype(zero);
    edge_inner_cpu(
        EccParams<T>{
            n, graph.pointers(), const_data<T>(f.phi), const_data<T>(f.seg_phi), const_data<T>(f.oth_phi),
            static_cast<T>(slope), const_data<T>(features), const_data<T>(of_segments), const_data<T>(upstream),
            nullptr, a.has_value() ? static_cast<T*>(a->mutable_data_ptr()) : nullptr,
            y.has_value() ? static_cast<T*>(y->mutable_data_ptr()) : nullptr, a.has_value() ? a->stride(0) : 0, add});
  });
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("edge_outer_", TORCH_BOX(&polygraph::edge_outer_cpu));
  m.impl("edge_inner_", TORCH_BOX(&polygraph::edge_inner_cpu));
}

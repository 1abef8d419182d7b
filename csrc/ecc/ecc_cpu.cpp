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
  bool G_padded;   // two vectors can be read behind it
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

constexpr int64_t kTileSegments = 4 * kTileRows;

// The edge-wise half of some segments, and the weights.
template <class T>
struct TileParams {
  EccParams<T> edges;
  int64_t D;
  const T* weight;  // [H' C, weight_step], or transposed in the backward pass [D, weight_step]: whole vectors
  int64_t weight_step;
  const T* grad;  // [S, D], backward only
  int64_t grad_step;
  T* out;  // [S, D], forward only
};

// A thread's own.
template <class T>
struct TileScratch {
  EccScratch<T> edges;
  T* matrices;  // [kTileSegments, H', C], and two vectors behind them
  T* grad;      // [kTileSegments, grad_step], zeros behind the D numbers of a row
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

template <class T>
class TileMemory {
 public:
  explicit TileMemory(const TileParams<T>& p) : edges(p.edges.n, true) {
    constexpr int64_t kLanes = 64 / static_cast<int64_t>(sizeof(T));
    const int64_t matrices = kTileSegments * p.edges.n.hidden() * p.edges.n.C + 2 * kLanes + kTileRows;
    numbers.assign(static_cast<size_t>(matrices + kTileSegments * p.grad_step), T(0));
    view = {edges.view, numbers.data(), numbers.data() + matrices};
  }

  TileScratch<T> view{};

 private:
  Scratch<T> edges;
  std::vector<T> numbers;
};

template <class T>
int64_t whole_vectors(int64_t size) {
  return whole(size, vector_bytes() / static_cast<int64_t>(sizeof(T)));
}

int64_t work_per_tile(const EccSizes& n, int64_t D) {
  return kTileSegments * (work_per_segment(n) + n.hidden() * n.C * D);
}

template <class T>
void tile_ecc_cpu(TileParams<T> p) {
  const EccSizes& n = p.edges.n;
  const int64_t tiles = (n.g.S + kTileSegments - 1) / kTileSegments;
  parallel_tasks(tiles, work_per_tile(n, p.D), [&](int64_t begin, int64_t end) {
    const TileMemory<T> memory(p);
    const int64_t first = begin * kTileSegments, last = std::min(n.g.S, end * kTileSegments);
    POLYGRAPH_SIMD_CALL(tile_ecc<T>(p, memory.view, first, last));
  });
}

// Parts of the segments have sums of their own: as many parts as depend on their number alone, so that results do not
// depend on the number of threads.
constexpr int64_t kPartSegments = 40 * kTileSegments;
constexpr int64_t kMostParts = 64;

// `to` [H', C, D] is null where it is not wanted.
template <class T>
void tile_ecc_backward_cpu(TileParams<T> p, T* to) {
  const EccSizes& n = p.edges.n;
  const int64_t part = whole(std::max(kPartSegments, (n.g.S + kMostParts - 1) / kMostParts), kTileSegments);
  const int64_t parts = (n.g.S + part - 1) / part;
  const int64_t rows = n.hidden() * n.C;
  const int64_t size = rows * p.grad_step;
  std::vector<T> sums(to == nullptr ? 0 : static_cast<size_t>(parts * size));
  parallel_tasks(parts, 3 * part / kTileSegments * work_per_tile(n, p.D), [&](int64_t begin, int64_t end) {
    const TileMemory<T> memory(p);
    for (int64_t i = begin; i < end; ++i) {
      T* sum = to == nullptr ? nullptr : sums.data() + i * size;
      POLYGRAPH_SIMD_CALL(tile_ecc_backward<T>(p, memory.view, i * part, std::min(n.g.S, (i + 1) * part), sum));
    }
  });
  for (int64_t r = 0; to != nullptr && r < rows; ++r) {
    for (int64_t d = 0; d < p.D; ++d) {
      T total = 0;
      for (int64_t i = 0; i < parts; ++i) {
        total += sums[static_cast<size_t>(i * size + r * p.grad_step + d)];
      }
      to[r * p.D + d] = total;
    }
  }
}

// The weights [H', C, D] as [H' C, whole vectors of D], or as [D, whole vectors of H' C].
template <class T>
std::vector<T> packed_weight(const Tensor& weight, bool transposed) {
  const int64_t H = weight.size(0), C = weight.size(1), D = weight.size(2);
  const int64_t step = whole_vectors<T>(transposed ? H * C : D);
  std::vector<T> to(static_cast<size_t>((transposed ? D : H * C) * step));
  const T* from = const_data<T>(weight);
  for (int64_t h = 0; h < H; ++h) {
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t d = 0; d < D; ++d) {
        const int64_t row = h * C + c;
        to[static_cast<size_t>(transposed ? d * step + row : row * step + d)] =
            from[h * weight.stride(0) + c * weight.stride(1) + d * weight.stride(2)];
      }
    }
  }
  return to;
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
  POLYGRAPH_CHECK(!is_half(x.scalar_type()), op, ": half types are widened before on the CPU");
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values(op, n.g, graph.pointers(), rows, first, last);
  const EccPhi f{dense(phi), dense(seg_phi), dense(oth_phi)};
  const std::optional<Tensor> features = dense(x), of_segments = dense(seg_x);
  dispatch_wide(out, [&](auto zero) {
    using T = decltype(zero);
    edge_outer_cpu(
        EccParams<T>{
            n, graph.pointers(), const_data<T>(f.phi), const_data<T>(f.seg_phi), const_data<T>(f.oth_phi),
            static_cast<T>(slope), const_data<T>(features), const_data<T>(of_segments), nullptr, false,
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
  POLYGRAPH_CHECK(!is_half(G.scalar_type()), op, ": half types are widened before on the CPU");
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
            static_cast<T>(slope), const_data<T>(features), const_data<T>(of_segments), const_data<T>(upstream), false,
            nullptr, a.has_value() ? static_cast<T*>(a->mutable_data_ptr()) : nullptr,
            y.has_value() ? static_cast<T*>(y->mutable_data_ptr()) : nullptr, a.has_value() ? a->stride(0) : 0, add});
  });
}

void tile_ecc_cpu(
    const std::optional<Tensor>& phi, const std::optional<Tensor>& seg_phi, const std::optional<Tensor>& oth_phi,
    double slope, const Tensor& x, const Tensor& weight, bool ones, int64_t rows, const Tensor& ptr,
    const std::optional<Tensor>& slot, const Tensor& other, const std::optional<Tensor>& edge, Tensor& out) {
  const char* op = "tile_ecc_";
  const EccSizes n = check_tile_ecc(op, x, {phi, seg_phi, oth_phi}, weight, ones, rows, ptr, slot, other, edge);
  POLYGRAPH_CHECK(phi.has_value() || seg_phi.has_value() || n.H == 0, op, ": phi is needed");
  check_tile_result(op, "out", x, out, {n.g.S, weight.size(2)});
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values(op, n.g, graph.pointers(), rows);
  const EccPhi f{dense(phi), dense(seg_phi), dense(oth_phi)};
  const Tensor features = dense(x);
  dispatch_wide(x, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> packed = packed_weight<T>(weight, false);
    const EccParams<T> edges{
        n,
        graph.pointers(),
        const_data<T>(f.phi),
        const_data<T>(f.seg_phi),
        const_data<T>(f.oth_phi),
        static_cast<T>(slope),
        const_data<T>(features),
        nullptr,
        nullptr,
        true,
        nullptr,
        nullptr,
        nullptr,
        0,
        false};
    const int64_t D = weight.size(2);
    tile_ecc_cpu(TileParams<T>{edges, D, packed.data(), whole_vectors<T>(D), nullptr, 0, mutable_data<T>(out)});
  });
}

void tile_ecc_backward_cpu(
    const Tensor& phi, const Tensor& x, const Tensor& grad, const Tensor& weight, bool ones, const Tensor& ptr,
    const std::optional<Tensor>& slot, const Tensor& other, const std::optional<Tensor>& edge,
    const std::optional<Tensor>& a, const std::optional<Tensor>& y, const std::optional<Tensor>& to) {
  const char* op = "tile_ecc_backward_";
  POLYGRAPH_CHECK(phi.dim() == 2, op, ": phi must have 2 dimensions, got ", phi.dim());
  const int64_t rows = phi.size(0);
  const EccSizes n =
      check_tile_ecc(op, x, {phi, std::nullopt, std::nullopt}, weight, ones, rows, ptr, slot, other, edge);
  const int64_t D = weight.size(2);
  check_dtype(op, "grad", grad, x.scalar_type());
  check_shape(op, "grad", grad, "[S, D]", {n.g.S, D});
  check_device(op, "grad", grad, x);
  check_tile_result(op, "a", x, a, {rows, n.hidden()});
  check_tile_result(op, "y", x, y, {rows, n.C});
  check_tile_result(op, "to", x, to, {n.hidden(), n.C, D});
  const GraphTensors graph(ptr, slot, other, edge);
  check_graph_values(op, n.g, graph.pointers(), rows);
  const Tensor hidden = dense(phi), features = dense(x), upstream = dense(grad);
  const auto result = [](const std::optional<Tensor>& tensor) {
    return tensor.has_value() ? tensor->mutable_data_ptr() : nullptr;
  };
  dispatch_wide(x, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> packed = packed_weight<T>(weight, true);
    const EccParams<T> edges{
        n,
        graph.pointers(),
        const_data<T>(hidden),
        nullptr,
        nullptr,
        T(1),
        const_data<T>(features),
        nullptr,
        nullptr,
        true,
        nullptr,
        static_cast<T*>(result(a)),
        static_cast<T*>(result(y)),
        n.hidden(),
        false};
    tile_ecc_backward_cpu(
        TileParams<T>{
            edges, D, packed.data(), whole_vectors<T>(n.hidden() * n.C), const_data<T>(upstream), whole_vectors<T>(D),
            nullptr},
        static_cast<T*>(result(to)));
  });
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("tile_ecc_", TORCH_BOX(&polygraph::tile_ecc_cpu));
  m.impl("tile_ecc_backward_", TORCH_BOX(&polygraph::tile_ecc_backward_cpu));
  m.impl("edge_outer_", TORCH_BOX(&polygraph::edge_outer_cpu));
  m.impl("edge_inner_", TORCH_BOX(&polygraph::edge_inner_cpu));
}

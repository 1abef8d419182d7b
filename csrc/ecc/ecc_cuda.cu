// CUDA edge-wise halves of ECC: float32, float64, and half types that accumulate in float32.
//
// A block computes one tile of one segment's small product (ecc_kernel.inc shows the three), from operands that it
// brings to shared memory a few slots, or a few columns, at a time. Bound by reading G and writing Z, [nodes, H', C]:
// with K slots a node there are 2 K operations for each of their numbers.
#include "common/graph.cuh"
#include "ecc/ecc.h"

namespace polygraph {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;   // rows and columns of a tile
constexpr int kSlots = 16;  // at a time
constexpr int kDepth = 32;  // columns at a time, of edge_inner
constexpr int kPerThread = 4;
static_assert(kThreads * kPerThread * kPerThread == kTile * kTile);

template <class T>
struct EccParams {
  EccSizes n;
  GraphPointers graph;
  const T* phi;      // [E', H], null: from the nodes
  const T* seg_phi;  // [S, H]
  const T* oth_phi;  // [O, H]
  Acc<T> slope;
  const T* x;      // [O, C] or [E', C]
  const T* seg_x;  // [S, C], null: x is as it is
  const T* G;      // [last - first, H', C], edge_inner only
  T* out;          // [last - first, H', C], edge_outer only
  T* a;            // [E', H'], null: not wanted
  T* y;            // [E', C], likewise
  int64_t a_step;  // from row to row of a
  bool add;        // to y
};

// The slots that a block is working on, in shared memory; row -1: none.
struct SlotList {
  int64_t row[kSlots];
  int64_t other[kSlots];
};

// kSlots positions from `position` on. Threads 0 .. kSlots - 1 read one each; a barrier follows in the caller.
template <class T>
__device__ __forceinline__ void list_slots(const EccParams<T>& p, int64_t position, int64_t last, SlotList& list) {
  const int k = static_cast<int>(threadIdx.x);
  if (k < kSlots) {
    GraphSlot at{-1, -1, -1};
    if (position + k < last) {
      at = read_slot(p.graph, p.n.g, p.n.rows, position + k);
    }
    list.row[k] = at.other < 0 ? -1 : at.row;
    list.other[k] = at.other;
  }
}

// phi'[k, h]; 0 past the ends.
template <class T>
__device__ __forceinline__ Acc<T> phi_at(const EccParams<T>& p, const SlotList& list, int64_t s, int k, int64_t h) {
  const int64_t row = list.row[k];
  if (row < 0 || h >= (p.n.H + p.n.ones)) {
    return 0;
  }
  if (h >= p.n.H) {
    return 1;
  }
  if (p.phi != nullptr) {
    return static_cast<Acc<T>>(p.phi[row * p.n.H + h]);
  }
  const Acc<T> sum =
      static_cast<Acc<T>>(p.seg_phi[s * p.n.H + h]) + static_cast<Acc<T>>(p.oth_phi[list.other[k] * p.n.H + h]);
  return sum > 0 ? sum : p.slope * sum;
}

template <class T>
__device__ __forceinline__ Acc<T> x_at(const EccParams<T>& p, const SlotList& list, int64_t s, int k, int64_t c) {
  if (list.row[k] < 0 || c >= p.n.C) {
    return 0;
  }
  const auto value = static_cast<Acc<T>>(p.x[(p.n.x_per_edge ? list.row[k] : list.other[k]) * p.n.C + c]);
  if (p.seg_x == nullptr) {
    return value;
  }
  const Acc<T> sum = static_cast<Acc<T>>(p.seg_x[s * p.n.C + c]) + value;
  return sum > 0 ? sum : p.slope * sum;
}

// The tile of a block: which segment, and where in its product.
struct EccTile {
  int64_t i, s;  // segment, counted from first and from 0
  int64_t row, column;
  int64_t begin, end;  // positions
};

template <class T>
__device__ __forceinline__ EccTile ecc_tile(const EccParams<T>& p, int64_t item, int64_t row_tiles, int64_t col_tiles) {
  const int64_t i = quotient(item, row_tiles * col_tiles);
  const int64_t inside = item - i * row_tiles * col_tiles;
  const int64_t row = quotient(inside, col_tiles);
  EccTile tile{i, p.n.first + i, row * kTile, (inside - row * col_tiles) * kTile, 0, 0};
  tile.begin = p.graph.ptr[tile.s];
  tile.end = p.graph.ptr[tile.s + 1];
  POLYGRAPH_CHECK_SEGMENT("ecc", tile.begin, tile.end, p.n.g.E);
  return tile;
}

// A block computes kTile x kTile numbers of Z of one segment, a thread 4 x 4 of them, 16 apart, so that neighbouring
// threads write neighbouring columns. Safe: the operands are replaced behind a barrier that follows their last use.
template <class T>
__global__ void __launch_bounds__(kThreads, 3) edge_outer_kernel(EccParams<T> p) {
  using A = Acc<T>;
  A* phi = reinterpret_cast<A*>(polygraph_shared_memory);  // [kSlots, kTile]
  A* x = phi + kSlots * kTile;                             // [kSlots, kTile]
  SlotList& list = *reinterpret_cast<SlotList*>(x + kSlots * kTile);
  const int lane = static_cast<int>(threadIdx.x) % 16;
  const int line = static_cast<int>(threadIdx.x) / 16;
  const int64_t hidden = p.n.H + p.n.ones;
  const int64_t row_tiles = (hidden + kTile - 1) / kTile;
  const int64_t col_tiles = (p.n.C + kTile - 1) / kTile;
  const int64_t tiles = (p.n.last - p.n.first) * row_tiles * col_tiles;
  for (int64_t item = blockIdx.x; item < tiles; item += gridDim.x) {
    const EccTile tile = ecc_tile(p, item, row_tiles, col_tiles);
    A sum[kPerThread][kPerThread] = {};
    for (int64_t position = tile.begin; position < tile.end; position += kSlots) {
      list_slots(p, position, tile.end, list);
      __syncthreads();
      for (int j = static_cast<int>(threadIdx.x); j < kSlots * kTile; j += kThreads) {
        phi[j] = phi_at(p, list, tile.s, j / kTile, tile.row + j % kTile);
        x[j] = x_at(p, list, tile.s, j / kTile, tile.column + j % kTile);
      }
      __syncthreads();
      const int count = static_cast<int>(min(tile.end - position, static_cast<int64_t>(kSlots)));
      for (int k = 0; k < count; ++k) {
#pragma unroll
        for (int r = 0; r < kPerThread; ++r) {
#pragma unroll
          for (int c = 0; c < kPerThread; ++c) {
            sum[r][c] += phi[k * kTile + line + 16 * r] * x[k * kTile + lane + 16 * c];
          }
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < kPerThread; ++r) {
#pragma unroll
      for (int c = 0; c < kPerThread; ++c) {
        const int64_t row = tile.row + line + 16 * r;
        const int64_t column = tile.column + lane + 16 * c;
        if (row < hidden && column < p.n.C) {
          p.out[(tile.i * hidden + row) * p.n.C + column] = static_cast<T>(sum[r][c]);
        }
      }
    }
  }
}

// A block computes kTile columns of `a` (of phi', the depth runs over C) or of `y` (channels, the depth runs
// over phi') for the slots of one segment; a thread has one column and every fourth slot. G is read along C, which is
// the depth of `a`: there a warp reads kDepth neighbours of one row. Safe: as above; each row of the results belongs to
// one slot.
template <class T, bool kToPhi>
__global__ void __launch_bounds__(kThreads, 3) edge_inner_kernel(EccParams<T> p) {
  using A = Acc<T>;
  A* g = reinterpret_cast<A*>(polygraph_shared_memory);  // [kDepth, kTile + 1]
  A* left = g + kDepth * (kTile + 1);                    // [kSlots, kDepth]
  SlotList& list = *reinterpret_cast<SlotList*>(left + kSlots * kDepth);
  const int lane = static_cast<int>(threadIdx.x) % kTile;
  const int line = static_cast<int>(threadIdx.x) / kTile;
  const int64_t hidden = p.n.H + p.n.ones;
  const int64_t columns = kToPhi ? hidden : p.n.C;
  const int64_t depth = kToPhi ? p.n.C : hidden;
  const int64_t col_tiles = (columns + kTile - 1) / kTile;
  const int64_t tiles = (p.n.last - p.n.first) * col_tiles;
  for (int64_t item = blockIdx.x; item < tiles; item += gridDim.x) {
    const EccTile tile = ecc_tile(p, item, 1, col_tiles);
    const T* from = p.G + tile.i * hidden * p.n.C;
    for (int64_t position = tile.begin; position < tile.end; position += kSlots) {
      list_slots(p, position, tile.end, list);
      __syncthreads();
      A sum[kPerThread] = {};
      for (int64_t d0 = 0; d0 < depth; d0 += kDepth) {
        __syncthreads();
        for (int j = static_cast<int>(threadIdx.x); j < kDepth * kTile; j += kThreads) {
          const int d = kToPhi ? j % kDepth : j / kTile;
          const int c = kToPhi ? j / kDepth : j % kTile;
          const int64_t h = kToPhi ? tile.column + c : d0 + d;
          const int64_t channel = kToPhi ? d0 + d : tile.column + c;
          const bool inside = h < hidden && channel < p.n.C;
          g[d * (kTile + 1) + c] = inside ? static_cast<A>(from[h * p.n.C + channel]) : A(0);
        }
        for (int j = static_cast<int>(threadIdx.x); j < kSlots * kDepth; j += kThreads) {
          const int64_t d = d0 + j % kDepth;
          left[j] = kToPhi ? x_at(p, list, tile.s, j / kDepth, d) : phi_at(p, list, tile.s, j / kDepth, d);
        }
        __syncthreads();
#pragma unroll 4
        for (int d = 0; d < kDepth; ++d) {
          const A value = g[d * (kTile + 1) + lane];
#pragma unroll
          for (int r = 0; r < kPerThread; ++r) {
            sum[r] += left[(line + 4 * r) * kDepth + d] * value;
          }
        }
      }
      const int64_t column = tile.column + lane;
#pragma unroll
      for (int r = 0; r < kPerThread; ++r) {
        const int64_t row = list.row[line + 4 * r];
        if (row < 0 || column >= columns) {
          continue;
        }
        if constexpr (kToPhi) {
          p.a[row * p.a_step + column] = static_cast<T>(sum[r]);
        } else {
          T& to = p.y[row * p.n.C + column];
          to = static_cast<T>(p.add ? static_cast<A>(to) + sum[r] : sum[r]);
        }
      }
      __syncthreads();
    }
  }
}

template <class T>
void launch_edge_outer(const EccParams<T>& p, const DeviceScope& scope) {
  const int64_t tiles = (p.n.last - p.n.first) * ceil_div(p.n.hidden(), kTile) * ceil_div(p.n.C, kTile);
  if (tiles == 0) {
    return;
  }
  const int64_t shared = 2 * kSlots * kTile * int64_t(sizeof(Acc<T>)) + int64_t(sizeof(SlotList));
  start_kernel({std::min(tiles, kMaxBlocksX), 1, kThreads, shared}, scope, edge_outer_kernel<T>, p);
}

template <class T, bool kToPhi>
void launch_edge_inner(const EccParams<T>& p, const DeviceScope& scope) {
  const int64_t tiles = (p.n.last - p.n.first) * ceil_div(kToPhi ? p.n.hidden() : p.n.C, kTile);
  if (tiles == 0) {
    return;
  }
  const int64_t shared = (kDepth * (kTile + 1) + kSlots * kDepth) * int64_t(sizeof(Acc<T>)) + int64_t(sizeof(SlotList));
  start_kernel({std::min(tiles, kMaxBlocksX), 1, kThreads, shared}, scope, edge_inner_kernel<T, kToPhi>, p);
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
  const DeviceScope scope(G);
  const GraphTensors graph(ptr, slot, other, edge);
  const EccPhi f{dense(phi), dense(seg_phi), dense(oth_phi)};
  const Tensor upstream = dense(G);
  const std::optional<Tensor> features = dense(x), of_segments = dense(seg_x);
  dispatch_floating(G.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
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
        y.has_value() ? mutable_data<T>(*y) : nullptr,
        a.has_value() ? a->stride(0) : 0,
        add};
    if (a.has_value()) {
      launch_edge_inner<T, true>(p, scope);
    }
    if (y.has_value()) {
      launch_edge_inner<T, false>(p, scope);
    }
  });
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("edge_outer_", TORCH_BOX(&polygraph::edge_outer_cuda));
  m.impl("edge_inner_", TORCH_BOX(&polygraph::edge_inner_cuda));
}

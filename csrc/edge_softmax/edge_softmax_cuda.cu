// CUDA softmax of edge scores: float32, float64, and half types that compute in float32.
#include "common/segments.cuh"
#include "edge_softmax/edge_softmax.h"

namespace polygraph {
namespace {

constexpr int kAtOnce = 4;     // slots whose rows are loaded before the first is used
constexpr int kSlotPacks = 8;  // lanes that share a unit's slots where columns are summed

// The largest score and the sum of exp(score - largest).
template <class A>
struct Total {
  A most, sum;
};

template <class T>
struct EdgeSoftmaxCudaParams : EdgeSoftmaxParams<T> {
  Bend<Acc<T>> bend;
  uint32_t row_bytes;
  SegmentWork work = {};
  Total<Acc<T>>* totals = nullptr;  // [places, H]: of pieces; joined, at the place of the first. Backward: sum alone

  EdgeSoftmaxCudaParams(const EdgeSoftmaxParams<T>& given, double slope)
      : EdgeSoftmaxParams<T>(given),
        bend(bend_at_zero<Acc<T>>(slope)),
        row_bytes(static_cast<uint32_t>(given.n.H * static_cast<int64_t>(sizeof(T)))) {}
};

template <class T>
__device__ __forceinline__ Acc<T> value(const T* at) {
  return static_cast<Acc<T>>(*at);
}

// The larger; NaN if either is.
template <class A>
__device__ __forceinline__ A larger(A a, A b) {
  return b <= a ? a : (a <= b ? b : a + b);
}

__device__ __forceinline__ float power(float x) {
  return expf(x);
}
__device__ __forceinline__ double power(double x) {
  return exp(x);
}

template <class T>
__device__ __forceinline__ SegmentUnit find_unit_of(const EdgeSoftmaxCudaParams<T>& p, const Group& group) {
  return find_unit(p.work, group, [&](int64_t first, int64_t last) {
    POLYGRAPH_CHECK_SEGMENT("edge_softmax", first, last, p.n.g.E);
  });
}

// The columns of a unit's slots, of which a lane has one at a time: h.
template <class T>
class SlotScores {
 public:
  const EdgeSoftmaxCudaParams<T>& p;
  const SegmentUnit& unit;
  const Group& group;
  int64_t h = 0;

  __device__ __forceinline__
  SlotScores(const EdgeSoftmaxCudaParams<T>& p_, const SegmentUnit& unit_, const Group& group_)
      : p(p_), unit(unit_), group(group_), walk_(group_, unit_) {}

  // The segment's part of the scores; the same steps are taken by a group without a segment.
  __device__ __forceinline__ void set_column(int64_t h_) {
    h = h_;
    near_ = unit.segment >= 0 && p.u != nullptr ? value(p.u + unit.segment * p.n.H + h) : Acc<T>(0);
  }

  // Calls fn(u_h + v_h, row) for the slots that hold an edge, in order; without u the first is 0.
  template <class F>
  __device__ __forceinline__ void each(const F& fn) {
    const auto read = [&](uint32_t at) { return read_ids(p.graph, p.n.g, p.n.rows, unit, at); };
    walk_(read, [&](const SlotIds& ids, int j) {
      int32_t other[kAtOnce], row[kAtOnce];
      take_round(other, ids.other, j, group);
      take_round(row, ids.row, j, group);
      T far[kAtOnce] = {};
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        if (p.u != nullptr && other[u] >= 0) {
          far[u] = *row_at(p.v + h, other[u], p.row_bytes);
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        if (other[u] >= 0) {
          fn(p.u == nullptr ? Acc<T>(0) : near_ + static_cast<Acc<T>>(far[u]), row[u]);
        }
      }
    });
  }

 private:
  SlotWalk<SlotIds, kAtOnce> walk_;
  Acc<T> near_ = 0;
};

template <class T>
__device__ __forceinline__ void store_shares(SlotScores<T>& scores, bool mine, const Total<Acc<T>>& total) {
  const EdgeSoftmaxCudaParams<T>& p = scores.p;
  T* const out = p.out + scores.h;
  scores.each([&](Acc<T> sum, int32_t row) {
    if (mine) {
      *row_at(out, row, p.row_bytes) = static_cast<T>(power(p.bend.of(sum) - total.most) / total.sum);
    }
  });
}

// A group has one unit (common/segments.cuh), a lane one of its columns, adjacent lanes adjacent columns; each
// lane reads and checks the ids of one slot, and hands them round. The slots are passed three times: for the largest
// score, for the sum, and to write; what is read comes from the caches after the first. Of a piece the total alone is
// kept. Safe: one writer per element; all lanes of a warp pass every shuffle, because the walks are as long as the
// warp's longest unit, and a warp has pieces alone or whole segments alone.
template <class T>
__global__ void __launch_bounds__(kSegmentThreads, 3)
    softmax_of_slots_kernel(const __grid_constant__ EdgeSoftmaxCudaParams<T> p) {
  const Group group = this_group(p.work);
  const SegmentUnit unit = find_unit_of(p, group);
  SlotScores<T> scores(p, unit, group);
  each_turn(p.work, group, p.n.H, [&](int64_t h, bool mine) {
    scores.set_column(h);
    Total<Acc<T>> total{kLeast<Acc<T>>, 0};
    scores.each([&](Acc<T> sum, int32_t) { total.most = larger(total.most, p.bend.of(sum)); });
    const bool piece = group.number < p.work.place_units;
    // A piece whose scores are all -infinity adds nothing to a segment that has others.
    const Acc<T> least = piece && total.most == kLeast<Acc<T>> ? Acc<T>(0) : total.most;
    scores.each([&](Acc<T> sum, int32_t) { total.sum += power(p.bend.of(sum) - least); });
    if (!piece) {
      store_shares(scores, mine, total);
    } else if (mine && unit.segment >= 0) {
      p.totals[unit.place * p.n.H + h] = total;
    }
  });
}

// The totals of long segments, joined (common/segments.cuh).
template <class T>
__global__ void __launch_bounds__(kJoinLanes* kJoinRows)
    join_totals_kernel(const __grid_constant__ EdgeSoftmaxCudaParams<T> p) {
  using Item = Total<Acc<T>>;
  join_pieces<Item>(
      p.work, p.n.H, Item{kLeast<Acc<T>>, 0}, [&](int64_t place, int64_t h) { return p.totals[place * p.n.H + h]; },
      [](const Item& a, const Item& b) {
        const Acc<T> most = larger(a.most, b.most);
        const Acc<T> least = most == kLeast<Acc<T>> ? Acc<T>(0) : most;
        return Item{most, a.sum * power(a.most - least) + b.sum * power(b.most - least)};
      },
      [&](int64_t /*segment*/, int64_t window, int64_t h, const Item& total) {
        p.totals[(2 * window + 1) * p.n.H + h] = total;
      });
}

// The shares of the slots of long segments, a group a piece. As softmax_of_slots_kernel.
template <class T>
__global__ void __launch_bounds__(kSegmentThreads, 3)
    softmax_of_pieces_kernel(const __grid_constant__ EdgeSoftmaxCudaParams<T> p) {
  const Group group = this_group(p.work);
  const SegmentUnit unit = known_piece(p.work, group);
  SlotScores<T> scores(p, unit, group);
  each_turn(p.work, group, p.n.H, [&](int64_t h, bool mine) {
    scores.set_column(h);
    Total<Acc<T>> total{0, 1};
    if (unit.segment >= 0) {
      total = p.totals[first_place(p.work, unit.segment) * p.n.H + h];
    }
    store_shares(scores, mine, total);
  });
}

// Calls fn(segment, ids) for the slots of this thread, of a unit every kSlotPacks-th, that hold an edge.
template <class T, class F>
__device__ __forceinline__ void each_slot(const EdgeSoftmaxCudaParams<T>& p, const F& fn) {
  const Group group = this_group(p.work);
  const SegmentUnit unit = find_unit_of(p, group);
  for (uint32_t at = group.lane; at < unit.count; at += group.lanes) {
    const SlotIds ids = read_ids(p.graph, p.n.g, p.n.rows, unit, at);
    if (ids.other >= 0) {
      fn(unit.segment, ids);
    }
  }
}

// A thread has whole slots. Safe: one writer a row.
template <class T>
__global__ void __launch_bounds__(kSegmentThreads)
    softmax_of_columns_kernel(const __grid_constant__ EdgeSoftmaxCudaParams<T> p) {
  each_slot(p, [&](int32_t s, const SlotIds& ids) {
    const T* const near = row_at(p.u, s, p.row_bytes);
    const T* const far = row_at(p.v, ids.other, p.row_bytes);
    T* const out = row_at(p.out, ids.row, p.row_bytes);
    const auto score = [&](int64_t h) { return p.bend.of(value(near + h) + value(far + h)); };
    Acc<T> most = kLeast<Acc<T>>;
    for (int64_t h = 0; h < p.n.H; ++h) {
      most = larger(most, score(h));
    }
    Acc<T> total = 0;
    for (int64_t h = 0; h < p.n.H; ++h) {
      total += power(score(h) - most);
    }
    for (int64_t h = 0; h < p.n.H; ++h) {
      out[h] = static_cast<T>(power(score(h) - most) / total);
    }
  });
}

// Column h of the derivative of a slot, whose scores are of u_h + v_h = `sum`.
template <class T>
__device__ __forceinline__ T
moved(const EdgeSoftmaxCudaParams<T>& p, Acc<T> sum, Acc<T> share, Acc<T> grad, Acc<T> total) {
  const Acc<T> of_score = share * (grad - total);
  return static_cast<T>(p.u == nullptr ? of_score : p.bend.of(sum, of_score));
}

template <class T>
__device__ __forceinline__ void store_moved(SlotScores<T>& scores, bool mine, Acc<T> total) {
  const EdgeSoftmaxCudaParams<T>& p = scores.p;
  scores.each([&](Acc<T> sum, int32_t row) {
    const Acc<T> share = value(row_at(p.p + scores.h, row, p.row_bytes));
    const Acc<T> grad = value(row_at(p.grad + scores.h, row, p.row_bytes));
    if (mine) {
      *row_at(p.out + scores.h, row, p.row_bytes) = moved(p, sum, share, grad, total);
    }
  });
}

// The backward pass of softmax_of_slots_kernel, with the same units.
template <class T>
__global__ void __launch_bounds__(kSegmentThreads, 3)
    backward_of_slots_kernel(const __grid_constant__ EdgeSoftmaxCudaParams<T> p) {
  const Group group = this_group(p.work);
  const SegmentUnit unit = find_unit_of(p, group);
  SlotScores<T> scores(p, unit, group);
  each_turn(p.work, group, p.n.H, [&](int64_t h, bool mine) {
    scores.set_column(h);
    Acc<T> total = 0;
    scores.each([&](Acc<T>, int32_t row) {
      const Acc<T> share = value(row_at(p.p + h, row, p.row_bytes));
      total = fused(share, value(row_at(p.grad + h, row, p.row_bytes)), total);
    });
    if (group.number >= p.work.place_units) {
      store_moved(scores, mine, total);
    } else if (mine && unit.segment >= 0) {
      p.totals[unit.place * p.n.H + h] = {0, total};
    }
  });
}

template <class T>
__global__ void __launch_bounds__(kJoinLanes* kJoinRows)
    join_backward_kernel(const __grid_constant__ EdgeSoftmaxCudaParams<T> p) {
  join_pieces<Acc<T>>(
      p.work, p.n.H, Acc<T>(0), [&](int64_t place, int64_t h) { return p.totals[place * p.n.H + h].sum; },
      [](Acc<T> a, Acc<T> b) { return a + b; },
      [&](int64_t /*segment*/, int64_t window, int64_t h, Acc<T> total) {
        p.totals[(2 * window + 1) * p.n.H + h] = {0, total};
      });
}

// The backward pass of softmax_of_pieces_kernel.
template <class T>
__global__ void __launch_bounds__(kSegmentThreads, 3)
    backward_of_pieces_kernel(const __grid_constant__ EdgeSoftmaxCudaParams<T> p) {
  const Group group = this_group(p.work);
  const SegmentUnit unit = known_piece(p.work, group);
  SlotScores<T> scores(p, unit, group);
  each_turn(p.work, group, p.n.H, [&](int64_t h, bool mine) {
    scores.set_column(h);
    store_moved(
        scores, mine, unit.segment < 0 ? Acc<T>(0) : p.totals[first_place(p.work, unit.segment) * p.n.H + h].sum);
  });
}

// The backward pass of softmax_of_columns_kernel.
template <class T>
__global__ void __launch_bounds__(kSegmentThreads)
    backward_of_columns_kernel(const __grid_constant__ EdgeSoftmaxCudaParams<T> p) {
  each_slot(p, [&](int32_t s, const SlotIds& ids) {
    const T* const shares = row_at(p.p, ids.row, p.row_bytes);
    const T* const grads = row_at(p.grad, ids.row, p.row_bytes);
    T* const out = row_at(p.out, ids.row, p.row_bytes);
    Acc<T> total = 0;
    for (int64_t h = 0; h < p.n.H; ++h) {
      total = fused(value(shares + h), value(grads + h), total);
    }
    for (int64_t h = 0; h < p.n.H; ++h) {
      Acc<T> sum = 0;
      if (p.u != nullptr) {
        sum = value(row_at(p.u + h, s, p.row_bytes)) + value(row_at(p.v + h, ids.other, p.row_bytes));
      }
      out[h] = moved(p, sum, value(shares + h), value(grads + h), total);
    }
  });
}

// The kernels of one direction.
template <class T>
struct SoftmaxKernels {
  void (*of_slots)(EdgeSoftmaxCudaParams<T>);
  void (*join)(EdgeSoftmaxCudaParams<T>);
  void (*of_pieces)(EdgeSoftmaxCudaParams<T>);
  void (*of_columns)(EdgeSoftmaxCudaParams<T>);
};

template <class T>
void launch(
    const char* op, EdgeSoftmaxCudaParams<T> p, bool over_features, SegmentMemory& memory, const DeviceScope& scope,
    const SoftmaxKernels<T>& kernels) {
  if (p.n.g.S * p.n.H == 0) {
    return;
  }
  const int64_t packs = over_features ? kSlotPacks : p.n.H;
  p.work = share_segments(op, p.n.g, p.graph.ptr, packs, memory);
  if (over_features) {
    start_kernel(all_units(p.work, packs), scope, kernels.of_columns, p);
    return;
  }
  p.totals = reinterpret_cast<Total<Acc<T>>*>(memory.take<Acc<T>>(2 * p.work.places * p.n.H));
  start_kernel(all_units(p.work, packs), scope, kernels.of_slots, p);
  if (p.work.places > 0) {
    start_kernel(join_shape<Total<Acc<T>>>(p.work, p.n.H), scope, kernels.join, p);
    start_kernel(piece_units(p.work, packs), scope, kernels.of_pieces, p);
  }
}

}  // namespace

Tensor edge_softmax_cuda(
    const Tensor& u, const Tensor& v, double slope, bool over_features, int64_t rows, const std::vector<Tensor>& graph,
    int64_t tables) {
  const char* op = "edge_softmax";
  check_shape(op, "v", v, "[O, H]", {-1, -1});
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeSoftmaxSizes n = check_edge_softmax(op, u, u, v, v.size(0), rows, read);
  check_row_numbers(op, n.g.O, n.rows, n.H * u.element_size());
  const DeviceScope scope(u);
  const GraphTensors held(read);
  const Tensor near = dense(u), far = dense(v);
  const Tensor out = torch::stable::new_zeros(u, {rows, n.H});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const EdgeSoftmaxParams<T> p{
        .n = n,
        .graph = held.pointers(),
        .u = const_data<T>(near),
        .v = const_data<T>(far),
        .out = mutable_data<T>(out)};
    launch<T>(
        op, {p, slope}, over_features, memory, scope,
        {softmax_of_slots_kernel<T>, join_totals_kernel<T>, softmax_of_pieces_kernel<T>, softmax_of_columns_kernel<T>});
  });
  return out;
}

Tensor edge_softmax_backward_cuda(
    const Tensor& grad, const Tensor& p, const std::optional<Tensor>& u, const std::optional<Tensor>& v, double slope,
    bool over_features, int64_t others, const std::vector<Tensor>& graph, int64_t tables) {
  const char* op = "edge_softmax_backward";
  check_shape(op, "p", p, "[E, H]", {-1, -1});
  const GraphTables read = read_tables(op, graph, tables);
  const EdgeSoftmaxSizes n = check_edge_softmax(op, p, u, v, others, p.size(0), read);
  check_edge_rows(op, n, grad, p);
  check_row_numbers(op, v.has_value() ? n.g.O : 0, n.rows, n.H * p.element_size());
  const DeviceScope scope(p);
  const GraphTensors held(read);
  const std::optional<Tensor> near = dense(u), far = dense(v);
  const Tensor shares = dense(p), upstream = dense(grad);
  const Tensor out = torch::stable::new_zeros(p, {n.rows, n.H});
  SegmentMemory memory(out);
  dispatch_floating(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const EdgeSoftmaxParams<T> params{
        .n = n,
        .graph = held.pointers(),
        .u = const_data<T>(near),
        .v = const_data<T>(far),
        .p = const_data<T>(shares),
        .grad = const_data<T>(upstream),
        .out = mutable_data<T>(out)};
    launch<T>(
        op, {params, slope}, over_features, memory, scope,
        {backward_of_slots_kernel<T>, join_backward_kernel<T>, backward_of_pieces_kernel<T>,
         backward_of_columns_kernel<T>});
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CUDA, m) {
  m.impl("edge_softmax", TORCH_BOX(&polygraph::edge_softmax_cuda));
  m.impl("edge_softmax_backward", TORCH_BOX(&polygraph::edge_softmax_backward_cuda));
}

// Edge-conditioned convolution in lanes on the CPU: float32 and float64; half types are widened by the callers.
#include <vector>

#include "common/arena.h"
#include "common/simd.h"
#include "ecc_lane/ecc_lane.h"

namespace polygraph {
namespace {

template <class T>
struct LaneParams {
  LaneSizes n;
  GraphPointers graph;
  const T* phi = nullptr;    // [E', H], with a layer [E', F]; null: from nodes
  const T* layer = nullptr;  // [H, F], null: phi is as it is
  const T* shift = nullptr;  // [H]
  const T* near = nullptr;   // [S, H]
  const T* far = nullptr;    // [O, H]
  T slope;
  const T* x = nullptr;     // [O, C]
  const T* grad = nullptr;  // [S, D]
  const T* W = nullptr;     // of steps w_h, w_c, w_d
  int64_t w_h = 0, w_c = 0, w_d = 0;
  const T* bias = nullptr;  // [C, D] or null
  T* out = nullptr;         // [S, D]
  T* y = nullptr;           // [E', C] or null
  T* a = nullptr;           // [P, H] or null
  T* f = nullptr;           // [P, f_step] or null
  int64_t f_step = 0;
};

// Per-group scratch: matrices with the lanes of the group last.
template <class T>
struct LaneGroup {
  int64_t first;   // segment
  int64_t depth;   // slots of a segment
  int64_t* slots;  // [most, group]
  T* phi;          // [most, H, group]
  T* x;            // [most, C, group]
  T* out;          // [D, group]
  T* a;            // [most, H, group], backward only
  T* y;            // [most, C, group], backward only
};

// A product of a group with shared factors: to [rows, group] from right [outer, depth, group].
template <class T>
struct LanePlace {
  T* to;
  const T* right;
};

// Per-thread scratch.
template <class T>
struct LaneScratch {
  int64_t groups;    // that go through the weights together
  int64_t channels;  // of z at a time
  LaneGroup<T>* group;
  LanePlace<T>* place;  // [groups or most]
  T* z;                 // [groups, channels, H, group]
  T* features;          // [most, F, group]
  T* sums;              // [C or H, group]
  T* zeros;             // as long as the longest row
};

template <class T>
struct WeightParams {
  GraphPointers graph;
  int64_t first, last;  // segments
  int64_t H, C, D;
  int64_t f_step;  // from row to row of f, whose rows are as long as whole vectors
  const T* f;      // [P, f_step]
  const T* x;      // [O, C]
  const T* grad;   // [S, D]
  T* to;           // [C, D, H]
};

#define POLYGRAPH_KERNEL_FILE "ecc_lane/ecc_lane_kernel.inc"
#include "common/each_isa.inc"

constexpr int64_t kCacheBytes = 400 << 10;  // of the groups that go through the weights together
constexpr int64_t kSharedBytes = 4 << 20;   // where the weights are too large for any cache
constexpr int64_t kNearBytes = 40 << 10;    // of z, of one group

template <class T>
int64_t lanes() {
  return 2 * vector_bytes() / static_cast<int64_t>(sizeof(T));
}

// How many groups go through the weights together: their scratch stays in the L2, but for larger weights, which take
// longer to read, there are more groups.
template <class T>
int64_t groups_together(const LaneSizes& n, bool backward, int64_t groups) {
  const int64_t size = static_cast<int64_t>(sizeof(T));
  const int64_t each = lanes<T>() * size * (n.most * (n.H + n.C) * (backward ? 2 : 1) + n.D) + 1;
  const int64_t weights = n.H * n.C * n.D * size;
  const int64_t budget = std::clamp(weights / 16, kCacheBytes, kSharedBytes);
  const int64_t most = std::clamp<int64_t>(budget / each, 1, std::max<int64_t>(1, groups));
  const int64_t passes = ceil_div(groups, most);
  return passes == 0 ? 1 : ceil_div(groups, passes);
}

// For a thread that has `tasks` groups.
template <class T>
Scratchpad<LaneScratch<T>> lane_scratch(const LaneSizes& n, bool backward, int64_t tasks) {
  const int64_t groups = groups_together<T>(n, backward, tasks);
  const auto layout = [=](Arena& arena) -> LaneScratch<T> {
    const int64_t G = lanes<T>();
    const int64_t z_bytes = n.H * G * static_cast<int64_t>(sizeof(T));  // of a channel
    const int64_t channels = std::clamp<int64_t>(kNearBytes / std::max<int64_t>(1, z_bytes), 1, 4);
    auto* group = arena.take<LaneGroup<T>>(groups);
    for (int64_t g = 0; g < groups; ++g) {
      const LaneGroup<T> one{
          .first = 0,
          .depth = 0,
          .slots = arena.take<int64_t>(n.most * G),
          .phi = arena.take<T>(n.most * n.H * G),
          .x = arena.take<T>(n.most * n.C * G),
          .out = arena.take<T>(n.D * G),
          .a = arena.take<T>(backward ? n.most * n.H * G : 0),
          .y = arena.take<T>(backward ? n.most * n.C * G : 0)};
      if (group != nullptr) {
        group[g] = one;
      }
    }
    return {
        .groups = groups,
        .channels = channels,
        .group = group,
        .place = arena.take<LanePlace<T>>(std::max(groups, n.most)),
        .z = arena.take<T>(groups * channels * n.H * G),
        .features = arena.take<T>(n.most * n.F * G),
        .sums = arena.take<T>(std::max(n.C, n.H) * G),
        .zeros = arena.take<T>(std::max({n.C, n.D, n.F, n.H}))};
  };
  return Scratchpad<LaneScratch<T>>(layout, ArenaFill::zeros);
}

template <class T>
int64_t number_of_groups(const LaneSizes& n) {
  return ceil_div(n.last - n.first, lanes<T>());
}

int64_t work_per_segment(const LaneSizes& n) {
  return (n.C * n.D + n.most * (n.C + n.F)) * (n.H + 1);
}

template <class T>
void ecc_lane_cpu(const LaneParams<T>& p) {
  parallel_tasks(number_of_groups<T>(p.n), lanes<T>() * work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    const Scratchpad<LaneScratch<T>> scratch = lane_scratch<T>(p.n, false, end - begin);
    POLYGRAPH_SIMD_CALL(ecc_lane<T>(p, scratch.view(), begin, end));
  });
}

template <class T>
void ecc_lane_backward_cpu(const LaneParams<T>& p) {
  parallel_tasks(number_of_groups<T>(p.n), lanes<T>() * work_per_segment(p.n), [&](int64_t begin, int64_t end) {
    const Scratchpad<LaneScratch<T>> scratch = lane_scratch<T>(p.n, true, end - begin);
    POLYGRAPH_SIMD_CALL(ecc_lane_backward<T>(p, scratch.view(), begin, end));
  });
}

constexpr int64_t kWeightBlock = 4;     // of channels, and of columns of g, as in the kernel
constexpr int64_t kWeightColumns = 64;  // hidden features of any instruction set at a time, at most

template <class T>
void ecc_lane_weight_cpu(const WeightParams<T>& p) {
  const int64_t segments = p.last - p.first;
  const int64_t blocks = ceil_div(p.C, kWeightBlock);
  std::vector<T> g(static_cast<size_t>((p.D + kWeightBlock) * segments));
  POLYGRAPH_SIMD_CALL(pack_grad<T>(p, g.data()));
  parallel_tasks(blocks, kWeightBlock * segments * p.H * p.D, [&](int64_t begin, int64_t end) {
    std::vector<T> z(static_cast<size_t>(kWeightBlock * segments * kWeightColumns));
    POLYGRAPH_SIMD_CALL(ecc_lane_weight<T>(p, g.data(), z.data(), begin, end));
  });
}

template <class T>
T* result(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<T*>(tensor->mutable_data_ptr()) : nullptr;
}

void set_most(LaneSizes& n, const GraphPointers& graph) {
  for (int64_t s = n.first; s < n.last; ++s) {
    n.most = std::max(n.most, graph.ptr[s + 1] - graph.ptr[s]);
  }
}

void check_weight(
    const char* op, const LaneSizes& n, const Tensor& x, const Tensor& W, const std::optional<Tensor>& bias) {
  check_dtype(op, "weight", W, x.scalar_type());
  check_shape(op, "weight", W, "[H, C, D]", {n.H, n.C, n.D});
  if (bias.has_value()) {
    check_dtype(op, "bias", *bias, x.scalar_type());
    check_shape(op, "bias", *bias, "[C, D]", {n.C, n.D});
  }
}

void check_result(
    const char* op, const char* name, const Tensor& x, const std::optional<Tensor>& out, int64_t rows,
    int64_t columns) {
  if (out.has_value()) {
    check_dtype(op, name, *out, x.scalar_type());
    check_shape(op, name, *out, "of a result", {rows, columns});
    POLYGRAPH_CHECK(out->is_contiguous(), op, ": ", name, " must be contiguous");
  }
}

// Contiguous tensors, for as long as a kernel runs.
struct LaneTensors {
  LaneHidden hidden;
  Tensor x;
  std::optional<Tensor> grad = std::nullopt, bias = std::nullopt;
  Tensor W;
  GraphTensors graph;

  template <class T>
  LaneParams<T> params(const LaneSizes& n, double slope) const {
    return {
        .n = n,
        .graph = graph.pointers(),
        .phi = const_data<T>(hidden.phi),
        .layer = const_data<T>(hidden.layer),
        .shift = const_data<T>(hidden.shift),
        .near = const_data<T>(hidden.near),
        .far = const_data<T>(hidden.far),
        .slope = static_cast<T>(slope),
        .x = const_data<T>(x),
        .grad = const_data<T>(grad),
        .W = const_data<T>(W),
        .w_h = W.stride(0),
        .w_c = W.stride(1),
        .w_d = W.stride(2),
        .bias = const_data<T>(bias)};
  }
};

LaneHidden ready(const LaneHidden& t) {
  return {
      .phi = dense(t.phi),
      .near = dense(t.near),
      .far = dense(t.far),
      .layer = dense(t.layer),
      .shift = dense(t.shift)};
}

// The argument `segments`: the first and the one after the last.
std::pair<int64_t, int64_t> ends_of(const char* op, const std::vector<int64_t>& segments) {
  POLYGRAPH_CHECK(segments.size() == 2, op, ": segments are the first and the end, got ", segments.size(), " of them");
  return {segments[0], segments[1]};
}

}  // namespace

void ecc_lane_cpu(
    const std::vector<Tensor>& phi, double slope, const Tensor& x, const Tensor& weight,
    const std::optional<Tensor>& bias, const std::vector<Tensor>& graph, int64_t tables, Tensor out) {
  const char* op = "ecc_lane_";
  check_shape(op, "weight", weight, "[H, C, D]", {-1, -1, -1});
  const GraphTables read = read_tables(op, graph, tables);
  const LaneHidden given = read_hidden(op, phi);
  const int64_t segments = read.ptr.dim() == 1 ? read.ptr.size(0) - 1 : 0;
  LaneSizes n = check_ecc_lane(op, x, given, weight.size(0), weight.size(2), 0, segments, read);
  check_weight(op, n, x, weight, bias);
  check_result(op, "out", x, out, segments, n.D);
  const LaneTensors t{
      .hidden = ready(given), .x = dense(x), .bias = dense(bias), .W = weight, .graph = GraphTensors(read)};
  check_graph_values(op, n.g, t.graph.pointers(), n.rows);
  set_most(n, t.graph.pointers());
  dispatch_wide(x, [&](auto zero) {
    using T = decltype(zero);
    LaneParams<T> p = t.params<T>(n, slope);
    p.out = result<T>(out);
    ecc_lane_cpu(p);
  });
}

void ecc_lane_backward_cpu(
    const std::vector<Tensor>& phi, double slope, const Tensor& x, const Tensor& grad, const Tensor& weight,
    const std::optional<Tensor>& bias, const std::vector<int64_t>& segments, const std::vector<Tensor>& graph,
    int64_t tables, std::optional<Tensor> y, std::optional<Tensor> a, std::optional<Tensor> f) {
  const char* op = "ecc_lane_backward_";
  check_shape(op, "weight", weight, "[H, C, D]", {-1, -1, -1});
  const GraphTables read = read_tables(op, graph, tables);
  const LaneHidden given = read_hidden(op, phi);
  const auto [first, last] = ends_of(op, segments);
  LaneSizes n = check_ecc_lane(op, x, given, weight.size(0), weight.size(2), first, last, read);
  check_weight(op, n, x, weight, bias);
  check_dtype(op, "grad", grad, x.scalar_type());
  check_shape(op, "grad", grad, "[S, D]", {n.g.S, n.D});
  const LaneTensors t{
      .hidden = ready(given),
      .x = dense(x),
      .grad = dense(grad),
      .bias = dense(bias),
      .W = weight,
      .graph = GraphTensors(read)};
  check_graph_values(op, n.g, t.graph.pointers(), n.rows, first, last);
  const int64_t* bounds = t.graph.pointers().ptr;
  check_result(op, "y", x, y, n.rows, n.C);
  check_result(op, "a", x, a, bounds[last] - bounds[first], n.H);
  check_result(op, "f", x, f, bounds[last] - bounds[first], f.has_value() ? f->size(1) : 0);
  POLYGRAPH_CHECK(!f.has_value() || f->size(1) >= n.H, op, ": f must have at least H columns");
  set_most(n, t.graph.pointers());
  dispatch_wide(x, [&](auto zero) {
    using T = decltype(zero);
    LaneParams<T> p = t.params<T>(n, slope);
    p.y = result<T>(y);
    p.a = result<T>(a);
    p.f = result<T>(f);
    p.f_step = f.has_value() ? f->size(1) : 0;
    ecc_lane_backward_cpu(p);
  });
}

void ecc_lane_weight_cpu(
    const Tensor& f, const Tensor& x, const Tensor& grad, const std::vector<int64_t>& segments,
    const std::vector<Tensor>& graph, int64_t tables, Tensor to) {
  const char* op = "ecc_lane_weight_";
  check_shape(op, "to", to, "[C, D, H]", {-1, -1, -1});
  GraphTables read = read_tables(op, graph, tables);
  read.edge = std::nullopt;  // slots are counted here, not rows
  const auto [first, last] = ends_of(op, segments);
  const LaneSizes n = check_ecc_lane(op, x, {}, to.size(2), to.size(1), first, last, read);
  check_dtype(op, "to", to, x.scalar_type());
  check_shape(op, "to", to, "[C, D, H]", {n.C, n.D, n.H});
  POLYGRAPH_CHECK(to.is_contiguous(), op, ": to must be contiguous");
  check_dtype(op, "grad", grad, x.scalar_type());
  check_shape(op, "grad", grad, "[S, D]", {n.g.S, n.D});
  check_dtype(op, "f", f, x.scalar_type());
  const GraphTensors held(read);
  check_graph_values(op, n.g, held.pointers(), n.rows, first, last);
  const int64_t* bounds = held.pointers().ptr;
  check_shape(op, "f", f, "[P, at least H in whole vectors]", {bounds[last] - bounds[first], -1});
  const int64_t lanes = vector_bytes() / (x.scalar_type() == ScalarType::Double ? 8 : 4);
  POLYGRAPH_CHECK(
      f.size(1) >= round_up(n.H, lanes), op, ": f must have at least H = ", n.H, " columns, in whole vectors, got ",
      f.size(1));
  const Tensor values = dense(f), features = dense(x), upstream = dense(grad);
  dispatch_wide(x, [&](auto zero) {
    using T = decltype(zero);
    ecc_lane_weight_cpu(
        WeightParams<T>{
            .graph = held.pointers(),
            .first = n.first,
            .last = n.last,
            .H = n.H,
            .C = n.C,
            .D = n.D,
            .f_step = values.size(1),
            .f = const_data<T>(values),
            .x = const_data<T>(features),
            .grad = const_data<T>(upstream),
            .to = mutable_data<T>(to)});
  });
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("ecc_lane_", TORCH_BOX(&polygraph::ecc_lane_cpu));
  m.impl("ecc_lane_weight_", TORCH_BOX(&polygraph::ecc_lane_weight_cpu));
  m.impl("ecc_lane_backward_", TORCH_BOX(&polygraph::ecc_lane_backward_cpu));
}

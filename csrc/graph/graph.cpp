// Graphs from lists of edges, and seen from the other side, on the CPU: counting sorts.
#include "graph/graph.h"

#include "common/counting_sort.h"

namespace polygraph {
namespace {

// Whether an entry lies outside [0, size); the first such.
bool first_outside(const int64_t* values, int64_t count, int64_t size, int64_t* entry) {
  if (all_within(values, count, 0, size)) {
    return false;
  }
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] < 0 || values[i] >= size) {
      *entry = values[i];
      return true;
    }
  }
  return false;
}

// Whether target [E], entries in [0, M), never falls; if so, ptr [M+1].
bool pointer_of_sorted(const int64_t* target, int64_t E, int64_t M, int64_t* ptr) {
  std::atomic<bool> rises{true};
  parallel_tasks(E, 2, [&](int64_t begin, int64_t end) {
    int64_t before = begin == 0 ? -1 : target[begin - 1];
    for (int64_t i = begin; i < end; ++i) {
      if (target[i] < before) {
        rises = false;
        return;
      }
      for (; before < target[i]; ++before) {
        ptr[before + 1] = i;
      }
    }
  });
  for (int64_t s = E == 0 ? 0 : target[E - 1] + 1; s <= M; ++s) {
    ptr[s] = E;
  }
  return rises;
}

}  // namespace

std::tuple<Tensor, Tensor> scan_coo_cpu(
    const Tensor& source, const Tensor& target, int64_t num_sources, int64_t num_targets) {
  const char* op = "scan_coo";
  check_ends(op, source, target);
  check_count(op, "num_sources", num_sources);
  check_count(op, "num_targets", num_targets);
  const Tensor from = dense(source);
  const Tensor to = dense(target);
  const int64_t E = from.size(0);
  Tensor ptr = torch::stable::new_empty(to, {num_targets + 1});
  Tensor found = torch::stable::new_empty(to, {3});
  int64_t* say = mutable_data<int64_t>(found);
  say[0] = 0;
  say[1] = -1;
  say[2] = 0;
  if (first_outside(const_data<int64_t>(from), E, num_sources, say + 2)) {
    say[1] = 0;
  } else if (first_outside(const_data<int64_t>(to), E, num_targets, say + 2)) {
    say[1] = 1;
  } else {
    say[0] = pointer_of_sorted(const_data<int64_t>(to), E, num_targets, mutable_data<int64_t>(ptr)) ? 1 : 0;
  }
  return {ptr, found};
}

std::tuple<Tensor, Tensor, Tensor> sort_coo_cpu(
    const Tensor& source, const Tensor& target, int64_t num_targets, bool with_edge) {
  check_sort_coo(source, target, num_targets);
  const Tensor from = dense(source);
  const Tensor to = dense(target);
  const int64_t E = from.size(0);
  check_within("sort_coo", "target", const_data<int64_t>(to), E, 0, num_targets);
  Tensor ptr = torch::stable::new_empty(to, {num_targets + 1});
  Tensor sorted = torch::stable::new_empty(to, {E});
  Tensor edge = torch::stable::new_empty(to, {with_edge ? E : 0});
  const int64_t* sources = const_data<int64_t>(from);
  const int64_t* targets = const_data<int64_t>(to);
  int64_t* to_sorted = mutable_data<int64_t>(sorted);
  int64_t* to_edge = with_edge ? mutable_data<int64_t>(edge) : nullptr;
  const auto place = [&](int64_t /*begin*/) {
    return [=](int64_t i, int64_t at) {
      to_sorted[at] = sources[i];
      if (to_edge != nullptr) {
        to_edge[at] = i;
      }
    };
  };
  counting_sort(E, num_targets, [=](int64_t i) { return targets[i]; }, mutable_data<int64_t>(ptr), place);
  mutable_data<int64_t>(ptr)[num_targets] = E;
  return {ptr, sorted, edge};
}

std::tuple<Tensor, Tensor> transpose_graph_cpu(const Tensor& ptr, const Tensor& other, int64_t others) {
  const GraphSizes n = check_transpose_graph(ptr, other, others);
  const GraphTensors graph({.ptr = ptr, .other = other});
  check_graph_values("transpose_graph", n, graph.pointers(), n.E);
  Tensor t_ptr = torch::stable::new_empty(other, {others + 1});
  Tensor t_other = torch::stable::new_empty(other, {n.E});
  const int64_t* first = graph.pointers().ptr;
  const int64_t* nodes = graph.pointers().other;
  int64_t* to = mutable_data<int64_t>(t_other);
  const auto place = [&](int64_t begin) {
    int64_t s = std::upper_bound(first, first + n.S + 1, begin) - first - 1;
    return [=](int64_t i, int64_t at) mutable {
      for (; first[s + 1] <= i; ++s) {
      }
      to[at] = nodes[i] < 0 ? -1 : s;
    };
  };
  const auto key = [=](int64_t i) { return nodes[i] < 0 ? others : nodes[i]; };
  counting_sort(n.E, others + 1, key, mutable_data<int64_t>(t_ptr), place);
  mutable_data<int64_t>(t_ptr)[others] = n.E;
  return {t_ptr, t_other};
}

Tensor targets_of_cpu(const Tensor& ptr, int64_t slots) {
  const int64_t S = check_targets_of(ptr, slots);
  const Tensor pointers = dense(ptr);
  const int64_t* first = const_data<int64_t>(pointers);
  check_pointers("targets_of", first, S, slots);
  Tensor out = torch::stable::new_empty(pointers, {slots});
  int64_t* target = mutable_data<int64_t>(out);
  parallel_tasks(slots, 1, [&](int64_t begin, int64_t end) {
    int64_t s = std::upper_bound(first, first + S + 1, begin) - first - 1;
    for (int64_t i = begin; i < end; ++s) {
      for (const int64_t last = std::min(end, first[s + 1]); i < last; ++i) {
        target[i] = s;
      }
    }
  });
  return out;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def("scan_coo(Tensor source, Tensor target, SymInt num_sources, SymInt num_targets) -> (Tensor ptr, Tensor found)");
  m.def(
      "sort_coo(Tensor source, Tensor target, SymInt num_targets, bool with_edge) -> "
      "(Tensor ptr, Tensor source_, Tensor edge)");
  m.def("targets_of(Tensor ptr, SymInt slots) -> Tensor");
  m.def("transpose_graph(Tensor ptr, Tensor other, SymInt others) -> (Tensor t_ptr, Tensor t_other)");
}

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("scan_coo", TORCH_BOX(&polygraph::scan_coo_cpu));
  m.impl("sort_coo", TORCH_BOX(&polygraph::sort_coo_cpu));
  m.impl("targets_of", TORCH_BOX(&polygraph::targets_of_cpu));
  m.impl("transpose_graph", TORCH_BOX(&polygraph::transpose_graph_cpu));
}

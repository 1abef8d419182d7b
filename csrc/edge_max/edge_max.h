// The largest neighbor of every segment, channel by channel.
//
//   edge_max           value[s, d] = v[o*, d] for the slot t* of s whose sign[d] * v[o, d] is largest
//                      arg[s, d]   = t*
//                      sum[s, d]   = sum over the slots of s of v[o, d]                   (only if with_sum)
//   edge_max_backward  out[o, d]   = sum over the slots t of o with arg[target[t], d] = t of grad[target[t], d]
//   edge_take          out[s, d]   = v[other[arg[s, d]], d]
//
// sign [D] > 0 (or absent) takes the maximum, < 0 the minimum. Among equals the first slot wins, and NaN wins over
// numbers. A segment without edges has value 0 and arg -1. v [O, D], arg [S, D] int32.
// Given arg the value is linear in v: edge_max_backward and edge_take are each other's adjoints, so derivatives of
// every order are these two. On the CPU edge_max_backward scatters, a thread owning channels; on CUDA it gathers along
// the transposed graph (target, t_ptr, t_slot), which the CPU does not read. Both add in the order of the slots (of
// lists longer than 256, on CUDA, in pieces), so results repeat bit for bit.
#pragma once

#include "common/graph.h"

namespace polygraph {

struct EdgeMaxSizes {
  GraphSizes g;
  int64_t D;
};

template <class T>
struct EdgeMaxParams {
  EdgeMaxSizes n;
  GraphPointers graph;
  const T* v = nullptr;     // [O, D]
  const T* sign = nullptr;  // [D], null: maximum
  T* value = nullptr;       // [S, D]
  int32_t* arg = nullptr;   // [S, D]
  T* sum = nullptr;         // [S, D], null: not wanted
};

// Of edge_max_backward and edge_take, which go by the slots that edge_max chose.
template <class T>
struct EdgeArgParams {
  EdgeMaxSizes n;
  const T* from = nullptr;          // grad [S, D] or v [O, D]
  const int32_t* arg = nullptr;     // [S, D]
  const int64_t* other = nullptr;   // [E]; edge_max_backward on CUDA has the following three in its place
  const int64_t* target = nullptr;  // [E]
  const int64_t* t_ptr = nullptr;   // [O+1]
  const int64_t* t_slot = nullptr;  // [E]
  T* out = nullptr;                 // [O, D] or [S, D]
};

inline EdgeMaxSizes check_edge_max(
    const Tensor& v, const std::optional<Tensor>& sign, const Tensor& ptr, const Tensor& other) {
  const char* op = "edge_max";
  check_floating(op, "v", v);
  check_shape(op, "v", v, "[N, D]", {-1, -1});
  const EdgeMaxSizes n{.g = check_graph(op, v, v.size(0), {.ptr = ptr, .other = other}), .D = v.size(1)};
  if (sign.has_value()) {
    check_dtype(op, "sign", *sign, v.scalar_type());
    check_shape(op, "sign", *sign, "[D]", {n.D});
    check_device(op, "sign", *sign, v);
  }
  return n;
}

inline EdgeMaxSizes check_edge_max_args(const char* op, const Tensor& arg, const Tensor& other, const Tensor& like) {
  check_dtype(op, "arg", arg, ScalarType::Int);
  check_shape(op, "arg", arg, "[M, D]", {-1, -1});
  check_device(op, "arg", arg, like);
  check_dtype(op, "other", other, ScalarType::Long);
  check_shape(op, "other", other, "[E]", {-1});
  check_device(op, "other", other, like);
  return {.g = {.S = arg.size(0), .O = 0, .E = other.size(0)}, .D = arg.size(1)};
}

inline EdgeMaxSizes check_edge_max_backward(
    const Tensor& grad, const Tensor& arg, int64_t others, const Tensor& other, const std::optional<Tensor>& target,
    const std::optional<Tensor>& t_ptr, const std::optional<Tensor>& t_slot) {
  const char* op = "edge_max_backward";
  EdgeMaxSizes n = check_edge_max_args(op, arg, other, grad);
  check_floating(op, "grad", grad);
  check_shape(op, "grad", grad, "[M, D]", {n.g.S, n.D});
  check_count(op, "others", others);
  n.g.O = others;
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor, const char* meaning, int64_t size) {
    if (tensor.has_value()) {
      check_dtype(op, name, *tensor, ScalarType::Long);
      check_shape(op, name, *tensor, meaning, {size});
      check_device(op, name, *tensor, grad);
    }
  };
  check("target", target, "[E]", n.g.E);
  check("t_ptr", t_ptr, "[N+1]", others + 1);
  check("t_slot", t_slot, "[E]", n.g.E);
  return n;
}

inline EdgeMaxSizes check_edge_take(const Tensor& v, const Tensor& arg, const Tensor& other) {
  EdgeMaxSizes n = check_edge_max_args("edge_take", arg, other, v);
  check_floating("edge_take", "v", v);
  check_shape("edge_take", "v", v, "[N, D]", {-1, n.D});
  n.g.O = v.size(0);
  return n;
}

}  // namespace polygraph

// The CPU kernels of edge_product for one thread, and their scratch: edge_product_cpu.cpp compiles them, ecc_tile calls
// them for a few segments at a time.
#pragma once

#include <algorithm>

#include "common/arena.h"
#include "edge_product/edge_product.h"

namespace polygraph {

constexpr int kTileRows = 6;    // of a product, kept in registers
constexpr int64_t kSlots = 32;  // packed at a time; a multiple of every vector

// Elements of the widest vector.
template <class T>
constexpr int64_t kWidestVector = 64 / static_cast<int64_t>(sizeof(T));

// Per-thread scratch. Rows are as long as whole vectors, and there are as many as fill whole tiles; what lies past the
// ends is zero from the start or never stored.
template <class T>
struct ProductScratch {
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

// A row that ends where the memory does, at `end`, copied to a longer buffer; what follows it there is ignored.
template <class T>
__attribute__((noinline, cold)) const T* copied_row(const T* from, const T* end, T* buffer) {
  std::copy(from, end, buffer);
  return buffer;
}

// `inner`: for edge_inner as well.
template <class T>
ProductScratch<T> product_scratch(Arena& arena, const EdgeProductSizes& n, bool inner) {
  const int64_t x_step = round_up(n.C, 2 * kWidestVector<T>);
  const int64_t phi_step = round_up(n.hidden(), kTileRows) + kTileRows;
  return {
      .rows = {},
      .others = {},
      .count = 0,
      .phi_step = phi_step,
      .x_step = x_step,
      .phi = arena.take<T>((kSlots + kTileRows) * phi_step),
      .x = arena.take<T>(std::max(kSlots * x_step, n.C * kSlots)),
      .row = arena.take<T>(x_step),
      .G = arena.take<T>(inner ? (n.hidden() + kTileRows) * x_step : 0),
      .product = arena.take<T>(inner ? std::max(n.hidden() * kSlots, kSlots * x_step) : 0)};
}

// Segments first + [begin, end) of out, of float32 and float64.
template <class T>
void edge_outer_segments(const EdgeProductParams<T>& p, const ProductScratch<T>& scratch, int64_t begin, int64_t end);

// The rows of a and y of the slots of segments first + [begin, end), of float32 and float64.
template <class T>
void edge_inner_segments(const EdgeProductParams<T>& p, const ProductScratch<T>& scratch, int64_t begin, int64_t end);

inline int64_t work_per_segment(const EdgeProductSizes& n) {
  return (n.g.E / std::max<int64_t>(1, n.g.S) + 1) * n.hidden() * n.C;
}

}  // namespace polygraph

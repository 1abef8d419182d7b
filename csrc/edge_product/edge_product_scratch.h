// Per-thread scratch of the CPU kernels of edge_product, which those of ecc_tile have within.
#pragma once

#include <algorithm>
#include <vector>

#include "edge_product/edge_product.h"

namespace polygraph {

constexpr int kTileRows = 6;    // of a product, kept in registers
constexpr int64_t kSlots = 32;  // packed at a time; a multiple of every vector

inline int64_t round_up(int64_t size, int64_t step) {
  return (size + step - 1) / step * step;
}

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

template <class T>
class ScratchMemory {
 public:
  ScratchMemory(const EdgeProductSizes& n, bool inner) {
    constexpr int64_t kLanes = 64 / static_cast<int64_t>(sizeof(T));  // of the widest vector, two of which are read
    view.x_step = round_up(n.C, 2 * kLanes);
    view.phi_step = round_up(n.hidden(), kTileRows) + kTileRows;
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

  ProductScratch<T> view{};

 private:
  std::vector<T> memory;
};

inline int64_t work_per_segment(const EdgeProductSizes& n) {
  return (n.g.E / std::max<int64_t>(1, n.g.S) + 1) * n.hidden() * n.C;
}

}  // namespace polygraph

// Per-thread scratch: many buffers in one allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "common/rounding.h"

namespace polygraph {

// Hands out buffers one after the other, each aligned to a cache line, which is also the widest vector. Without memory
// it only counts the bytes, and every buffer is null.
class Arena {
 public:
  explicit Arena(std::byte* memory = nullptr) : memory_(memory) {}

  // An uninitialised buffer of `count` elements.
  template <class U>
  U* take(int64_t count) {
    std::byte* const buffer = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += round_up(static_cast<size_t>(count) * sizeof(U), kAlign);
    return reinterpret_cast<U*>(buffer);
  }

  size_t used() const {
    return used_;
  }

  static constexpr size_t kAlign = 64;

 private:
  std::byte* memory_;
  size_t used_ = 0;
};

enum class ArenaFill { uninitialised, zeros };

// The buffers of one thread as a struct of pointers, `View`, which layout(Arena&) makes. The layout runs twice: once to
// count the bytes, once to hand them out. Zeros touch every page, uninitialised memory only those that are used.
template <class View>
class Scratchpad {
 public:
  template <class Layout>
  explicit Scratchpad(const Layout& layout, ArenaFill fill = ArenaFill::uninitialised) {
    Arena count;
    layout(count);
    size_t bytes = count.used() + Arena::kAlign;
    memory_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
    void* aligned = memory_.get();
    std::align(Arena::kAlign, count.used(), aligned, bytes);
    if (fill == ArenaFill::zeros) {
      std::memset(aligned, 0, count.used());
    }
    Arena arena(static_cast<std::byte*>(aligned));
    view_ = layout(arena);
  }

  const View& view() const {
    return view_;
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  View view_{};
};

}  // namespace polygraph

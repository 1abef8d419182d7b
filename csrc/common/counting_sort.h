// A stable counting sort on the CPU, shared by threads.
#pragma once

#include <utility>
#include <vector>

#include "common/parallel.h"

namespace polygraph {

// Parts of the list are counted and then placed side by side. A part needs one count for each key, so there are no more
// parts than pay for that.
inline int64_t sorted_parts(int64_t count, int64_t keys) {
  const int64_t threads = torch::stable::get_num_threads();
  return std::max<int64_t>(1, std::min(threads, count / std::max<int64_t>(2 * keys, int64_t(1) << 14)));
}

template <class Count, class Key, class Place>
void counting_sort_of(int64_t count, int64_t keys, const Key& key, int64_t* ptr, const Place& place) {
  const int64_t parts = sorted_parts(count, keys);
  std::vector<Count> places(static_cast<size_t>(parts * keys), 0);  // [parts, keys]: counts, then first positions
  const auto for_parts = [&](const auto& fn) {
    torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        fn(places.data() + part * keys, count * part / parts, count * (part + 1) / parts);
      }
    });
  };
  for_parts([&](Count* counts, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      ++counts[key(i)];
    }
  });
  Count next = 0;
  for (int64_t k = 0; k < keys; ++k) {
    ptr[k] = next;
    for (int64_t part = 0; part < parts; ++part) {
      next += std::exchange(places[static_cast<size_t>(part * keys + k)], next);
    }
  }
  for_parts([&](Count* next, int64_t begin, int64_t end) {
    auto put = place(begin);
    for (int64_t i = begin; i < end; ++i) {
      put(i, static_cast<int64_t>(next[key(i)]++));
    }
  });
}

// Items [0, count) by key(i) in [0, keys): ptr [keys] gets the first position of each key, and place(begin) makes a
// function that is called with (i, its position) for rising i from `begin` on. 32-bit counts stay in the L2 for twice
// as many keys.
template <class Key, class Place>
void counting_sort(int64_t count, int64_t keys, const Key& key, int64_t* ptr, const Place& place) {
  if (count < (int64_t(1) << 31)) {
    counting_sort_of<int32_t>(count, keys, key, ptr, place);
  } else {
    counting_sort_of<int64_t>(count, keys, key, ptr, place);
  }
}

}  // namespace polygraph

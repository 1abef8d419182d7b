// The sorted list of one query, and how a warp merges candidates into it, one a lane.
//
// Few candidates are merged one after the other, about 26 instructions each. More are sorted in registers, by a bitonic
// network of 15 exchanges, and merged by another of 5 to 10 for every 32 entries, however many candidates there are.
#pragma once

#include "knn/knn_distance.cuh"

namespace polygraph {

// In shared memory, sorted; entries that hold nothing yet are (inf, kNoPoint), which every point comes before, also one
// whose distance overflowed.
template <class A>
struct KnnList {
  A* dist;
  int* number;
};

template <class A>
__device__ __forceinline__ KnnList<A> clear_list(const KnnList<A>& list, int64_t size, int first, int step) {
  for (int64_t i = first; i < size; i += step) {
    list.dist[i] = infinity<A>();
    list.number[i] = kNoPoint;
  }
  return list;
}

// Of its entry and that of lane ^ stride, a lane keeps the one that comes first, or the other.
template <class A>
__device__ __forceinline__ void exchange_entries(A& d, int& number, int stride, bool keeps_first) {
  const A other = __shfl_xor_sync(kFullWarp, d, stride);
  const int other_number = __shfl_xor_sync(kFullWarp, number, stride);
  const bool takes = comes_before(other, other_number, d, number) == keeps_first;
  d = takes ? other : d;
  number = takes ? other_number : number;
}

// Sorts the entries of a warp that rise and then fall, or the reverse.
template <class A>
__device__ __forceinline__ void sort_bitonic(A& d, int& number, bool ascending) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int stride = 16; stride > 0; stride /= 2) {
    exchange_entries(d, number, stride, ((lane & stride) == 0) == ascending);
  }
}

// Sorts the entries of a warp.
template <class A>
__device__ __forceinline__ void sort_lanes(A& d, int& number, bool ascending) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int run = 2; run < 32; run *= 2) {
#pragma unroll
    for (int stride = run / 2; stride > 0; stride /= 2) {
      exchange_entries(d, number, stride, ((lane & stride) == 0) == ((lane & run) == 0));
    }
  }
  sort_bitonic(d, number, ascending);
}

// Merges the candidates of a warp, sorted descending, into the list of `length` <= 32 * kSlots entries: of 32 entries
// and 32 candidates the first 32 stay, and the others are the candidates for the next 32 entries. A lane reads and
// writes its own entries. All threads of the warp call; no other warp knows the list.
template <int kSlots, class A>
__device__ __forceinline__ void merge_descending(const KnnList<A>& list, int length, A d, int number) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    if (s > 0 && s * 32 >= length) {
      break;
    }
    const int slot = s * 32 + lane;
    A entry = slot < length ? list.dist[slot] : infinity<A>();
    int entry_number = slot < length ? list.number[slot] : kNoPoint;
    const bool enters = comes_before(d, number, entry, entry_number);
    const A moved = enters ? entry : d;
    const int moved_number = enters ? entry_number : number;
    entry = enters ? d : entry;
    entry_number = enters ? number : entry_number;
    sort_bitonic(entry, entry_number, true);
    if (slot < length) {
      list.dist[slot] = entry;
      list.number[slot] = entry_number;
    }
    if (s + 1 < kSlots) {
      d = moved;
      number = moved_number;
      sort_bitonic(d, number, false);
    }
  }
  __syncwarp();
}

// Sorts a list in place: 32 entries after the other leave it and are merged into those before them.
template <int kSlots, class A>
__device__ __forceinline__ void sort_list(const KnnList<A>& list, int length) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
  for (int first = 0; first < length; first += 32) {
    const int slot = first + lane;
    A d = infinity<A>();
    int number = kNoPoint;
    if (slot < length) {
      d = list.dist[slot];
      number = list.number[slot];
      list.dist[slot] = infinity<A>();
      list.number[slot] = kNoPoint;
    }
    sort_lanes(d, number, false);
    merge_descending<kSlots>(list, min(first + 32, length), d, number);
  }
}

// Merges the candidates of the lanes in `mask` (the same in all lanes). Every entry and candidate counts those that
// come before it, which is its position: no step waits for another, and all entries are read before any is written.
template <int kSlots, class A>
__device__ __forceinline__ void merge_few(const KnnList<A>& list, int length, A d, int number, unsigned mask) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool candidate = (mask >> lane & 1) != 0;
  A entry[kSlots];
  int entry_number[kSlots];
  int entry_place[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int slot = s * 32 + lane;
    entry[s] = slot < length ? list.dist[slot] : infinity<A>();
    entry_number[s] = slot < length ? list.number[slot] : kNoPoint;
    entry_place[s] = slot;
  }
  int place = 0;
#pragma unroll 1
  for (; mask != 0; mask &= mask - 1) {
    const int source = __ffs(static_cast<int>(mask)) - 1;
    const A other = __shfl_sync(kFullWarp, d, source);
    const int other_number = __shfl_sync(kFullWarp, number, source);
    int before = 0;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const bool moves = comes_before(other, other_number, entry[s], entry_number[s]);
      entry_place[s] += moves ? 1 : 0;
      before += __popc(__ballot_sync(kFullWarp, !moves));
    }
    place += lane == source ? before : (comes_before(other, other_number, d, number) ? 1 : 0);
  }
  __syncwarp();
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    if (s * 32 + lane < length && entry_place[s] < length) {
      list.dist[entry_place[s]] = entry[s];
      list.number[entry_place[s]] = entry_number[s];
    }
  }
  if (candidate && place < length) {
    list.dist[place] = d;
    list.number[place] = number;
  }
  __syncwarp();
}

constexpr int kFewCandidates = 6;  // of about equal cost either way

// Merges the candidates of the lanes in `mask`, not 0 and the same in all lanes; the other lanes hold (inf, kNoPoint)
// or what belongs after the last entry. Numbers are distinct, and none is listed. All threads of the warp call; no
// other warp knows the list.
template <int kSlots, class A>
__device__ __forceinline__ void merge_candidates(const KnnList<A>& list, int length, A d, int number, unsigned mask) {
  if (__popc(mask) <= kFewCandidates) {
    merge_few<kSlots>(list, length, d, number, mask);
  } else {
    sort_lanes(d, number, false);
    merge_descending<kSlots>(list, length, d, number);
  }
}

}  // namespace polygraph

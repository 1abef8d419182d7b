// Segments of graphs, shared among lanes: long segments are cut into pieces, whose results are joined in order.
//
// A group is 4 to 32 neighboring lanes of a warp, a power of two; its lanes lie along the channels. It has one unit of
// work: a segment, or a piece of a long one. A thread adds in the order of the positions, and pieces are joined in
// their order. So the order of a sum depends on the segment's length alone: not on the lanes, nor on the
// width of loads.
//
// A segment of more than kPieceSlots positions is long. Its pieces start kPieceSlots apart, the first where it starts.
// A window is kPieceSlots positions from a multiple of kPieceSlots on. Within window w at most one long segment starts
// (the place 2 w + 1 belongs to its first piece), and at most one piece of a segment that started before (place 2 w).
// So the number of places depends on the number of slots alone; which segment a place serves is searched in ptr by the
// group that works on it, and the host counts and copies nothing.
#pragma once

#include <vector>

#include "common/graph.cuh"

namespace polygraph {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffU;
constexpr int kSegmentThreads = 256;
constexpr uint32_t kPieceSlots = 256;
constexpr int kFewestLanes = 4;

template <class A>
constexpr A kLeast = -std::numeric_limits<A>::infinity();

// How the units of a launch lie among its threads.
struct SegmentWork {
  const int64_t* ptr;      // [S+1]
  int32_t* piece_segment;  // [places]: the long segment that a place serves, or -1
  uint32_t segments;       // S
  uint32_t places;         // of pieces; 0: no segment can be long
  uint32_t place_units;    // places, rounded up to whole warps
  uint32_t lanes_log2;     // of a group
  uint32_t packs;          // that a group takes of a row at a time, at most one for each of its lanes
};

// What a group works on.
struct SegmentUnit {
  int32_t segment;        // -1: nothing
  uint32_t first, count;  // its positions
  int32_t place;          // of a piece; -1: the segment is whole
};

struct Group {
  uint32_t lane;  // of this thread in its group
  uint32_t lanes;
  int64_t number;  // of the group in the launch's x dimension
};

__device__ __forceinline__ Group this_group(const SegmentWork& work) {
  const uint32_t lanes = 1U << work.lanes_log2;
  return {threadIdx.x & (lanes - 1), lanes, first_item() >> work.lanes_log2};
}

// The number of segments that start before `bound`. Each lane of a group reads one entry, and the search continues
// between two of them; all groups of a warp take the same number of steps. Where ptr does not rise the result means
// nothing, but lies in [0, S].
__device__ __forceinline__ uint32_t segments_before(const SegmentWork& work, const Group& group, int64_t bound) {
  const uint32_t shift = (threadIdx.x % kWarp) & ~(group.lanes - 1);
  const uint32_t mask = group.lanes == kWarp ? kAllLanes : (1U << group.lanes) - 1;
  uint32_t found = 0;
  for (uint32_t span = work.segments; span > 0;) {
    const uint32_t step = (span + group.lanes - 1) >> work.lanes_log2;
    const uint32_t at = found + (group.lane + 1) * step - 1;
    const bool before = at < work.segments && work.ptr[at] < bound;
    found += step * static_cast<uint32_t>(__popc((__ballot_sync(kAllLanes, before) >> shift) & mask));
    span = step - 1;
  }
  return found;
}

// Piece `place` of a long segment whose positions are [first, last); nothing if the place is not one of its pieces'.
__device__ __forceinline__ SegmentUnit
piece_at(uint32_t place, int32_t segment, const int64_t first, const int64_t last) {
  const int64_t window = static_cast<int64_t>(place / 2) * kPieceSlots;
  const bool starts_here = place % 2 == 1;
  SegmentUnit unit{-1, 0, 0, static_cast<int32_t>(place)};
  if (last - first <= kPieceSlots || starts_here != (first >= window)) {
    return unit;
  }
  const int64_t begin =
      starts_here ? first : first + (window - first + kPieceSlots - 1) / kPieceSlots * int64_t(kPieceSlots);
  if (begin < last) {
    unit.segment = segment;
    unit.first = static_cast<uint32_t>(begin);
    unit.count = static_cast<uint32_t>(min(last - begin, static_cast<int64_t>(kPieceSlots)));
  }
  return unit;
}

// The unit of a group: places come first, so that the longest work starts first. All lanes of a warp must call it. A
// warp has groups with places, or groups with segments.
template <class CheckSegment>
__device__ __forceinline__ SegmentUnit
find_unit(const SegmentWork& work, const Group& group, const CheckSegment& check) {
  if (group.number < work.place_units) {
    const uint32_t place = static_cast<uint32_t>(group.number);
    const int64_t bound = (static_cast<int64_t>(place / 2) + place % 2) * kPieceSlots;
    const uint32_t starts = segments_before(work, group, bound);
    SegmentUnit unit{-1, 0, 0, -1};
    if (place >= work.places) {
      return unit;
    }
    if (starts > 0) {
      const int64_t first = work.ptr[starts - 1], last = work.ptr[starts];
      check(first, last);
      unit = piece_at(place, static_cast<int32_t>(starts - 1), first, last);
    }
    if (group.lane == 0 && blockIdx.y == 0) {
      work.piece_segment[place] = unit.segment;
    }
    return unit;
  }
  const int64_t s = group.number - work.place_units;
  SegmentUnit unit{-1, 0, 0, -1};
  if (s < work.segments) {
    const int64_t first = work.ptr[s], last = work.ptr[s + 1];
    check(first, last);
    if (last - first <= kPieceSlots) {
      unit = {static_cast<int32_t>(s), static_cast<uint32_t>(first), static_cast<uint32_t>(last - first), -1};
    }
  }
  return unit;
}

// The unit of a group in a launch over the places alone, after one that has filled piece_segment.
__device__ __forceinline__ SegmentUnit known_piece(const SegmentWork& work, const Group& group) {
  const int32_t s = group.number < work.places ? work.piece_segment[group.number] : -1;
  if (s < 0) {
    return {-1, 0, 0, -1};
  }
  return piece_at(static_cast<uint32_t>(group.number), s, work.ptr[s], work.ptr[s + 1]);
}

// The place of a long segment's first piece.
__device__ __forceinline__ int64_t first_place(const SegmentWork& work, int32_t segment) {
  return 2 * (work.ptr[segment] / kPieceSlots) + 1;
}

// The most positions that a group of this warp has.
__device__ __forceinline__ uint32_t longest_of_warp(const Group& group, uint32_t count) {
  for (uint32_t half = kWarp / 2; half >= group.lanes; half /= 2) {
    count = max(count, __shfl_xor_sync(kAllLanes, count, static_cast<int>(half)));
  }
  return count;
}

// One position as a lane hands it to the others: the other node, or -1 where there is no edge, and the row of edge
// features. Only the low 31 bits of a node are kept: launches see to it that rows of nodes have no more.
struct SlotIds {
  int32_t other, row;
};

// Reads and checks a position of a graph.
__device__ __forceinline__ SlotIds
read_ids(const GraphPointers& graph, const GraphSizes& n, int64_t rows, const SegmentUnit& unit, uint32_t at) {
  if (at >= unit.count) {
    return {-1, 0};
  }
  const GraphSlot found = read_slot(graph, n, rows, unit.first + at);
  return {found.other < 0 ? -1 : static_cast<int32_t>(found.other & 0x7fffffff), static_cast<int32_t>(found.row)};
}

// Walks through the positions of a warp's units: each lane of a group reads the ids of one position (`read(at)`), and
// `visit(ids, j)` has the lanes hand round those of the lanes j .. j + kAtOnce - 1, in the order of the positions: rows
// of kAtOnce slots can be on their way at once. All lanes of the warp take the same steps; past a unit's end ids say
// that there is no edge. They stay for the next walk if one read holds them all.
template <class Ids, int kAtOnce>
class SlotWalk {
 public:
  static_assert(kFewestLanes % kAtOnce == 0);

  __device__ __forceinline__ SlotWalk(const Group& group, const SegmentUnit& unit)
      : group_(group), longest_(longest_of_warp(group, unit.count)), ids_{}, held_(false) {}

  template <class Read, class Visit>
  __device__ __forceinline__ void operator()(const Read& read, const Visit& visit) {
    for (uint32_t base = 0; base < longest_; base += group_.lanes) {
      if (!held_ || longest_ > group_.lanes) {
        ids_ = read(base + group_.lane);
        held_ = true;
      }
      const uint32_t end = min(group_.lanes, longest_ - base);
#pragma unroll 1
      for (uint32_t j = 0; j < end; j += kAtOnce) {
        visit(ids_, static_cast<int>(j));
      }
    }
  }

 private:
  const Group& group_;
  uint32_t longest_;
  Ids ids_;
  bool held_;
};

// What the lanes j .. of a group hold.
template <class V, int kAtOnce>
__device__ __forceinline__ void take_round(V (&all)[kAtOnce], V mine, int j, const Group& group) {
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) {
    all[u] = __shfl_sync(kAllLanes, mine, j + u, static_cast<int>(group.lanes));
  }
}

// Calls fn(pack, mine) for the packs of a row that this lane has, one at a time. All lanes of a warp make the same
// calls: one without a pack gets one that another has, and is told that it is not its own.
template <class F>
__device__ __forceinline__ void each_turn(const SegmentWork& work, const Group& group, int64_t packs, const F& fn) {
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * work.packs; first < packs;
       first += static_cast<int64_t>(gridDim.y) * work.packs) {
    const bool mine = group.lane < work.packs && first + group.lane < packs;
    fn(mine ? first + group.lane : first, mine);
  }
}

// Row `row` of a table whose rows have `bytes` bytes: one product of 32 x 32 bits.
template <class T>
__device__ __forceinline__ T* row_at(T* base, int32_t row, uint32_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(
      reinterpret_cast<Byte*>(base) + static_cast<uint64_t>(static_cast<uint32_t>(row)) * bytes);
}

__device__ __forceinline__ float fused(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
__device__ __forceinline__ double fused(double a, double b, double c) {
  return __fma_rn(a, b, c);
}

// ---- host code ----

// What a launch writes and a later one reads: the list of pieces and their partial results.
class SegmentMemory {
 public:
  explicit SegmentMemory(const Tensor& like) : like_(like) {}

  // Uninitialised; lives as long as this object.
  template <class V>
  V* take(int64_t count) {
    if (count == 0) {
      return nullptr;
    }
    constexpr ScalarType type = std::is_same_v<V, int32_t>  ? ScalarType::Int
                                : std::is_same_v<V, double> ? ScalarType::Double
                                                            : ScalarType::Float;
    taken_.push_back(torch::stable::new_empty(like_, {count}, type));
    return mutable_data<V>(taken_.back());
  }

 private:
  const Tensor& like_;
  std::vector<Tensor> taken_;
};

// The work of a graph whose rows have `packs` packs.
inline SegmentWork share_segments(
    const char* op, const GraphSizes& n, const int64_t* ptr, int64_t packs, SegmentMemory& memory) {
  POLYGRAPH_CHECK(n.S < (int64_t(1) << 31), op, ": a graph may have at most 2^31 - 1 segments on CUDA, got ", n.S);
  const int64_t turns = std::max<int64_t>(1, ceil_div(packs, kWarp));
  SegmentWork work{};
  work.ptr = ptr;
  work.segments = static_cast<uint32_t>(n.S);
  work.packs = static_cast<uint32_t>(ceil_div(packs, turns));
  while ((1U << work.lanes_log2) < std::max<uint32_t>(work.packs, kFewestLanes)) {
    ++work.lanes_log2;
  }
  if (n.E > kPieceSlots) {
    work.places = static_cast<uint32_t>(2 * ceil_div(n.E, kPieceSlots));
    work.place_units = static_cast<uint32_t>(ceil_div(work.places, kWarp / kFewestLanes) * (kWarp / kFewestLanes));
    work.piece_segment = memory.take<int32_t>(work.places);
  }
  return work;
}

// Rows are addressed by products of 32-bit numbers.
inline void check_row_numbers(const char* op, int64_t nodes, int64_t rows, int64_t row_bytes) {
  POLYGRAPH_CHECK(
      std::max(nodes, rows) <= (int64_t(1) << 31) && row_bytes < (int64_t(1) << 32), op,
      ": on CUDA there may be at most 2^31 rows of less than 2^32 bytes");
}

inline LaunchShape units_shape(const SegmentWork& work, int64_t units, int64_t packs) {
  return {
      ceil_div(units << work.lanes_log2, kSegmentThreads),
      std::min(std::max<int64_t>(1, ceil_div(packs, work.packs)), kMaxBlocksY), kSegmentThreads, 0};
}

// A launch over all units, and one over the places alone. blockIdx.y strides over the turns.
inline LaunchShape all_units(const SegmentWork& work, int64_t packs) {
  return units_shape(work, int64_t(work.place_units) + work.segments, packs);
}

inline LaunchShape piece_units(const SegmentWork& work, int64_t packs) {
  return units_shape(work, work.place_units, packs);
}

// ---- joining pieces ----

constexpr int kJoinLanes = 32;
constexpr int kJoinRows = 8;

// Joins the pieces of the long segment that starts in window blockIdx.x, channel by channel: `load(place, c)` gives the
// item of a piece, `join(a, b)` the item of two that follow each other, and `store(segment, window, c, item)` takes the
// result. A block has kJoinLanes neighboring channels (coalesced reads) times kJoinRows threads, each of which joins a
// run of pieces; the runs are joined in order through shared memory. `none` joins to nothing. Safe: each channel has
// one writer, and the block is done with shared memory before its next turn starts.
template <class Item, class Load, class Join, class Store>
__device__ __forceinline__ void join_pieces(
    const SegmentWork& work, int64_t channels, const Item& none, const Load& load, const Join& join,
    const Store& store) {
  Item* items = reinterpret_cast<Item*>(polygraph_shared_memory);  // [kJoinRows, kJoinLanes]
  const int64_t window = blockIdx.x;
  const int32_t segment = work.piece_segment[2 * window + 1];
  if (segment < 0) {
    return;
  }
  const int64_t pieces = (work.ptr[segment + 1] - work.ptr[segment] + kPieceSlots - 1) / kPieceSlots;
  const int lane = static_cast<int>(threadIdx.x) % kJoinLanes;
  const int row = static_cast<int>(threadIdx.x) / kJoinLanes;
  const int64_t run = (pieces + kJoinRows - 1) / kJoinRows;
  const int64_t end = min(pieces, (row + 1) * run);
  for (int64_t c0 = static_cast<int64_t>(blockIdx.y) * kJoinLanes; c0 < channels;
       c0 += static_cast<int64_t>(gridDim.y) * kJoinLanes) {
    const int64_t c = c0 + lane;
    Item item = none;
    if (c < channels) {
#pragma unroll 4
      for (int64_t piece = row * run; piece < end; ++piece) {
        item = join(item, load(2 * (window + piece) + (piece == 0 ? 1 : 0), c));
      }
    }
    items[row * kJoinLanes + lane] = item;
    __syncthreads();
    if (row == 0 && c < channels) {
      for (int r = 1; r < kJoinRows; ++r) {
        item = join(item, items[r * kJoinLanes + lane]);
      }
      store(segment, window, c, item);
    }
    __syncthreads();
  }
}

template <class Item>
LaunchShape join_shape(const SegmentWork& work, int64_t channels) {
  return {
      work.places / 2, std::min(ceil_div(channels, kJoinLanes), kMaxBlocksY), kJoinLanes * kJoinRows,
      kJoinLanes * kJoinRows * static_cast<int64_t>(sizeof(Item))};
}

template <class T>
struct JoinSumsParams {
  SegmentWork work;
  const Acc<T>* partial;  // [places, channels]
  T* out;                 // [S, channels]
  int64_t channels;
};

namespace {  // each source has its own copy: kernels are registered source by source

template <class T>
__global__ void __launch_bounds__(kJoinLanes* kJoinRows) join_sums_kernel(JoinSumsParams<T> p) {
  join_pieces<Acc<T>>(
      p.work, p.channels, Acc<T>(0), [&](int64_t place, int64_t c) { return p.partial[place * p.channels + c]; },
      [](Acc<T> a, Acc<T> b) { return a + b; },
      [&](int64_t segment, int64_t, int64_t c, Acc<T> sum) { p.out[segment * p.channels + c] = static_cast<T>(sum); });
}

}  // namespace

template <class T>
void launch_join_sums(const JoinSumsParams<T>& p, const DeviceScope& scope) {
  if (p.work.places == 0 || p.channels == 0) {
    return;
  }
  start_kernel(join_shape<Acc<T>>(p.work, p.channels), scope, join_sums_kernel<T>, p);
}

}  // namespace polygraph

// CPU search for the nearest codes: blocks of queries, for each of which threads take tiles of the bank one after the
// other. A thread keeps the nearest codes of the tiles it took for every query of the block; the lists are merged last.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <tuple>

#include "common/arena.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "hamming_knn/hamming_knn_tile.h"
#if POLYGRAPH_HAS_X86
#include <immintrin.h>
#endif

namespace polygraph {
namespace {

#define POLYGRAPH_KERNEL_FILE "hamming_knn/hamming_knn_kernel.inc"
#include "common/each_isa.inc"

#if POLYGRAPH_HAS_X86
POLYGRAPH_SIMD_BEGIN(("avx512f,avx512dq,avx512vl,avx512bw,avx512vpopcntdq,avx2,fma"))
namespace vector_popcount {
#define POLYGRAPH_VEC_BYTES 64
#define POLYGRAPH_VECTOR_POPCOUNT
#include "common/vec.inc"
#include "hamming_knn/hamming_knn_kernel.inc"
#undef POLYGRAPH_VECTOR_POPCOUNT
#undef POLYGRAPH_VEC_BYTES
}  // namespace vector_popcount
POLYGRAPH_SIMD_END
#endif

constexpr int64_t kChunkBytes = 8 << 10;   // of a row in a tile: a query's are a quarter of the first-level cache
constexpr int64_t kTileBytes = 256 << 10;  // of packed rows: a quarter of a second-level cache of 1 MiB
constexpr int64_t kMostTileRows = 256;
constexpr int64_t kMostQueries = 1024;     // of a block: the bank is read once for each block
constexpr int64_t kQueryBytes = 64 << 20;  // of a block, packed
constexpr int64_t kListBytes = 64 << 20;   // of all threads' lists

// Bytes [begin, begin + bytes) of the rows of one tensor, packed into `padded`.
struct Chunk {
  HammingKind kind;
  const uint8_t* x;
  const uint8_t* y;
  int64_t x_step, y_step;  // bytes from row to row
  int64_t bytes, padded;
  int64_t before;  // padded bytes of all chunks before it
};

// A code and its distance in one number, whose order is that of (distance, index).
using Key = uint64_t;
inline Key key_of(int32_t distance, int64_t index) {
  return static_cast<Key>(static_cast<uint32_t>(distance)) << 32 | static_cast<Key>(index);
}

void compute_distances(const HammingTile& tile) {
#if POLYGRAPH_HAS_X86
  static const bool counts_bits = __builtin_cpu_supports("avx512vpopcntdq");
  if (counts_bits && instruction_set() == InstructionSet::avx512) {
    return vector_popcount::add_distances(tile);
  }
#endif
  POLYGRAPH_SIMD_CALL(add_distances(tile));
}

// `count` rows of a chunk, one after the other, padded with zeros.
void pack(const uint8_t* from, int64_t step, int64_t count, const Chunk& chunk, uint8_t* to) {
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to + i * chunk.padded, from + i * step, static_cast<size_t>(chunk.bytes));
    std::memset(to + i * chunk.padded + chunk.bytes, 0, static_cast<size_t>(chunk.padded - chunk.bytes));
  }
}

// A tensor whose rows may lie apart, but not their entries.
Tensor with_dense_rows(const Tensor& tensor) {
  return tensor.size(1) < 2 || tensor.stride(1) == 1 ? tensor : dense(tensor);
}

int64_t element_bytes(HammingKind kind) {
  constexpr int64_t kBytes[] = {8, 1, 2, 4};
  return kBytes[static_cast<int64_t>(kind)];
}

std::vector<Chunk> chunks_of(const std::vector<Tensor>& x, const std::vector<Tensor>& y) {
  std::vector<Chunk> chunks;
  int64_t before = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const HammingKind kind = hamming_kind("x", x[i]);
    const int64_t element = element_bytes(kind);
    const int64_t row = x[i].size(1) * element;
    for (int64_t begin = 0; begin < row; begin += kChunkBytes) {
      const int64_t bytes = std::min(kChunkBytes, row - begin);
      const int64_t padded = round_up(bytes, kHammingPad);
      chunks.push_back(
          {.kind = kind,
           .x = const_data<uint8_t>(x[i]) + begin,
           .y = const_data<uint8_t>(y[i]) + begin,
           .x_step = x[i].stride(0) * element,
           .y_step = y[i].stride(0) * element,
           .bytes = bytes,
           .padded = padded,
           .before = before});
      before += padded;
    }
  }
  return chunks;
}

// What a thread keeps while it goes through tiles.
struct ThreadLists {
  uint8_t* rows;      // [tile_rows, widest chunk]
  int32_t* distance;  // [queries, tile_rows]
  Key* keys;          // [queries, capacity]: those below `limit` among the codes seen
  int64_t* count;     // [queries]
  Key* limit;         // [queries]: the k-th smallest at the last time the list was full
};

class HammingSearch {
 public:
  HammingSearch(const HammingSizes& n, std::vector<Chunk> chunks, int64_t* index, int64_t* distance)
      : n_(n), chunks_(std::move(chunks)), index_(index), distance_(distance) {
    int64_t row = kHammingPad;
    for (const Chunk& chunk : chunks_) {
      widest_ = std::max(widest_, chunk.padded);
      row = chunk.before + chunk.padded;
    }
    tile_rows_ = std::clamp<int64_t>(kTileBytes / widest_, 1, std::min(kMostTileRows, n.N));
    tiles_ = ceil_div(n.N, tile_rows_);
    capacity_ = std::min(2 * n.k + 64, n.N);
    threads_ = std::min<int64_t>(torch::stable::get_num_threads(), tiles_);
    const int64_t list = capacity_ * static_cast<int64_t>(sizeof(Key)) * threads_;
    queries_ = std::max<int64_t>(1, std::min({n.M, kMostQueries, kQueryBytes / row, kListBytes / list}));
    work_ = row / 8;
    packed_ = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(queries_ * row));
    for (int64_t thread = 0; thread < threads_; ++thread) {
      lists_.emplace_back([this](Arena& arena) -> ThreadLists {
        return {
            .rows = arena.take<uint8_t>(tile_rows_ * widest_),
            .distance = arena.take<int32_t>(queries_ * tile_rows_),
            .keys = arena.take<Key>(queries_ * capacity_),
            .count = arena.take<int64_t>(queries_),
            .limit = arena.take<Key>(queries_)};
      });
    }
  }

  void run() {
    for (int64_t begin = 0; begin < n_.M; begin += queries_) {
      const int64_t count = std::min(queries_, n_.M - begin);
      for (const Chunk& chunk : chunks_) {
        pack(chunk.y + begin * chunk.y_step, chunk.y_step, count, chunk, packed_.get() + chunk.before * count);
      }
      search_block(count);
      const int64_t work = threads_ * capacity_ * 8;
      parallel_tasks(count, work, [&](int64_t first, int64_t last) { merge(begin, first, last); });
    }
  }

 private:
  // Tiles in order: a thread sees rising indices, and none waits for another.
  void search_block(int64_t count) {
    for (const Scratchpad<ThreadLists>& lists : lists_) {
      std::fill_n(lists.view().count, count, 0);
      std::fill_n(lists.view().limit, count, ~Key(0));
    }
    std::atomic<int64_t> next{0};
    const int64_t work = count * tile_rows_ * work_ * ceil_div(tiles_, threads_);
    parallel_tasks(threads_, work, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) {
        for (int64_t tile = next++; tile < tiles_; tile = next++) {
          search_tile(tile * tile_rows_, count, lists_[static_cast<size_t>(thread)].view());
        }
      }
    });
  }

  void search_tile(int64_t first, int64_t count, const ThreadLists& lists) const {
    const int64_t rows = std::min(tile_rows_, n_.N - first);
    std::fill_n(lists.distance, count * rows, 0);
    for (const Chunk& chunk : chunks_) {
      pack(chunk.x + first * chunk.x_step, chunk.x_step, rows, chunk, lists.rows);
      compute_distances(
          {.kind = chunk.kind,
           .bytes = chunk.padded,
           .rows = lists.rows,
           .queries = packed_.get() + chunk.before * count,
           .count = rows,
           .query_count = count,
           .distance = lists.distance});
    }
    for (int64_t m = 0; m < count; ++m) {
      keep_nearest(lists.distance + m * rows, rows, first, m, lists);
    }
  }

  void keep_nearest(const int32_t* distance, int64_t rows, int64_t first, int64_t m, const ThreadLists& lists) const {
    Key* keys = lists.keys + m * capacity_;
    Key limit = lists.limit[m];
    int64_t count = lists.count[m];
    for (int64_t i = 0; i < rows; ++i) {
      const Key key = key_of(distance[i], first + i);
      if (key < limit) {
        keys[count++] = key;
        if (count == capacity_ && capacity_ > n_.k) {
          std::nth_element(keys, keys + n_.k - 1, keys + count);
          count = n_.k;
          limit = keys[count - 1];
        }
      }
    }
    lists.count[m] = count;
    lists.limit[m] = limit;
  }

  // The lists of all threads for queries [first, last) of the block that begins at `block`.
  void merge(int64_t block, int64_t first, int64_t last) const {
    std::vector<Key> keys(static_cast<size_t>(std::min(threads_ * capacity_, n_.N)));
    for (int64_t m = first; m < last; ++m) {
      Key* end = keys.data();
      for (const Scratchpad<ThreadLists>& lists : lists_) {
        const Key* from = lists.view().keys + m * capacity_;
        end = std::copy_n(from, lists.view().count[m], end);
      }
      std::nth_element(keys.data(), keys.data() + n_.k - 1, end);
      std::sort(keys.data(), keys.data() + n_.k);
      for (int64_t i = 0; i < n_.k; ++i) {
        const Key key = keys[static_cast<size_t>(i)];
        const int64_t place = (block + m) * n_.k + i;
        index_[place] = static_cast<int64_t>(key & 0xffffffff);
        distance_[place] = static_cast<int64_t>(key >> 32);
      }
    }
  }

  HammingSizes n_;
  std::vector<Chunk> chunks_;
  int64_t* index_;
  int64_t* distance_;
  int64_t widest_ = kHammingPad, tile_rows_, tiles_, capacity_, threads_, queries_, work_;
  std::unique_ptr<uint8_t[]> packed_;           // a block of queries: chunk after chunk, [queries, padded] each
  std::vector<Scratchpad<ThreadLists>> lists_;  // one per thread
};

}  // namespace

std::tuple<Tensor, Tensor> hamming_knn_cpu(const std::vector<Tensor> x, const std::vector<Tensor> y, int64_t k) {
  const HammingSizes n = check_hamming_knn(x, y, k);
  std::vector<Tensor> bank;
  std::vector<Tensor> queries;
  for (size_t i = 0; i < x.size(); ++i) {
    bank.push_back(with_dense_rows(x[i]));
    queries.push_back(with_dense_rows(y[i]));
  }
  Tensor index = torch::stable::new_empty(x[0], {n.M, k}, ScalarType::Long);
  Tensor distance = torch::stable::new_empty(x[0], {n.M, k}, ScalarType::Long);
  if (n.M > 0) {
    HammingSearch(n, chunks_of(bank, queries), mutable_data<int64_t>(index), mutable_data<int64_t>(distance)).run();
  }
  return {index, distance};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("hamming_knn", TORCH_BOX(&polygraph::hamming_knn_cpu));
}

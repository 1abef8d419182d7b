// CPU nearest neighbors: checks, and which way each sample goes. float32 and float64; half types are widened to float32
// first.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <tuple>

#include "knn/knn_plan.h"
#include "knn/knn_tree.h"
#if POLYGRAPH_HAS_X86
#include <immintrin.h>
#endif

namespace polygraph {
namespace {

#define POLYGRAPH_KERNEL_FILE "knn/knn_exact.inc"
#include "common/each_isa.inc"

// Refuses NaN and inf in tensor [B, N, C]: counts them and names the first.
template <class T>
void check_finite(const char* name, const Tensor& tensor) {
  const T* values = const_data<T>(tensor);
  const int64_t count = tensor.numel();
  constexpr int64_t kBlock = 4096;
  std::atomic<int64_t> bad{0};
  std::atomic<int64_t> first{count};
  parallel_tasks(ceil_div(count, kBlock), kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t stop = std::min(count, (block + 1) * kBlock);
      bool finite = false;
      POLYGRAPH_SIMD_CALL(all_finite<T>(values + block * kBlock, stop - block * kBlock, finite));
      for (int64_t i = block * kBlock; !finite && i < stop; ++i) {
        if (!std::isfinite(values[i])) {
          ++bad;
          int64_t known = first.load();
          while (i < known && !first.compare_exchange_weak(known, i)) {
          }
        }
      }
    }
  });
  const int64_t C = std::max<int64_t>(1, tensor.size(2));
  const int64_t rows = std::max<int64_t>(1, tensor.size(1));
  const int64_t at = first.load();
  POLYGRAPH_CHECK(
      bad.load() == 0, "knn: ", name, " must be finite, got ", bad.load(), " NaN or inf, the first at [", at / C / rows,
      ", ", at / C % rows, ", ", at % C, "]");
}

// The order of the ways; knn.h says why.
template <class T>
void knn_samples(const KnnBatch<T>& batch) {
  std::vector<int64_t> brute;
  std::vector<int64_t> trees;
  for (int64_t s = 0; s < batch.samples(); ++s) {
    if (batch.queries(s) == 0 || (wants_pairs(batch, s) && knn_pairs(batch, s))) {
      continue;
    }
    (wants_tree(batch, s) ? trees : brute).push_back(s);
  }
  knn_tree(batch, trees);
  if (!brute.empty()) {
    knn_brute(batch, brute);
  }
}

// Whether both are the same elements in memory.
bool same_tensor(const Tensor& x, const Tensor& y) {
  bool same = x.const_data_ptr() == y.const_data_ptr();
  for (int64_t i = 0; same && i < x.dim(); ++i) {
    same = x.size(i) == y.size(i) && x.stride(i) == y.stride(i);
  }
  return same;
}

}  // namespace

std::tuple<Tensor, Tensor> knn_cpu(
    const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_ptr, const std::optional<Tensor>& y_ptr, int64_t k,
    bool exclude_self, int64_t height, int64_t width, int64_t exclude_radius, int64_t search_radius) {
  const KnnSizes n = check_knn(x, y, x_ptr, y_ptr, k, exclude_self, height, width, exclude_radius, search_radius);
  const std::optional<Tensor> points_ptr = dense(x_ptr);
  const std::optional<Tensor> queries_ptr = dense(y_ptr);
  if (n.S >= 0) {
    check_knn_samples(n, const_data<int64_t>(*points_ptr), const_data<int64_t>(*queries_ptr));
  }
  const Tensor points = widened(dense(x));
  const Tensor queries = same_tensor(x, y) ? points : widened(dense(y));
  Tensor index = torch::stable::new_empty(points, {n.B, n.M, k}, ScalarType::Long);
  Tensor dist2 = torch::stable::new_empty(points, {n.B, n.M, k});
  dispatch_wide(points, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("x", points);
    if (const_data<T>(queries) != const_data<T>(points) || n.M != n.N) {
      check_finite<T>("y", queries);
    }
    knn_samples(
        KnnBatch<T>{KnnTensors<T>{
            .n = n,
            .x = const_data<T>(points),
            .y = const_data<T>(queries),
            .x_ptr = const_data<int64_t>(points_ptr),
            .y_ptr = const_data<int64_t>(queries_ptr),
            .index = mutable_data<int64_t>(index),
            .dist2 = mutable_data<T>(dist2)}});
  });
  return {index, dist2};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("knn", TORCH_BOX(&polygraph::knn_cpu));
}

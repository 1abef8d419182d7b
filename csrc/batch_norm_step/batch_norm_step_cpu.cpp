// CPU polynomial step with statistics of the batch: float32 and float64; half types are widened to float32 first.
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "batch_norm_step/batch_norm_step.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/simd.h"

namespace polygraph {
namespace {

// Dense rows [N, D]; null is what is not there.
template <class T>
struct StepRows {
  StepSizes n;
  const T* a;
  const T* s;
  const T* term;
};

template <class T>
struct StepForward {
  StepRows<T> rows;
  int64_t activation;
  const T* mean;   // [D]
  const T* scale;  // [D]: weight * rstd
  const T* shift;  // [D]: bias
  T* out;          // [N, D]
};

template <class T>
struct StepBackward {
  StepRows<T> rows;
  int64_t activation;
  const T* grad;            // [N, D]
  const T* out;             // [N, D]
  const T* mean;            // [D]
  const T* rstd;            // [D]
  const T* scale;           // [D]: weight * rstd
  const T* shift;           // [D]: bias
  const T* mean_with_term;  // [D]: mean of dn x
  const T* mean_alone;      // [D]: mean of dn
  T* grad_a;                // [N, D] or null
  T* grad_s;                // [N, D] or null
  T* grad_term;             // [N, D] or null
};

#define POLYGRAPH_KERNEL_FILE "batch_norm_step/batch_norm_step_kernel.inc"
#include "common/each_isa.inc"

// Rows of a task and of a partial sum: what stays in the cache while groups of channels pass over it.
int64_t block_rows(const StepSizes& n) {
  return std::clamp<int64_t>(4096 / std::max<int64_t>(1, n.D), 32, 256);
}

// Calls fn(begin, end, block) on blocks of rows.
template <class F>
void for_step_blocks(const StepSizes& n, const F& fn) {
  const int64_t rows = block_rows(n);
  parallel_tasks(ceil_div(n.N, rows), 2 * rows * n.D, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      fn(block * rows, std::min(n.N, (block + 1) * rows), block);
    }
  });
}

// Mean and sum of the squares of the differences from it, of the rows so far.
struct Moments {
  std::vector<double> mean, squares;
};

// Joins the blocks' partial sums [blocks, 3, D] in order.
template <class T>
Moments join_moments(const StepSizes& n, const std::vector<T>& partial) {
  const int64_t rows = block_rows(n);
  Moments found{std::vector<double>(n.D, 0.0), std::vector<double>(n.D, 0.0)};
  for (int64_t begin = 0, block = 0; begin < n.N; begin += rows, ++block) {
    const double count = static_cast<double>(std::min(rows, n.N - begin));
    const double per_row = 1.0 / count;
    const double share = count / (static_cast<double>(begin) + count);
    const double between = static_cast<double>(begin) * share;
    const T* first = partial.data() + block * 3 * n.D;
    for (int64_t d = 0; d < n.D; ++d) {
      const double sum = first[n.D + d];
      const double moved = static_cast<double>(first[d]) + sum * per_row - found.mean[d];
      found.mean[d] += moved * share;
      found.squares[d] += std::max(0.0, first[2 * n.D + d] - sum * sum * per_row) + moved * moved * between;
    }
  }
  return found;
}

// The moments of one channel, in double.
template <class T>
void recompute_moments(const StepRows<T>& p, int64_t d, Moments& found) {
  const auto term = [&](int64_t v) {
    const int64_t at = v * p.n.D + d;
    return static_cast<double>(p.n.form == StepForm::product ? p.a[at] * p.s[at] : p.term[at]);
  };
  double mean = 0.0;
  for (int64_t v = 0; v < p.n.N; ++v) {
    mean += term(v);
  }
  mean /= static_cast<double>(p.n.N);
  double squares = 0.0;
  for (int64_t v = 0; v < p.n.N; ++v) {
    squares += (term(v) - mean) * (term(v) - mean);
  }
  found.mean[d] = mean;
  found.squares[d] = squares;
}

template <class T>
Moments moments_of(const StepRows<T>& p, double eps) {
  const StepSizes& n = p.n;
  std::vector<T> partial(ceil_div(n.N, block_rows(n)) * 3 * n.D);
  for_step_blocks(n, [&](int64_t begin, int64_t end, int64_t block) {
    POLYGRAPH_SIMD_CALL(statistic_sums<T>(p, begin, end, partial.data() + block * 3 * n.D));
  });
  Moments found = join_moments(n, partial);
  if constexpr (std::is_same_v<T, float>) {
    // What of the squares of float32 underflows is nothing beside eps, unless that is as small.
    constexpr double kTiny = 1e-30;
    parallel_tasks(n.D, 1, [&](int64_t first, int64_t last) {
      for (int64_t d = first; d < last; ++d) {
        const double squares = found.squares[d];
        if (!std::isfinite(squares) || (eps < kTiny && squares < kTiny * static_cast<double>(n.N))) {
          recompute_moments(p, d, found);
        }
      }
    });
  }
  return found;
}

template <class T>
std::vector<T> filled(const std::optional<Tensor>& tensor, int64_t size, T otherwise) {
  std::vector<T> values(size, otherwise);
  if (tensor.has_value()) {
    std::copy_n(const_data<T>(*tensor), size, values.data());
  }
  return values;
}

struct StepInputs {
  Tensor a;
  std::optional<Tensor> s, term, weight, bias;
};

StepInputs prepared(
    const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& term,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias) {
  return {widened(dense(a)), widened(dense(s)), widened(dense(term)), widened(dense(weight)), widened(dense(bias))};
}

template <class T>
StepRows<T> rows_of(const StepSizes& n, const StepInputs& in) {
  return {n, const_data<T>(in.a), const_data<T>(in.s), const_data<T>(in.term)};
}

struct StepResults {
  Tensor out, mean, var, rstd;
};

template <class T>
void forward_cpu(const StepSizes& n, const StepInputs& in, double eps, int64_t activation, const StepResults& to) {
  const StepRows<T> rows = rows_of<T>(n, in);
  const Moments moments = moments_of(rows, eps);
  T* mean = mutable_data<T>(to.mean);
  T* var = mutable_data<T>(to.var);
  T* rstd = mutable_data<T>(to.rstd);
  std::vector<T> scale = filled<T>(in.weight, n.D, T(1));
  for (int64_t d = 0; d < n.D; ++d) {
    const double variance = moments.squares[d] / static_cast<double>(std::max<int64_t>(1, n.N));
    mean[d] = static_cast<T>(moments.mean[d]);
    var[d] = static_cast<T>(variance);
    rstd[d] = static_cast<T>(1.0 / std::sqrt(variance + eps));
    scale[d] *= rstd[d];
  }
  const std::vector<T> shift = filled<T>(in.bias, n.D, T(0));
  const StepForward<T> p{rows, activation, mean, scale.data(), shift.data(), mutable_data<T>(to.out)};
  for_step_blocks(
      n, [&](int64_t begin, int64_t end, int64_t /*block*/) { POLYGRAPH_SIMD_CALL(step_output<T>(p, begin, end)); });
}

struct StepGradientsTo {
  Tensor a, s, term, weight, bias;
};

template <class T>
T* data_or_null(const Tensor& tensor) {
  return tensor.numel() > 0 ? mutable_data<T>(tensor) : nullptr;
}

template <class T>
void backward_cpu(
    const StepSizes& n, const StepInputs& in, const Tensor& grad, const Tensor& out, const Tensor& mean,
    const Tensor& rstd, int64_t activation, const StepGradientsTo& to) {
  const T* r = const_data<T>(rstd);
  std::vector<T> scale = filled<T>(in.weight, n.D, T(1));
  for (int64_t d = 0; d < n.D; ++d) {
    scale[d] *= r[d];
  }
  const std::vector<T> shift = filled<T>(in.bias, n.D, T(0));
  std::vector<T> means(2 * n.D);
  const StepBackward<T> p{
      rows_of<T>(n, in),
      activation,
      const_data<T>(grad),
      const_data<T>(out),
      const_data<T>(mean),
      r,
      scale.data(),
      shift.data(),
      means.data(),
      means.data() + n.D,
      data_or_null<T>(to.a),
      data_or_null<T>(to.s),
      data_or_null<T>(to.term)};
  const int64_t blocks = ceil_div(n.N, block_rows(n));
  std::vector<T> partial(blocks * 2 * n.D);
  for_step_blocks(n, [&](int64_t begin, int64_t end, int64_t block) {
    POLYGRAPH_SIMD_CALL(step_gradient_sums<T>(p, begin, end, partial.data() + block * 2 * n.D));
  });
  std::vector<double> total(2 * n.D, 0.0);
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t i = 0; i < 2 * n.D; ++i) {
      total[i] += static_cast<double>(partial[block * 2 * n.D + i]);
    }
  }
  T* grad_weight = mutable_data<T>(to.weight);
  T* grad_bias = mutable_data<T>(to.bias);
  for (int64_t d = 0; d < n.D; ++d) {
    grad_weight[d] = static_cast<T>(total[d]);
    grad_bias[d] = static_cast<T>(total[n.D + d]);
    means[d] = static_cast<T>(total[d] / static_cast<double>(std::max<int64_t>(1, n.N)));
    means[n.D + d] = static_cast<T>(total[n.D + d] / static_cast<double>(std::max<int64_t>(1, n.N)));
  }
  for_step_blocks(
      n, [&](int64_t begin, int64_t end, int64_t /*block*/) { POLYGRAPH_SIMD_CALL(step_gradients<T>(p, begin, end)); });
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_step_cpu(
    const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& term,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps, int64_t activation) {
  const StepSizes n = check_batch_norm_step("batch_norm_step", a, s, term, weight, bias, eps, activation);
  const StepInputs in = prepared(a, s, term, weight, bias);
  const auto statistic = [&] { return torch::stable::new_empty(in.a, {n.D}); };
  const StepResults to{torch::stable::new_empty(in.a, {n.N, n.D}), statistic(), statistic(), statistic()};
  dispatch_wide(in.a, [&](auto zero) { forward_cpu<decltype(zero)>(n, in, eps, activation, to); });
  return {narrowed(to.out, a.scalar_type()), to.mean, to.var, to.rstd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_norm_step_backward_cpu(
    const Tensor& grad, const Tensor& a, const std::optional<Tensor>& s, const std::optional<Tensor>& term,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, const Tensor& out, const Tensor& mean,
    const Tensor& rstd, double eps, int64_t activation) {
  const StepSizes n = check_batch_norm_step_backward(grad, a, s, term, weight, bias, out, mean, rstd, eps, activation);
  const StepInputs in = prepared(a, s, term, weight, bias);
  const auto rows = [&](bool there) {
    return there ? torch::stable::new_empty(in.a, {n.N, n.D}) : torch::stable::new_empty(in.a, {0});
  };
  const StepGradientsTo to{
      rows(n.form != StepForm::sum || activation != kStepActivationNone), rows(n.form == StepForm::product),
      rows(n.form != StepForm::product), torch::stable::new_empty(in.a, {n.D}), torch::stable::new_empty(in.a, {n.D})};
  const Tensor upstream = widened(dense(grad));
  const Tensor result = widened(dense(out));
  dispatch_wide(in.a, [&](auto zero) {
    backward_cpu<decltype(zero)>(n, in, upstream, result, dense(mean), dense(rstd), activation, to);
  });
  const ScalarType type = a.scalar_type();
  return {
      narrowed(to.a, type), narrowed(to.s, type), narrowed(to.term, type), narrowed(to.weight, type),
      narrowed(to.bias, type)};
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_IMPL(polygraph, CPU, m) {
  m.impl("batch_norm_step", TORCH_BOX(&polygraph::batch_norm_step_cpu));
  m.impl("batch_norm_step_backward", TORCH_BOX(&polygraph::batch_norm_step_backward_cpu));
}

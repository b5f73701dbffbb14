// A row is read from memory once: maximum and sum of exponentials advance together over blocks that
// stay in the first-level cache, the sum being rescaled when the maximum grows.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/cross_entropy_kernels.h"
#include "ops/rows.h"
#include "ops/simd.h"
#include "ops/simd_math.h"

namespace weft {
namespace {

using simd::Accumulators;
using simd::for_each_vector;
using simd::load;
using simd::store;

constexpr int64_t kRowBlock = 2048;

/// Largest of `count` elements.
template <class T>
accumulator_t<T> block_max(const T* x, int64_t count) {
  using A = accumulator_t<T>;
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  simd::Vec<A> best[simd::kUnroll];
  for (auto& part : best) part = simd::broadcast(kLowest);
  const int64_t whole = count - count % simd::kLanes<A>;
  for_each_vector<A>(whole, [&](int64_t i, auto lanes, auto slot) {
    best[slot] = simd::max(load(x + i, lanes), best[slot]);
  });
  A result =
      simd::max_lanes<A>(simd::max(simd::max(best[0], best[1]), simd::max(best[2], best[3])));
  for (int64_t i = whole; i < count; ++i) result = std::max(result, static_cast<A>(x[i]));
  return result;
}

/// Maximum and sum of exponentials of what was seen of a row.
template <class A>
struct RunningSum {
  A max = -std::numeric_limits<A>::infinity();
  A sum = 0;

  /// Takes in a block whose maximum is `highest`; returns what to subtract from its elements.
  A advance(A highest) {
    const A before = max;
    max = std::max(max, highest);
    // A row that is -infinity so far: any finite shift leaves its exponentials 0.
    if (max == -std::numeric_limits<A>::infinity()) return 0;
    if (sum != 0) sum *= std::exp(before - max);
    return max;
  }
  A logsumexp() const {
    return max == -std::numeric_limits<A>::infinity() ? max + sum : max + std::log(sum);
  }
};

template <class T>
struct RowReader {
  using A = accumulator_t<T>;
  const T* logits;
  int64_t stride, classes;
  const int64_t* targets;
  int64_t ignore_index;
  A smoothing;

  explicit RowReader(const CrossEntropyRows& rows)
      : logits(rows.logits.data<T>()),
        stride(rows.logits.strides()[0]),
        classes(rows.logits.size(1)),
        targets(rows.targets.data<int64_t>()),
        ignore_index(rows.ignore_index),
        smoothing(static_cast<A>(rows.label_smoothing)) {}

  bool ignored(int64_t row) const { return targets[row] == ignore_index; }
  const T* at(int64_t row) const { return logits + row * stride; }

  /// What the loss subtracts from logsumexp, given the mean of the logits.
  A expected_logit(int64_t row, A mean) const {
    const A target = static_cast<A>(at(row)[targets[row]]);
    return smoothing == 0 ? target : (1 - smoothing) * target + smoothing * mean;
  }

  A mean_logit(int64_t row) const {
    if (smoothing == 0) return 0;
    Accumulators<A> sum;
    const T* const x = at(row);
    for_each_vector<A>(
        classes, [&](int64_t i, auto lanes, auto slot) { sum.part[slot] += load(x + i, lanes); });
    return sum.sum() / static_cast<A>(classes);
  }
};

template <class T>
void forward(const CrossEntropyRows& params, Tensor& losses, Tensor& logsumexp) {
  using A = accumulator_t<T>;
  const RowReader<T> rows(params);
  A* const loss = losses.data<A>();
  A* const lse = logsumexp.data<A>();
  parallel_for(0, params.logits.size(0), row_grain(rows.classes), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* const x = rows.at(row);
      RunningSum<A> running;
      for (int64_t start = 0; start < rows.classes; start += kRowBlock) {
        const int64_t count = std::min(kRowBlock, rows.classes - start);
        const A shift = running.advance(block_max(x + start, count));
        Accumulators<A> sum;
        for_each_vector<A>(count, [&](int64_t i, auto lanes, auto slot) {
          sum.part[slot] +=
              simd::keep(simd::exp_nonpositive(load(x + start + i, lanes) - shift), lanes);
        });
        running.sum += sum.sum();
      }
      lse[row] = running.logsumexp();
      loss[row] =
          rows.ignored(row) ? A(0) : lse[row] - rows.expected_logit(row, rows.mean_logit(row));
    }
  });
}

template <class T>
void backward(const CrossEntropyRows& params, const Tensor& logsumexp, const Tensor& dlosses,
              Tensor& dlogits) {
  using A = accumulator_t<T>;
  const RowReader<T> rows(params);
  const A* const lse = logsumexp.data<A>();
  const A* const dloss = dlosses.data<A>();
  const int64_t dloss_stride = dlosses.strides()[0];
  T* const out = dlogits.data<T>();
  const A everywhere = rows.smoothing / static_cast<A>(rows.classes);
  parallel_for(0, params.logits.size(0), row_grain(rows.classes), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* const to = out + row * rows.classes;
      if (rows.ignored(row)) {
        std::fill(to, to + rows.classes, T(0));
        continue;
      }
      const T* const x = rows.at(row);
      const A shift = lse[row];
      const A scale = dloss[row * dloss_stride];
      for_each_vector<A>(rows.classes, [&](int64_t i, auto lanes, auto) {
        const auto p = simd::exp_nonpositive(load(x + i, lanes) - shift);
        store(to + i, (p - everywhere) * scale, lanes);
      });
      const int64_t target = rows.targets[row];
      const A p = std::exp(static_cast<A>(x[target]) - shift);
      to[target] = T((p - everywhere - (1 - rows.smoothing)) * scale);
    }
  });
}

template <class A, class T>
void both(CrossEntropyRows& params, const Tensor& dloss, Tensor& losses, Tensor& dlogits) {
  const RowReader<A> rows(params);
  const A factor = dloss.defined() ? dloss.data<A>()[0] : A(1);
  A* const logits = params.logits.data<A>();
  A* const loss = losses.data<A>();
  T* const out = dlogits.data<T>();
  const A everywhere = rows.smoothing / static_cast<A>(rows.classes);
  parallel_for(0, params.logits.size(0), row_grain(rows.classes), [&](int64_t begin, int64_t end) {
    std::vector<A> shifts(static_cast<size_t>((rows.classes + kRowBlock - 1) / kRowBlock));
    for (int64_t row = begin; row < end; ++row) {
      T* const to = out + row * rows.classes;
      if (rows.ignored(row)) {
        loss[row] = 0;
        std::fill(to, to + rows.classes, T(0));
        continue;
      }
      const A expected = rows.expected_logit(row, rows.mean_logit(row));
      // The exponentials replace the logits, each block shifted by the maximum so far.
      A* const x = logits + row * rows.stride;
      RunningSum<A> running;
      for (size_t block = 0; block < shifts.size(); ++block) {
        A* const here = x + static_cast<int64_t>(block) * kRowBlock;
        const int64_t count = std::min<int64_t>(kRowBlock, x + rows.classes - here);
        shifts[block] = running.advance(block_max(here, count));
        Accumulators<A> sum;
        for_each_vector<A>(count, [&](int64_t i, auto lanes, auto slot) {
          const auto e = simd::exp_nonpositive(load(here + i, lanes) - shifts[block]);
          store(here + i, e, lanes);
          sum.part[slot] += simd::keep(e, lanes);
        });
        running.sum += sum.sum();
      }
      const A lse = running.logsumexp();
      loss[row] = lse - expected;
      const int64_t target = rows.targets[row];
      A target_p = 0;
      for (size_t block = 0; block < shifts.size(); ++block) {
        const int64_t start = static_cast<int64_t>(block) * kRowBlock;
        const int64_t count = std::min(kRowBlock, rows.classes - start);
        const A scale =
            (shifts[block] == running.max ? A(1) : std::exp(shifts[block] - running.max)) /
            running.sum;
        if (target >= start && target < start + count) target_p = x[target] * scale;
        for_each_vector<A>(count, [&](int64_t i, auto lanes, auto) {
          const simd::Vec<A> p = load(x + start + i, lanes) * scale;
          // As exp_nonpositive: the products to come must not meet subnormal numbers.
          store(to + start + i, ((p < A(0x1p-100) ? simd::Vec<A>{} : p) - everywhere) * factor,
                lanes);
        });
      }
      to[target] = T((target_p - everywhere - (1 - rows.smoothing)) * factor);
    }
  });
}

}  // namespace

void cross_entropy_forward_cpu(const CrossEntropyRows& rows, Tensor& losses, Tensor& logsumexp,
                               Stream /*stream*/) {
  dispatch_floating(rows.logits.dtype(), "cross_entropy",
                    [&]<class T>() { forward<T>(rows, losses, logsumexp); });
}

void cross_entropy_backward_cpu(const CrossEntropyRows& rows, const Tensor& logsumexp,
                                const Tensor& dlosses, Tensor& dlogits, Stream /*stream*/) {
  dispatch_floating(rows.logits.dtype(), "cross_entropy_backward",
                    [&]<class T>() { backward<T>(rows, logsumexp, dlosses, dlogits); });
}

void cross_entropy_both_cpu(CrossEntropyRows& rows, const Tensor& dloss, Tensor& losses,
                            Tensor& dlogits, Stream /*stream*/) {
  dispatch_floating(dlogits.dtype(), "linear_cross_entropy",
                    [&]<class T>() { both<accumulator_t<T>, T>(rows, dloss, losses, dlogits); });
}

}  // namespace weft

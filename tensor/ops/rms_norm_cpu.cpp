// Each row is read from memory once: the second look at it, to scale it, hits a near cache. Rows go
// four at a time: gain and the sums of dgain are loaded and stored once for them, and the latency
// of one row's reduction hides behind the others.
#include <cmath>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/rms_norm_kernels.h"
#include "ops/rows.h"
#include "ops/simd.h"

namespace weft {
namespace {

using simd::for_each_vector;
using simd::load;
using simd::store;

/// Rows taken at a time.
constexpr int kGroup = 4;

template <class T, bool kResidual>
struct ForwardRows {
  using A = accumulator_t<T>;
  const T *x, *residual;
  int64_t x_stride, residual_stride, length;
  const A* gain;
  A eps;
  T *sum, *y;
  A* inverse_rms;

  explicit ForwardRows(RmsNormForwardParams& params)
      : x(params.x.data<T>()),
        residual(kResidual ? params.residual.data<T>() : nullptr),
        x_stride(params.x.strides()[0]),
        residual_stride(kResidual ? params.residual.strides()[0] : 0),
        length(params.x.size(1)),
        gain(params.gain.data<A>()),
        eps(static_cast<A>(params.eps)),
        sum(kResidual ? params.sum.data<T>() : nullptr),
        y(params.y.data<T>()),
        inverse_rms(params.inverse_rms.data<A>()) {}

  /// kRows rows from `row` on, whose steps do not wait for each other.
  template <int kRows>
  void run(int64_t row) const {
    A inverse[kRows];
    for (int r = 0; r < kRows; ++r) {
      const T* const in = x + (row + r) * x_stride;
      simd::Accumulators<A> squares;
      if constexpr (kResidual) {
        const T* const other = residual + (row + r) * residual_stride;
        T* const total = sum + (row + r) * length;
        for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
          const auto value = simd::round_to<T>(load(in + i, lanes) + load(other + i, lanes));
          store(total + i, value, lanes);
          squares.part[slot] += value * value;
        });
      } else {
        for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
          const auto value = load(in + i, lanes);
          squares.part[slot] += value * value;
        });
      }
      inverse[r] = A(1) / std::sqrt(squares.sum() / static_cast<A>(length) + eps);
      inverse_rms[row + r] = inverse[r];
    }
    const T* const in = kResidual ? sum : x;
    const int64_t in_stride = kResidual ? length : x_stride;
    for_each_vector<A>(length, [&](int64_t i, auto lanes, auto) {
      const auto g = load(gain + i, lanes);
      for (int r = 0; r < kRows; ++r) {
        const auto value = load(in + (row + r) * in_stride + i, lanes);
        store(y + (row + r) * length + i, value * inverse[r] * g, lanes);
      }
    });
  }
};

template <class T, bool kResidual>
void forward(RmsNormForwardParams& params) {
  const ForwardRows<T, kResidual> rows(params);
  parallel_for(0, params.x.size(0), row_grain(rows.length), [&](int64_t begin, int64_t end) {
    int64_t row = begin;
    for (; row + kGroup <= end; row += kGroup) rows.template run<kGroup>(row);
    for (; row < end; ++row) rows.template run<1>(row);
  });
}

template <class T, bool kSum>
struct BackwardRows {
  using A = accumulator_t<T>;
  const T *dy, *x, *dsum;
  int64_t dy_stride, x_stride, dsum_stride, length;
  const A *gain, *inverse_rms;
  T* dx;
  A* dgain;  // null when not wanted

  explicit BackwardRows(RmsNormBackwardParams& params)
      : dy(params.dy.data<T>()),
        x(params.x.data<T>()),
        dsum(kSum ? params.dsum.data<T>() : nullptr),
        dy_stride(params.dy.strides()[0]),
        x_stride(params.x.strides()[0]),
        dsum_stride(kSum ? params.dsum.strides()[0] : 0),
        length(params.x.size(1)),
        gain(params.gain.data<A>()),
        inverse_rms(params.inverse_rms.data<A>()),
        dx(params.dx.data<T>()),
        dgain(nullptr) {}

  /// dx of kRows rows from `row` on; adds their dgain to `dgain`.
  template <int kRows>
  void run(int64_t row) const {
    // With h = x * inverse: dx = inverse * (dy * gain - h * mean(dy * gain * h)).
    A slope[kRows];
    for (int r = 0; r < kRows; ++r) {
      const T* const dy_row = dy + (row + r) * dy_stride;
      const T* const x_row = x + (row + r) * x_stride;
      simd::Accumulators<A> products;
      for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
        products.part[slot] +=
            load(dy_row + i, lanes) * load(gain + i, lanes) * load(x_row + i, lanes);
      });
      const A inverse = inverse_rms[row + r];
      slope[r] = products.sum() * inverse * inverse / static_cast<A>(length);
    }
    for_each_vector<A>(length, [&](int64_t i, auto lanes, auto) {
      const auto g = load(gain + i, lanes);
      simd::Vec<A> gain_sum = {};
      for (int r = 0; r < kRows; ++r) {
        const A inverse = inverse_rms[row + r];
        const auto d = load(dy + (row + r) * dy_stride + i, lanes);
        const auto value = load(x + (row + r) * x_stride + i, lanes);
        gain_sum += d * value * inverse;
        auto result = (d * g - value * slope[r]) * inverse;
        if constexpr (kSum) result += load(dsum + (row + r) * dsum_stride + i, lanes);
        store(dx + (row + r) * length + i, result, lanes);
      }
      if (dgain != nullptr) store(dgain + i, load(dgain + i, lanes) + gain_sum, lanes);
    });
  }
};

template <class T, bool kSum>
void backward(RmsNormBackwardParams& params) {
  using A = accumulator_t<T>;
  const BackwardRows<T, kSum> shared(params);
  const RowBlocks blocks(params.x.size(0), shared.length);
  Tensor partials;
  if (params.dgain.defined()) partials = zeros({blocks.count, shared.length}, dtype_of<A>);
  parallel_for(0, blocks.count, 1, [&](int64_t begin, int64_t end) {
    BackwardRows<T, kSum> rows = shared;
    for (int64_t block = begin; block < end; ++block) {
      if (partials.defined()) rows.dgain = partials.data<A>() + block * rows.length;
      int64_t row = blocks.begin(block);
      for (; row + kGroup <= blocks.end(block); row += kGroup) rows.template run<kGroup>(row);
      for (; row < blocks.end(block); ++row) rows.template run<1>(row);
    }
  });
  if (partials.defined()) sum_partials_cpu(partials, params.dgain);
}

}  // namespace

void rms_norm_forward_cpu(RmsNormForwardParams& params, Stream /*stream*/) {
  dispatch_floating(params.x.dtype(), "rms_norm", [&]<class T>() {
    params.residual.defined() ? forward<T, true>(params) : forward<T, false>(params);
  });
}

void rms_norm_backward_cpu(RmsNormBackwardParams& params, Stream /*stream*/) {
  dispatch_floating(params.x.dtype(), "rms_norm_backward", [&]<class T>() {
    params.dsum.defined() ? backward<T, true>(params) : backward<T, false>(params);
  });
}

}  // namespace weft

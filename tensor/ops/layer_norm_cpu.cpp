// Each row is read from memory once; the later looks at it hit a near cache. Rows go four at a
// time: parameters and the sums of their gradients are loaded and stored once for them, and the
// latency of one row's reductions hides behind the others.
#include <cmath>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/layer_norm_kernels.h"
#include "ops/rows.h"
#include "ops/simd.h"

namespace weft {
namespace {

using simd::for_each_vector;
using simd::load;
using simd::store;

/// Rows taken at a time.
constexpr int kGroup = 4;

template <class T>
struct ForwardRows {
  using A = accumulator_t<T>;
  const T* x;
  int64_t x_stride, length;
  const A *gain, *bias;  // bias may be null
  A eps;
  T* y;
  A *means, *rstds;

  explicit ForwardRows(LayerNormForwardParams& params)
      : x(params.x.data<T>()),
        x_stride(params.x.strides()[0]),
        length(params.x.size(1)),
        gain(params.gain.data<A>()),
        bias(params.bias.defined() ? params.bias.data<A>() : nullptr),
        eps(static_cast<A>(params.eps)),
        y(params.y.data<T>()),
        means(params.mean.data<A>()),
        rstds(params.rstd.data<A>()) {}

  /// kRows rows from `row` on, whose steps do not wait for each other.
  template <int kRows>
  void run(int64_t row) const {
    A mean[kRows];
    A rstd[kRows];
    for (int r = 0; r < kRows; ++r) {
      const T* const in = x + (row + r) * x_stride;
      simd::Accumulators<A> sum;
      for_each_vector<A>(
          length, [&](int64_t i, auto lanes, auto slot) { sum.part[slot] += load(in + i, lanes); });
      mean[r] = means[row + r] = sum.sum() / static_cast<A>(length);
    }
    // The squares are summed about the mean: the difference of two sums would cancel.
    for (int r = 0; r < kRows; ++r) {
      const T* const in = x + (row + r) * x_stride;
      simd::Accumulators<A> squares;
      for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
        const auto centred = simd::keep(load(in + i, lanes) - mean[r], lanes);
        squares.part[slot] += centred * centred;
      });
      rstd[r] = rstds[row + r] = A(1) / std::sqrt(squares.sum() / static_cast<A>(length) + eps);
    }
    for_each_vector<A>(length, [&](int64_t i, auto lanes, auto) {
      const auto g = load(gain + i, lanes);
      const auto shift = bias != nullptr ? load(bias + i, lanes) : simd::Vec<A>{};
      for (int r = 0; r < kRows; ++r) {
        const auto centred = load(x + (row + r) * x_stride + i, lanes) - mean[r];
        store(y + (row + r) * length + i, centred * rstd[r] * g + shift, lanes);
      }
    });
  }
};

template <class T>
void forward(LayerNormForwardParams& params) {
  const ForwardRows<T> rows(params);
  parallel_for(0, params.x.size(0), row_grain(rows.length), [&](int64_t begin, int64_t end) {
    int64_t row = begin;
    for (; row + kGroup <= end; row += kGroup) rows.template run<kGroup>(row);
    for (; row < end; ++row) rows.template run<1>(row);
  });
}

template <class T>
struct BackwardRows {
  using A = accumulator_t<T>;
  const T *dy, *x;
  int64_t dy_stride, x_stride, length;
  const A *gain, *mean, *rstd;
  T* dx;
  A* sums;  // dgain, then dbias; null when not wanted

  explicit BackwardRows(LayerNormBackwardParams& params)
      : dy(params.dy.data<T>()),
        x(params.x.data<T>()),
        dy_stride(params.dy.strides()[0]),
        x_stride(params.x.strides()[0]),
        length(params.x.size(1)),
        gain(params.gain.data<A>()),
        mean(params.mean.data<A>()),
        rstd(params.rstd.data<A>()),
        dx(params.dx.data<T>()),
        sums(nullptr) {}

  /// dx of kRows rows from `row` on; adds their dgain and dbias to `sums`.
  template <int kRows>
  void run(int64_t row) const {
    // With h = (x - mean) * rstd and u = dy * gain: dx = rstd * (u - mean(u) - h * mean(u * h)).
    A offset[kRows];
    A slope[kRows];
    for (int r = 0; r < kRows; ++r) {
      const T* const dy_row = dy + (row + r) * dy_stride;
      const T* const x_row = x + (row + r) * x_stride;
      const A centre = mean[row + r];
      simd::Accumulators<A> sum;
      simd::Accumulators<A> products;
      for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
        const auto u = load(dy_row + i, lanes) * load(gain + i, lanes);
        sum.part[slot] += u;
        products.part[slot] += u * (load(x_row + i, lanes) - centre);
      });
      const A inverse = rstd[row + r];
      offset[r] = sum.sum() / static_cast<A>(length);
      slope[r] = products.sum() * inverse * inverse / static_cast<A>(length);
    }
    for_each_vector<A>(length, [&](int64_t i, auto lanes, auto) {
      const auto g = load(gain + i, lanes);
      simd::Vec<A> gain_sum = {};
      simd::Vec<A> bias_sum = {};
      for (int r = 0; r < kRows; ++r) {
        const A inverse = rstd[row + r];
        const auto d = load(dy + (row + r) * dy_stride + i, lanes);
        const auto centred = load(x + (row + r) * x_stride + i, lanes) - mean[row + r];
        gain_sum += d * centred * inverse;
        bias_sum += d;
        store(dx + (row + r) * length + i, (d * g - offset[r] - centred * slope[r]) * inverse,
              lanes);
      }
      if (sums != nullptr) {
        store(sums + i, load(sums + i, lanes) + gain_sum, lanes);
        store(sums + length + i, load(sums + length + i, lanes) + bias_sum, lanes);
      }
    });
  }
};

template <class T>
void backward(LayerNormBackwardParams& params) {
  using A = accumulator_t<T>;
  const BackwardRows<T> shared(params);
  const RowBlocks blocks(params.x.size(0), shared.length);
  const int64_t width = 2 * shared.length;
  Tensor partials;
  if (params.dgain_dbias.defined()) partials = zeros({blocks.count, width}, dtype_of<A>);
  parallel_for(0, blocks.count, 1, [&](int64_t begin, int64_t end) {
    BackwardRows<T> rows = shared;
    for (int64_t block = begin; block < end; ++block) {
      if (partials.defined()) rows.sums = partials.data<A>() + block * width;
      int64_t row = blocks.begin(block);
      for (; row + kGroup <= blocks.end(block); row += kGroup) rows.template run<kGroup>(row);
      for (; row < blocks.end(block); ++row) rows.template run<1>(row);
    }
  });
  if (partials.defined()) sum_partials_cpu(partials, params.dgain_dbias);
}

}  // namespace

void layer_norm_forward_cpu(LayerNormForwardParams& params, Stream /*stream*/) {
  dispatch_floating(params.x.dtype(), "layer_norm", [&]<class T>() { forward<T>(params); });
}

void layer_norm_backward_cpu(LayerNormBackwardParams& params, Stream /*stream*/) {
  dispatch_floating(params.x.dtype(), "layer_norm_backward",
                    [&]<class T>() { backward<T>(params); });
}

}  // namespace weft

// Each row is read from memory once; the later looks at it hit the first-level cache. Backward
// takes four rows at a time, so that the sums of dgain and dbias are loaded and stored once for
// four rows.
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

template <class T>
void forward(LayerNormForwardParams& params) {
  using A = accumulator_t<T>;
  const int64_t length = params.x.size(1);
  const int64_t x_stride = params.x.strides()[0];
  const T* const x = params.x.data<T>();
  const A* const gain = params.gain.data<A>();
  const A* const bias = params.bias.defined() ? params.bias.data<A>() : nullptr;
  T* const y = params.y.data<T>();
  A* const means = params.mean.data<A>();
  A* const rstds = params.rstd.data<A>();
  const A scale = A(1) / static_cast<A>(length);
  const A eps = static_cast<A>(params.eps);
  parallel_for(0, params.x.size(0), row_grain(length), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* const in = x + row * x_stride;
      simd::Accumulators<A> sum;
      for_each_vector<A>(
          length, [&](int64_t i, auto lanes, auto slot) { sum.part[slot] += load(in + i, lanes); });
      const A mean = sum.sum() * scale;
      // The squares are summed about the mean: the difference of two sums would cancel.
      simd::Accumulators<A> squares;
      for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
        const auto centred = simd::keep(load(in + i, lanes) - mean, lanes);
        squares.part[slot] += centred * centred;
      });
      const A rstd = A(1) / std::sqrt(squares.sum() * scale + eps);
      means[row] = mean;
      rstds[row] = rstd;
      T* const out = y + row * length;
      for_each_vector<A>(length, [&](int64_t i, auto lanes, auto) {
        auto value = (load(in + i, lanes) - mean) * rstd * load(gain + i, lanes);
        if (bias != nullptr) value += load(bias + i, lanes);
        store(out + i, value, lanes);
      });
    }
  });
}

/// Rows whose parameter gradients are summed in registers before they go to memory.
constexpr int kGroup = 4;

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

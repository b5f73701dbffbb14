// Each row is read from memory once: the second look at it, to scale it, hits the first-level
// cache. Backward takes four rows at a time, so that the sums of dgain are loaded and stored once
// for four rows.
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

template <class T, bool kResidual>
void forward(RmsNormForwardParams& params) {
  using A = accumulator_t<T>;
  const int64_t length = params.x.size(1);
  const T* const x = params.x.data<T>();
  const int64_t x_stride = params.x.strides()[0];
  const T* const residual = kResidual ? params.residual.data<T>() : nullptr;
  const int64_t residual_stride = kResidual ? params.residual.strides()[0] : 0;
  T* const sum = kResidual ? params.sum.data<T>() : nullptr;
  const A* const gain = params.gain.data<A>();
  T* const y = params.y.data<T>();
  A* const inverse_rms = params.inverse_rms.data<A>();
  const A scale = A(1) / static_cast<A>(length);
  const A eps = static_cast<A>(params.eps);
  parallel_for(0, params.x.size(0), row_grain(length), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x + row * x_stride;
      simd::Accumulators<A> squares;
      if constexpr (kResidual) {
        const T* const other = residual + row * residual_stride;
        T* const total = sum + row * length;
        for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
          const auto value = simd::round_to<T>(load(in + i, lanes) + load(other + i, lanes));
          store(total + i, value, lanes);
          squares.part[slot] += value * value;
        });
        in = total;
      } else {
        for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
          const auto value = load(in + i, lanes);
          squares.part[slot] += value * value;
        });
      }
      const A inverse = A(1) / std::sqrt(squares.sum() * scale + eps);
      inverse_rms[row] = inverse;
      T* const out = y + row * length;
      for_each_vector<A>(length, [&](int64_t i, auto lanes, auto) {
        store(out + i, load(in + i, lanes) * inverse * load(gain + i, lanes), lanes);
      });
    }
  });
}

/// Rows whose dgain is summed in registers before it goes to memory.
constexpr int kGroup = 4;

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

#pragma once

// Normalisation of rows: rms_norm and, centred about the mean, layer_norm.
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

template <class T>
struct NormForward {
  using A = accumulator_t<T>;
  const T* x;
  int64_t x_stride;
  const T* residual;  // may be null
  int64_t residual_stride;
  T* sum;  // x + residual
  T* y;
  const A* gain;
  const A* bias;  // may be null
  A* mean;        // where centred
  A* scale;       // 1 / root of the mean square
  int64_t rows, length;
  A eps;
};

template <class T, bool kCentred, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads) norm_forward(const NormForward<T> p) {
  using A = accumulator_t<T>;
  constexpr int kWidth = Shape::kWidth;
  const int64_t row = Shape::row();
  if (row >= p.rows) return;
  const auto count = static_cast<A>(p.length);
  RowReader<T, Shape, 1> reader({p.x + row * p.x_stride}, p.length);
  if (p.residual != nullptr) {
    reader.add(p.residual + row * p.residual_stride, p.sum + row * p.length);
  }
  A mean = 0;
  if constexpr (kCentred) {
    reader.for_each([&](int64_t, const A(&values)[1][kWidth]) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) mean += values[0][k];
    });
    mean = sum_over<Shape::kThreads>(mean) / count;
  }
  // Squares about the mean: the difference of two sums would cancel.
  A squares = 0;
  reader.for_each([&](int64_t, const A(&values)[1][kWidth]) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) squares += (values[0][k] - mean) * (values[0][k] - mean);
  });
  squares = sum_over<Shape::kThreads>(squares);
  const A scale = A(1) / sqrt(squares / count + p.eps);
  if (Shape::thread() == 0) {
    if (kCentred) p.mean[row] = mean;
    p.scale[row] = scale;
  }
  T* const y = p.y + row * p.length;
  reader.for_each([&](int64_t i, const A(&values)[1][kWidth]) {
    A gain[kWidth];
    load_values<kWidth>(p.gain + i, gain);
    A results[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) results[k] = (values[0][k] - mean) * scale * gain[k];
    if (p.bias != nullptr) {
      A bias[kWidth];
      load_values<kWidth>(p.bias + i, bias);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) results[k] += bias[k];
    }
    store_values(y + i, results);
  });
}

}  // namespace weft::cuda

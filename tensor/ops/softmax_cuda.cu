// A row stays in registers from its one reading on, or, where it is too long and of a half type, in
// shared memory; the others are read twice, the second time mostly from the L2 cache. Where they
// are not in registers, maximum and sum advance together.
#include "ops/softmax_kernels.h"
#include "ops/staged_row_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

/// Writes the results of a row, which `reader` walks.
template <class T, class Shape, class Reader>
__device__ __forceinline__ void softmax_row(const Reader& reader, T* out, bool log) {
  using A = accumulator_t<T>;
  constexpr int kWidth = Shape::kWidth;
  A max = kMinusInfinity<A>;
  A sum = 0;
  if constexpr (Shape::kPacks > 0) {
    reader.for_each([&](int64_t, const A(&values)[1][kWidth]) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) max = KeepLarger()(max, values[0][k]);
    });
    max = combine_over<Shape::kThreads>(max, KeepLarger());
    if (max != kMinusInfinity<A>) {
      reader.for_each([&](int64_t, const A(&values)[1][kWidth]) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) sum += exponential<T>(values[0][k] - max);
      });
      sum = sum_over<Shape::kThreads>(sum);
    }
  } else {
    Running<T> running;
    reader.for_each([&](int64_t, const A(&values)[1][kWidth]) { running.take(values[0]); });
    running.template combine<Shape::kThreads>();
    max = running.max;
    sum = running.sum;
  }
  const bool nothing = max == kMinusInfinity<A>;  // the whole row is -infinity
  const A scale = nothing ? A(0) : A(1) / sum;
  const A offset = ::log(sum);
  reader.for_each([&](int64_t i, const A(&values)[1][kWidth]) {
    A results[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      if (nothing) {
        results[k] = log ? max : A(0);
      } else if (log) {
        results[k] = values[0][k] - max - offset;
      } else {
        results[k] = exponential<T>(values[0][k] - max) * scale;
      }
    }
    store_values(out + i, results);
  });
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads)
    softmax_rows(const T* __restrict__ x, int64_t stride, T* __restrict__ y, int64_t rows,
                 int64_t length, bool log) {
  const int64_t row = Shape::row();
  if (row >= rows) return;
  const RowReader<T, Shape, 1> reader({x + row * stride}, length);
  softmax_row<T, Shape>(reader, y + row * length, log);
}

/// A block a row; two blocks share a multiprocessor, so that one reads while the other writes.
template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads, 2)
    softmax_staged_rows(const T* __restrict__ x, int64_t stride, T* __restrict__ y, int64_t length,
                        bool log) {
  extern __shared__ __align__(16) unsigned char staged[];
  const int64_t row = blockIdx.x;
  const StagedRow<T, Shape> reader(x + row * stride, length, staged);
  reader.wait();
  softmax_row<T, Shape>(reader, y + row * length, log);
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads)
    softmax_backward_rows(const T* __restrict__ dy, int64_t dy_stride, const T* __restrict__ y,
                          int64_t y_stride, T* __restrict__ dx, int64_t rows, int64_t length,
                          bool log) {
  using A = accumulator_t<T>;
  constexpr int kWidth = Shape::kWidth;
  const int64_t row = Shape::row();
  if (row >= rows) return;
  T* const out = dx + row * length;
  const RowReader<T, Shape, 2> reader({dy + row * dy_stride, y + row * y_stride}, length);
  A sum = 0;
  int seen = !log;  // whether any logarithm is not -infinity
  reader.for_each([&](int64_t, const A(&values)[2][kWidth]) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      sum += log ? values[0][k] : values[0][k] * values[1][k];
      seen |= values[1][k] != kMinusInfinity<A>;
    }
  });
  sum = sum_over<Shape::kThreads>(sum);
  if (log) seen = sum_over<Shape::kThreads>(seen);
  reader.for_each([&](int64_t i, const A(&values)[2][kWidth]) {
    A results[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      if (log) {
        results[k] = seen == 0 ? A(0) : values[0][k] - exponential<T>(values[1][k]) * sum;
      } else {
        results[k] = values[1][k] * (values[0][k] - sum);
      }
    }
    store_values(out + i, results);
  });
}

// Along another axis than the last, a thread takes a column: neighbours read neighbours.

constexpr int kColumnThreads = 128;
constexpr int kColumnBatch = 8;

/// Calls body(row, values) for kColumnBatch rows at a time; rows beyond the end are not counted.
template <int kInputs, class T, class Body>
__device__ __forceinline__ void walk_column(const T* const (&from)[kInputs], int64_t length,
                                            int64_t inner, Body&& body) {
  using A = accumulator_t<T>;
  for (int64_t row = 0; row < length; row += kColumnBatch) {
    A values[kInputs][kColumnBatch];
#pragma unroll
    for (int k = 0; k < kColumnBatch; ++k) {
#pragma unroll
      for (int input = 0; input < kInputs; ++input) {
        if (row + k < length) values[input][k] = widen(from[input][(row + k) * inner]);
      }
    }
#pragma unroll
    for (int k = 0; k < kColumnBatch; ++k) {
      if (row + k < length) {
        A element[kInputs];
#pragma unroll
        for (int input = 0; input < kInputs; ++input) element[input] = values[input][k];
        body(row + k, element);
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    softmax_columns(const T* __restrict__ x, T* __restrict__ y, int64_t outer, int64_t length,
                    int64_t inner, bool log) {
  using A = accumulator_t<T>;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (column >= outer * inner) return;
  const int64_t offset = column / inner * length * inner + column % inner;
  Running<T> running;
  walk_column<1>({x + offset}, length, inner,
                 [&](int64_t, const A(&value)[1]) { running.take(value); });
  const bool nothing = running.max == kMinusInfinity<A>;
  const A scale = nothing ? A(0) : A(1) / running.sum;
  const A logarithm = ::log(running.sum);
  walk_column<1>({x + offset}, length, inner, [&](int64_t row, const A(&value)[1]) {
    A result;
    if (nothing) {
      result = log ? running.max : A(0);
    } else if (log) {
      result = value[0] - running.max - logarithm;
    } else {
      result = exponential<T>(value[0] - running.max) * scale;
    }
    y[offset + row * inner] = narrow<T>(result);
  });
}

template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    softmax_backward_columns(const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx,
                             int64_t outer, int64_t length, int64_t inner, bool log) {
  using A = accumulator_t<T>;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (column >= outer * inner) return;
  const int64_t offset = column / inner * length * inner + column % inner;
  A sum = 0;
  bool seen = !log;
  walk_column<2>({dy + offset, y + offset}, length, inner, [&](int64_t, const A(&value)[2]) {
    sum += log ? value[0] : value[0] * value[1];
    seen |= value[1] != kMinusInfinity<A>;
  });
  walk_column<2>({dy + offset, y + offset}, length, inner, [&](int64_t row, const A(&value)[2]) {
    A result;
    if (log) {
      result = seen ? value[0] - exponential<T>(value[1]) * sum : A(0);
    } else {
      result = value[1] * (value[0] - sum);
    }
    dx[offset + row * inner] = narrow<T>(result);
  });
}

unsigned column_blocks(const Tensor& x) {
  return static_cast<unsigned>(ceil_div(x.size(0) * x.size(2), kColumnThreads));
}

}  // namespace

void softmax_cuda(const Tensor& x, Tensor& y, bool log, Stream stream) {
  dispatch_floating(x.dtype(), "softmax", [&]<class T>() {
    const T* const from = x.data<T>();
    T* const to = y.data<T>();
    if (x.rank() == 3) {
      launch("softmax", stream, {column_blocks(x), kColumnThreads}, softmax_columns<T>, from, to,
             x.size(0), x.size(1), x.size(2), log);
      return;
    }
    const bool aligned = rows_are_aligned(x, y);
    if constexpr (sizeof(T) == 2) {
      using Shape = RowShape<512, kPackWidth<T>, 0>;
      if (aligned && x.size(1) > kMostKept<T> && staged_row_fits(x.size(1), stream)) {
        const LaunchShape shape{static_cast<unsigned>(x.size(0)), Shape::kBlockThreads,
                                static_cast<size_t>(StagedRow<T, Shape>::bytes(x.size(1)))};
        launch("softmax", stream, shape, softmax_staged_rows<T, Shape>, from, x.strides()[0], to,
               x.size(1), log);
        return;
      }
    }
    dispatch_row_shape<T>(x.size(1), aligned, [&]<class Shape>() {
      launch("softmax", stream, {Shape::blocks(x.size(0)), Shape::kBlockThreads},
             softmax_rows<T, Shape>, from, x.strides()[0], to, x.size(0), x.size(1), log);
    });
  });
}

void softmax_backward_cuda(const Tensor& dy, const Tensor& y, Tensor& dx, bool log, Stream stream) {
  dispatch_floating(y.dtype(), "softmax_backward", [&]<class T>() {
    const T* const grad = dy.data<T>();
    const T* const value = y.data<T>();
    T* const to = dx.data<T>();
    if (y.rank() == 3) {
      launch("softmax_backward", stream, {column_blocks(y), kColumnThreads},
             softmax_backward_columns<T>, grad, value, to, y.size(0), y.size(1), y.size(2), log);
      return;
    }
    dispatch_row_shape<T, 2>(y.size(1), rows_are_aligned(dy, y, dx), [&]<class Shape>() {
      launch("softmax_backward", stream, {Shape::blocks(y.size(0)), Shape::kBlockThreads},
             softmax_backward_rows<T, Shape>, grad, dy.strides()[0], value, y.strides()[0], to,
             y.size(0), y.size(1), log);
    });
  });
}

}  // namespace weft

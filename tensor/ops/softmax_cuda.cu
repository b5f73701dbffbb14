// A row stays in registers from its one reading on, or, where it is too long and of a half type, in
// shared memory; the others are read twice, the second time mostly from the L2 cache. Where they
// are not in registers, maximum and sum advance together.
#include "ops/columns_cuda.cuh"
#include "ops/softmax_kernels.h"
#include "ops/softmax_strips_cuda.h"
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

// Along another axis than the last, a thread takes neighbouring columns; see ColumnPieces.

constexpr int kColumnRows = 4;  // read together

/// Calls body(offset, values) for the rows of this thread's piece of `columns`.
template <int kWidth, int kInputs, class T, class Body>
__device__ __forceinline__ void walk_columns(const ColumnPieces& columns, int64_t column,
                                             const T* const (&from)[kInputs], Body&& body) {
  using A = accumulator_t<T>;
  const int64_t place = columns.place(column);
  const int64_t end = columns.end();
  for (int64_t row = columns.begin(); row < end; row += kColumnRows) {
    Pack<T, kWidth> packs[kInputs][kColumnRows];
#pragma unroll
    for (int r = 0; r < kColumnRows; ++r) {
#pragma unroll
      for (int input = 0; input < kInputs; ++input) {
        if (row + r < end) {
          packs[input][r] = load_pack<kWidth>(from[input] + place + (row + r) * columns.inner);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kColumnRows; ++r) {
      if (row + r >= end) break;
      A values[kInputs][kWidth];
#pragma unroll
      for (int input = 0; input < kInputs; ++input) widen_pack(packs[input][r], values[input]);
      body(place + (row + r) * columns.inner, values);
    }
  }
}

struct JoinRunning {
  template <class R>
  __device__ __forceinline__ R operator()(const R& a, const R& b) const {
    R joined;
    joined.max = KeepLarger()(a.max, b.max);
    if (joined.max == kMinusInfinity<decltype(a.max)>) return joined;
    joined.sum = a.rescaled(joined.max) + b.rescaled(joined.max);
    return joined;
  }
};

/// Running with what JoinRunning needs.
template <class T>
struct Joinable : Running<T> {
  using A = accumulator_t<T>;
  __device__ __forceinline__ A rescaled(A max) const {
    if (this->max == kMinusInfinity<A>) return A(0);
    return this->max == max ? this->sum : this->sum * exponential<T>(this->max - max);
  }
};

template <class T, int kWidth>
__device__ __forceinline__ void take_columns(const ColumnPieces& columns, int64_t column,
                                             const T* x, Joinable<T> (&running)[kWidth]) {
  using A = accumulator_t<T>;
  walk_columns<kWidth, 1>(columns, column, {x}, [&](int64_t, const A(&values)[1][kWidth]) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const A value[1] = {values[0][k]};
      running[k].take(value);
    }
  });
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kColumnThreads)
    softmax_pieces(const T* __restrict__ x, const ColumnPieces columns,
                   Joinable<T>* __restrict__ totals) {
  const int64_t pack = columns.pack();
  if (pack >= columns.packs) return;
  Joinable<T> running[kWidth];
  take_columns<T, kWidth>(columns, pack * kWidth, x, running);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    totals[(blockIdx.y * columns.packs + pack) * kWidth + k] = running[k];
  }
}

/// `whole` [columns] is null where there is one piece.
template <class T, int kWidth>
__global__ void __launch_bounds__(kColumnThreads)
    softmax_columns(const T* __restrict__ x, T* __restrict__ y, const ColumnPieces columns,
                    const Joinable<T>* __restrict__ whole, bool log) {
  using A = accumulator_t<T>;
  const int64_t pack = columns.pack();
  if (pack >= columns.packs) return;
  Joinable<T> running[kWidth];
  if (whole == nullptr) {
    take_columns<T, kWidth>(columns, pack * kWidth, x, running);
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) running[k] = whole[pack * kWidth + k];
  }
  A scales[kWidth];  // of the results, or what is taken from them where they are logarithms
#pragma unroll
  for (int k = 0; k < kWidth; ++k) scales[k] = log ? ::log(running[k].sum) : A(1) / running[k].sum;
  walk_columns<kWidth, 1>(columns, pack * kWidth, {x},
                          [&](int64_t offset, const A(&values)[1][kWidth]) {
                            A results[kWidth];
#pragma unroll
                            for (int k = 0; k < kWidth; ++k) {
                              const A max = running[k].max;
                              if (max == kMinusInfinity<A>) {
                                results[k] = log ? max : A(0);
                              } else if (log) {
                                results[k] = values[0][k] - max - scales[k];
                              } else {
                                results[k] = exponential<T>(values[0][k] - max) * scales[k];
                              }
                            }
                            store_values(y + offset, results);
                          });
}

/// What the gradient of a column needs: a sum, and whether any logarithm is not -infinity.
template <class A>
struct BackwardTotal {
  A sum = 0;
  int seen = 0;
};

struct AddTotals {
  template <class Total>
  __device__ __forceinline__ Total operator()(const Total& a, const Total& b) const {
    return {a.sum + b.sum, a.seen | b.seen};
  }
};

template <class T, int kWidth>
__device__ __forceinline__ void take_columns_backward(
    const ColumnPieces& columns, int64_t column, const T* dy, const T* y, bool log,
    BackwardTotal<accumulator_t<T>> (&totals)[kWidth]) {
  using A = accumulator_t<T>;
  walk_columns<kWidth, 2>(columns, column, {dy, y}, [&](int64_t, const A(&values)[2][kWidth]) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      totals[k].sum += log ? values[0][k] : values[0][k] * values[1][k];
      totals[k].seen |= !log || values[1][k] != kMinusInfinity<A>;
    }
  });
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kColumnThreads)
    softmax_backward_pieces(const T* __restrict__ dy, const T* __restrict__ y,
                            const ColumnPieces columns,
                            BackwardTotal<accumulator_t<T>>* __restrict__ totals, bool log) {
  const int64_t pack = columns.pack();
  if (pack >= columns.packs) return;
  BackwardTotal<accumulator_t<T>> own[kWidth];
  take_columns_backward<T, kWidth>(columns, pack * kWidth, dy, y, log, own);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    totals[(blockIdx.y * columns.packs + pack) * kWidth + k] = own[k];
  }
}

/// `whole` [columns] is null where there is one piece.
template <class T, int kWidth>
__global__ void __launch_bounds__(kColumnThreads)
    softmax_backward_columns(const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx,
                             const ColumnPieces columns,
                             const BackwardTotal<accumulator_t<T>>* __restrict__ whole, bool log) {
  using A = accumulator_t<T>;
  const int64_t pack = columns.pack();
  if (pack >= columns.packs) return;
  BackwardTotal<A> totals[kWidth];
  if (whole == nullptr) {
    take_columns_backward<T, kWidth>(columns, pack * kWidth, dy, y, log, totals);
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) totals[k] = whole[pack * kWidth + k];
  }
  walk_columns<kWidth, 2>(
      columns, pack * kWidth, {dy, y}, [&](int64_t offset, const A(&values)[2][kWidth]) {
        A results[kWidth];
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          if (log) {
            results[k] = totals[k].seen == 0
                             ? A(0)
                             : values[0][k] - exponential<T>(values[1][k]) * totals[k].sum;
          } else {
            results[k] = values[1][k] * (values[0][k] - totals[k].sum);
          }
        }
        store_values(dx + offset, results);
      });
}

/// Calls make_totals(pieces' totals) where there are several pieces, and then finish(totals of
/// whole columns), or finish(nullptr) alone.
template <class Total, class Combine, class MakeTotals, class Finish>
void combine_columns(const char* op, const ColumnPieces& columns, int64_t count, Combine combine,
                     Stream stream, MakeTotals&& make_totals, Finish&& finish) {
  if (columns.pieces == 1) return finish(static_cast<const Total*>(nullptr));
  const Tensor memory = empty({(columns.pieces + 1) * count * static_cast<int64_t>(sizeof(Total))},
                              DType::u8, stream.device());
  auto* const whole = static_cast<Total*>(memory.raw_data());
  Total* const totals = whole + count;
  make_totals(totals);
  launch(op, stream, {blocks_for(count, 32), kColumnThreads}, combine_pieces<Total, Combine>,
         totals, columns.pieces, count, whole, combine);
  finish(whole);
}

template <class T, int kWidth>
void run_columns(const Tensor& x, Tensor& y, bool log, Stream stream) {
  constexpr const char* kOp = "softmax";
  const ColumnPieces columns(x.size(0), x.size(1), x.size(2), kWidth);
  const T* const from = x.data<T>();
  combine_columns<Joinable<T>>(
      kOp, columns, columns.columns(kWidth), JoinRunning(), stream,
      [&](Joinable<T>* totals) {
        launch(kOp, stream, columns.shape(), softmax_pieces<T, kWidth>, from, columns, totals);
      },
      [&](const Joinable<T>* whole) {
        launch(kOp, stream, columns.shape(), softmax_columns<T, kWidth>, from, y.data<T>(), columns,
               whole, log);
      });
}

template <class T, int kWidth>
void run_columns_backward(const Tensor& dy, const Tensor& y, Tensor& dx, bool log, Stream stream) {
  constexpr const char* kOp = "softmax_backward";
  using Total = BackwardTotal<accumulator_t<T>>;
  const ColumnPieces columns(y.size(0), y.size(1), y.size(2), kWidth);
  combine_columns<Total>(
      kOp, columns, columns.columns(kWidth), AddTotals(), stream,
      [&](Total* totals) {
        launch(kOp, stream, columns.shape(), softmax_backward_pieces<T, kWidth>, dy.data<T>(),
               y.data<T>(), columns, totals, log);
      },
      [&](const Total* whole) {
        launch(kOp, stream, columns.shape(), softmax_backward_columns<T, kWidth>, dy.data<T>(),
               y.data<T>(), dx.data<T>(), columns, whole, log);
      });
}

}  // namespace

void softmax_cuda(const Tensor& x, Tensor& y, bool log, Stream stream) {
  dispatch_floating(x.dtype(), "softmax", [&]<class T>() {
    const T* const from = x.data<T>();
    T* const to = y.data<T>();
    if (x.rank() == 3) {
      if (softmax_strips_cuda(x, y, log, stream)) return;
      columns_are_aligned<T>(x.size(2), from, to) ? run_columns<T, kPackWidth<T>>(x, y, log, stream)
                                                  : run_columns<T, 1>(x, y, log, stream);
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
      columns_are_aligned<T>(y.size(2), grad, value, to)
          ? run_columns_backward<T, kPackWidth<T>>(dy, y, dx, log, stream)
          : run_columns_backward<T, 1>(dy, y, dx, log, stream);
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

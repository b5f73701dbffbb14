// Along the last axis a warp takes a line, or blocks take tiles of it; along another axis a thread
// takes neighbouring columns, or blocks take tiles of them: see cumsum_tiles_cuda.cuh. What cannot
// be moved in packs is scanned by a block a line or, cut into pieces whose sums are taken first, by
// a thread a column. Sums are kept in f64 (or wrapping integers), as on the CPU, within tiles of
// half types in f32, and added in an order that shapes alone decide.
#include <algorithm>

#include "ops/columns_cuda.cuh"
#include "ops/cumsum_kernels.h"
#include "ops/cumsum_tiles_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
/// Elements of a thread in a piece.
constexpr int kElements = 8;
constexpr int kPiece = kThreads * kElements;

/// The sum of the values of the threads of the block before this one; *whole becomes that of all.
template <class V>
__device__ __forceinline__ V sum_before(V value, V* whole) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  V sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const V other = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += other;
  }
  V before = __shfl_up_sync(0xffffffffu, sum, 1);
  if (lane == 0) before = 0;
  __shared__ V of_warp[kThreads / 32];
  __syncthreads();
  if (lane == 31) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  V total = 0;
  V earlier = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) {
    if (warp == static_cast<int>(threadIdx.x) / 32) earlier = total;
    total += of_warp[warp];
  }
  *whole = total;
  return earlier + before;
}

/// Lines of any alignment, and those whose sums are of another type.
template <class T, class Out>
__global__ void __launch_bounds__(kThreads)
    cumsum_lines(const T* __restrict__ x, Out* __restrict__ y, int64_t length, bool exclusive,
                 bool reverse) {
  using Total = total_t<Out>;
  // Elements pass through shared memory: threads move neighbours, and sum neighbours of their own.
  __shared__ Total piece[kPiece + kPiece / 32];
  const auto slot = [](int i) { return i + i / 32; };
  const T* const from = x + static_cast<int64_t>(blockIdx.x) * length;
  Out* const to = y + static_cast<int64_t>(blockIdx.x) * length;
  Total carry = 0;
  for (int64_t start = 0; start < length; start += kPiece) {
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const int i = k * kThreads + static_cast<int>(threadIdx.x);
      const int64_t at = start + i;
      Total value = 0;
      if (at < length) {
        value = static_cast<Total>(
            static_cast<computed_t<Out>>(widen(from[reverse ? length - 1 - at : at])));
      }
      piece[slot(i)] = value;
    }
    __syncthreads();
    Total own[kElements];
    Total sum = 0;
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      own[k] = piece[slot(static_cast<int>(threadIdx.x) * kElements + k)];
      sum += own[k];
    }
    Total whole;
    Total running = carry + sum_before(sum, &whole);
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const Total before = running;
      running += own[k];
      piece[slot(static_cast<int>(threadIdx.x) * kElements + k)] = exclusive ? before : running;
    }
    carry += whole;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const int i = k * kThreads + static_cast<int>(threadIdx.x);
      const int64_t at = start + i;
      if (at < length) {
        to[reverse ? length - 1 - at : at] =
            narrow<Out>(static_cast<computed_t<Out>>(piece[slot(i)]));
      }
    }
    __syncthreads();
  }
}

/// Columns of which a thread takes kWidth; see ColumnPieces.
template <class T, class Out>
struct Columns {
  const T* x;
  Out* y;
  ColumnPieces pieces;
  bool exclusive, reverse;

  /// Calls body(offset, values) for the rows of this thread's piece in the order of summing.
  template <int kWidth, class Body>
  __device__ __forceinline__ void for_each_row(int64_t column, Body&& body) const {
    constexpr int kRows = 8;
    const int64_t step = reverse ? -pieces.inner : pieces.inner;
    const int64_t first = pieces.place(column) + (reverse ? (pieces.length - 1) * pieces.inner : 0);
    const int64_t end = pieces.end();
    for (int64_t row = pieces.begin(); row < end; row += kRows) {
      Pack<T, kWidth> packs[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (row + r < end) packs[r] = load_pack<kWidth>(x + first + (row + r) * step);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (row + r >= end) break;
        total_t<Out> values[kWidth];
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          values[k] =
              static_cast<total_t<Out>>(static_cast<computed_t<Out>>(widen(packs[r].values[k])));
        }
        body(first + (row + r) * step, values);
      }
    }
  }
};

/// Sums of the pieces: [pieces, columns].
template <class T, class Out, int kWidth>
__global__ void __launch_bounds__(kColumnThreads)
    column_sums(const Columns<T, Out> columns, total_t<Out>* __restrict__ sums) {
  const int64_t pack = columns.pieces.pack();
  if (pack >= columns.pieces.packs) return;
  total_t<Out> total[kWidth] = {};
  columns.template for_each_row<kWidth>(pack * kWidth,
                                        [&](int64_t, const total_t<Out>(&values)[kWidth]) {
#pragma unroll
                                          for (int k = 0; k < kWidth; ++k) total[k] += values[k];
                                        });
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    sums[(blockIdx.y * columns.pieces.packs + pack) * kWidth + k] = total[k];
  }
}

/// `before` [pieces, columns] is null where there is one piece.
template <class T, class Out, int kWidth>
__global__ void __launch_bounds__(kColumnThreads)
    cumsum_columns(const Columns<T, Out> columns, const total_t<Out>* __restrict__ before) {
  const int64_t pack = columns.pieces.pack();
  if (pack >= columns.pieces.packs) return;
  total_t<Out> total[kWidth] = {};
  if (before != nullptr) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      total[k] = before[(blockIdx.y * columns.pieces.packs + pack) * kWidth + k];
    }
  }
  columns.template for_each_row<kWidth>(
      pack * kWidth, [&](int64_t offset, const total_t<Out>(&values)[kWidth]) {
        Pack<Out, kWidth> results;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          const total_t<Out> earlier = total[k];
          total[k] += values[k];
          results.values[k] =
              narrow<Out>(static_cast<computed_t<Out>>(columns.exclusive ? earlier : total[k]));
        }
        store_pack(columns.y + offset, results);
      });
}

template <class T, class Out, int kWidth>
void run_columns(const Columns<T, Out>& columns, Stream stream) {
  const ColumnPieces& pieces = columns.pieces;
  Tensor memory;
  total_t<Out>* sums = nullptr;
  if (pieces.pieces > 1) {
    const int64_t count = pieces.columns(kWidth);
    memory = empty({pieces.pieces * count}, std::is_integral_v<Out> ? DType::i64 : DType::f64,
                   stream.device());
    sums = static_cast<total_t<Out>*>(memory.raw_data());
    launch("cumsum", stream, pieces.shape(), column_sums<T, Out, kWidth>, columns, sums);
    launch("cumsum", stream, {blocks_for(count, 32), kColumnThreads},
           sum_pieces_before<total_t<Out>>, sums, pieces.pieces, count);
  }
  launch("cumsum", stream, pieces.shape(), cumsum_columns<T, Out, kWidth>, columns, sums);
}

}  // namespace

void cumsum_cuda(const Tensor& x, Tensor& y, bool exclusive, bool reverse, Stream stream) {
  const int64_t outer = x.size(0);
  const int64_t length = x.size(1);
  const int64_t inner = x.size(2);
  dispatch_all(x.dtype(), "cumsum", [&]<class T>() {
    using Out = std::conditional_t<is_floating(dtype_of<T>), T, int64_t>;
    if constexpr (std::is_same_v<T, Out>) {
      const T* const from = x.data<T>();
      T* const to = y.data<T>();
      if (inner == 1 && length % kPackWidth<T> == 0 && is_aligned(from, 0) && is_aligned(to, 0)) {
        return cumsum_of_lines<T>({from, to, outer, length, exclusive, reverse}, stream);
      }
    }
    if (inner == 1) {
      launch("cumsum", stream, {static_cast<unsigned>(outer), kThreads}, cumsum_lines<T, Out>,
             x.data<T>(), y.data<Out>(), length, exclusive, reverse);
      return;
    }
    const auto columns = [&]<int kWidth>() {
      run_columns<T, Out, kWidth>(
          {x.data<T>(), y.data<Out>(), {outer, length, inner, kWidth}, exclusive, reverse}, stream);
    };
    if constexpr (std::is_same_v<T, Out>) {
      if (columns_are_aligned<T>(inner, x.data<T>(), y.data<Out>())) {
        constexpr int kWidth = kPackWidth<T>;
        // Where columns are too few for a thread each, they need not be read twice.
        if (ColumnPieces(outer, length, inner, kWidth).pieces > 1 &&
            cumsum_of_columns<T>(x.data<T>(), y.data<Out>(), outer, length, inner, exclusive,
                                 reverse, stream)) {
          return;
        }
        return columns.template operator()<kWidth>();
      }
    }
    columns.template operator()<1>();
  });
}

}  // namespace weft

// Along the last axis a block scans a line in pieces, each thread with neighbouring elements of its
// own; along another axis a thread takes a column, and neighbours read neighbours. Sums are kept in
// f64 (or wrapping integers), as on the CPU.
#include "ops/cumsum_kernels.h"
#include "ops/rows_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
/// Elements of a thread in a piece.
constexpr int kElements = 8;
constexpr int kPiece = kThreads * kElements;

template <class Out>
using total_t = std::conditional_t<std::is_integral_v<Out>, unsigned long long, double>;

/// The sum of the values of the threads before this one; *whole becomes that of all.
template <class V>
__device__ __forceinline__ V sum_before(V value, V* whole) {
  __shared__ V of_warp[kThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  V sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const V other = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += other;
  }
  V before = __shfl_up_sync(0xffffffffu, sum, 1);
  if (lane == 0) before = 0;
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

template <class T, class Out>
__global__ void __launch_bounds__(kThreads)
    cumsum_columns(const T* __restrict__ x, Out* __restrict__ y, int64_t outer, int64_t length,
                   int64_t inner, bool exclusive, bool reverse) {
  using Total = total_t<Out>;
  constexpr int kAhead = 8;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= outer * inner) return;
  const int64_t step = reverse ? -inner : inner;
  const int64_t first =
      column / inner * length * inner + column % inner + (reverse ? (length - 1) * inner : 0);
  Total total = 0;
  for (int64_t row = 0; row < length; row += kAhead) {
    Total values[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (row + k < length) {
        values[k] =
            static_cast<Total>(static_cast<computed_t<Out>>(widen(x[first + (row + k) * step])));
      }
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (row + k < length) {
        const Total before = total;
        total += values[k];
        y[first + (row + k) * step] =
            narrow<Out>(static_cast<computed_t<Out>>(exclusive ? before : total));
      }
    }
  }
}

}  // namespace

void cumsum_cuda(const Tensor& x, Tensor& y, bool exclusive, bool reverse, Stream stream) {
  const int64_t outer = x.size(0);
  const int64_t length = x.size(1);
  const int64_t inner = x.size(2);
  dispatch_all(x.dtype(), "cumsum", [&]<class T>() {
    using Out = std::conditional_t<is_floating(dtype_of<T>), T, int64_t>;
    if (inner == 1) {
      launch("cumsum", stream, {static_cast<unsigned>(outer), kThreads}, cumsum_lines<T, Out>,
             x.data<T>(), y.data<Out>(), length, exclusive, reverse);
    } else {
      launch("cumsum", stream, {blocks_for(outer * inner, kThreads), kThreads},
             cumsum_columns<T, Out>, x.data<T>(), y.data<Out>(), outer, length, inner, exclusive,
             reverse);
    }
  });
}

}  // namespace weft

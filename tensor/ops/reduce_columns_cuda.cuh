#pragma once

// Reductions of outputs that lie side by side, and the combination of pieces.
#include "ops/reduce_walk_cuda.cuh"

namespace weft::cuda {

inline constexpr int kColumnsThreads = 256;
/// Rows that a thread loads before it uses the first.
inline constexpr int kColumnsRows = 8;

/// Combines the totals of the block's threads that have the same threadIdx.x % across, a power of
/// two, kWidth each, in a fixed order, and calls body(x, k, total) once for every x < across and
/// k < kWidth.
template <int kWidth, class Reducer, class Total, class Body>
__device__ __forceinline__ void combine_across(const Reducer& reducer, int across,
                                               Total (&total)[kWidth], Body&& body) {
  __shared__ alignas(16) unsigned char memory[kColumnsThreads * kWidth * sizeof(Total)];
  Total* const shared = reinterpret_cast<Total*>(memory);  // [parts, kWidth, across]
  for (int mask = 16; mask >= across; mask /= 2) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      total[k] = reducer.combine(total[k], shuffle_xor(total[k], mask));
    }
  }
  const int apart = across < 32 ? 32 : across;  // threads from one part to the next
  const int x = static_cast<int>(threadIdx.x) % apart;
  if (x < across) {
    const int part = static_cast<int>(threadIdx.x) / apart;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) shared[(part * kWidth + k) * across + x] = total[k];
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < across * kWidth; c += kColumnsThreads) {
    Total sum = shared[c];
    for (int part = 1; part < kColumnsThreads / apart; ++part) {
      sum = reducer.combine(sum, shared[part * across * kWidth + c]);
    }
    body(c % across, c / across, sum);
  }
}

/// `across` neighbours of the block's threads take kWidth neighbouring outputs each, so that loads
/// are of 16 bytes; its other threads take other elements of these outputs. Results as in
/// reduce_rows_kernel().
template <class T, class Reducer, int kWidth>
__global__ void __launch_bounds__(kColumnsThreads, sizeof(typename Reducer::Total) > 8 ? 2 : 3)
    reduce_columns_kernel(const ReduceWalk<T> walk, const Reducer reducer, int across,
                          typename Reducer::Total* totals, typename Reducer::Result* out) {
  constexpr int kRows = kColumnsRows;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * across * kWidth;
  const int64_t output = first + static_cast<int>(threadIdx.x) % across * kWidth;
  const int64_t begin = blockIdx.y * walk.piece;
  const int64_t end = begin + walk.piece < walk.count ? begin + walk.piece : walk.count;
  const int64_t step = int64_t{kRows} * (kColumnsThreads / across);
  Reducer reducers[kWidth];
  typename Reducer::Total total[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    reducers[k] = reducer;
    total[k] = reducer.identity();
  }
  if (output < walk.outputs) {
    const T* const x = walk.x + walk.kept.offset(output);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) reducers[k].start(x + k);
    const bool one_axis = walk.reduced.rank == 1;
    const int64_t stride = walk.reduced.strides[0];
    for (int64_t i = begin + static_cast<int>(threadIdx.x) / across * kRows; i < end; i += step) {
      if (i + kRows <= end) {
        Loaded<T, kWidth> batch[kRows];
        if (one_axis) {
          const T* const from = x + i * stride;
#pragma unroll
          for (int r = 0; r < kRows; ++r) batch[r].load(from + r * stride);
        } else {
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            batch[r].load(x + walk.reduced.offset(i + r));
          }
        }
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          const ColumnValues<T, kWidth, kRows> values{batch, k};
          reducers[k].take(total[k], values, i);
        }
      } else {
#pragma unroll 1
        for (int64_t row = i; row < end; ++row) {
          Loaded<T, kWidth> one[1];
          one[0].load(x + walk.reduced.offset(row));
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            const ColumnValues<T, kWidth, 1> values{one, k};
            reducers[k].take(total[k], values, row);
          }
        }
      }
    }
  }
  combine_across(reducer, across, total, [&](int x, int k, const auto& sum) {
    const int64_t to = first + x * kWidth + k;
    if (to >= walk.outputs) return;
    if (totals != nullptr) {
      totals[blockIdx.y * walk.outputs + to] = sum;
    } else {
      out[to] = reducer.finish(sum, walk.count);
    }
  });
}

/// totals [pieces, outputs]: `across` neighbours of a block take an output each, and share its
/// pieces with the block's other threads.
template <class Reducer>
__global__ void __launch_bounds__(kColumnsThreads)
    finish_pieces_kernel(const typename Reducer::Total* __restrict__ totals, int64_t pieces,
                         int64_t outputs, int64_t count, const Reducer reducer, int across,
                         typename Reducer::Result* out) {
  constexpr int kAhead = 8;
  const int64_t output =
      static_cast<int64_t>(blockIdx.x) * across + static_cast<int>(threadIdx.x) % across;
  const int64_t lanes = kColumnsThreads / across;
  typename Reducer::Total total[1] = {reducer.identity()};
  if (output < outputs) {
    for (int64_t piece = static_cast<int>(threadIdx.x) / across; piece < pieces;
         piece += kAhead * lanes) {
      typename Reducer::Total ahead[kAhead];
#pragma unroll
      for (int p = 0; p < kAhead; ++p) {
        ahead[p] = reducer.identity();
        if (piece + p * lanes < pieces) ahead[p] = totals[(piece + p * lanes) * outputs + output];
      }
#pragma unroll
      for (int p = 0; p < kAhead; ++p) total[0] = reducer.combine(total[0], ahead[p]);
    }
  }
  combine_across(reducer, across, total, [&](int x, int, const auto& sum) {
    const int64_t to = static_cast<int64_t>(blockIdx.x) * across + x;
    if (to < outputs) out[to] = reducer.finish(sum, count);
  });
}

}  // namespace weft::cuda

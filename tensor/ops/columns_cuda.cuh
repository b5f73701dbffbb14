#pragma once

// Walks along the middle axis of dense [outer, length, inner]: a thread takes kWidth neighbouring
// columns, so that neighbours read neighbours. Where columns are too few to fill a GPU, each is cut
// into pieces, whose totals are made and combined first. Shapes alone decide how.
#include <algorithm>

#include "ops/rows_cuda.cuh"

namespace weft::cuda {

inline constexpr int kColumnThreads = 256;

struct ColumnPieces {
  int64_t packs;  // of kWidth columns
  int64_t length, inner;
  int64_t piece, pieces;  // rows of a piece, and pieces of a column

  ColumnPieces(int64_t outer, int64_t all_rows, int64_t inner_size, int width)
      : packs(outer * inner_size / width), length(all_rows), inner(inner_size) {
    constexpr int64_t kEnough = 16384;  // packs that are worth no second reading
    constexpr int64_t kWanted = 65536;
    constexpr int64_t kLeastRows = 32;
    pieces = 1;
    if (packs > 0 && packs < kEnough) {
      pieces =
          std::clamp<int64_t>(length / kLeastRows, 1, std::min<int64_t>(kWanted / packs, 1024));
    }
    piece = std::max<int64_t>(1, ceil_div(length, pieces));
    pieces = std::max<int64_t>(1, ceil_div(length, piece));
  }

  int64_t columns(int width) const { return packs * width; }
  LaunchShape shape() const {
    const auto threads =
        static_cast<unsigned>(std::clamp<int64_t>(ceil_div(packs, 32) * 32, 32, kColumnThreads));
    return {dim3(blocks_for(packs, threads), static_cast<unsigned>(pieces)), threads};
  }

  __device__ __forceinline__ int64_t pack() const {
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  }
  /// Where row 0 of a column lies.
  __device__ __forceinline__ int64_t place(int64_t column) const {
    const int64_t group = column / inner;
    return group * length * inner + (column - group * inner);
  }
  __device__ __forceinline__ int64_t begin() const { return blockIdx.y * piece; }
  __device__ __forceinline__ int64_t end() const {
    return (blockIdx.y + 1) * piece < length ? (blockIdx.y + 1) * piece : length;
  }
};

/// Whether packs of 16 bytes along `inner` can be read from all of these addresses.
template <class T, class... Pointers>
bool columns_are_aligned(int64_t inner, const Pointers*... pointers) {
  return inner % kPackWidth<T> == 0 && (is_aligned(pointers, 0) && ...);
}

/// totals [pieces, columns]: 32 neighbours of a block take a column each, its warps pieces in turn.
/// The block's combine(a, b) of a column goes to whole [columns].
template <class Total, class Combine>
__global__ void __launch_bounds__(kColumnThreads)
    combine_pieces(const Total* __restrict__ totals, int64_t pieces, int64_t columns,
                   Total* __restrict__ whole, Combine combine) {
  constexpr int kWarps = kColumnThreads / 32;
  __shared__ alignas(Total) unsigned char memory[kColumnThreads * sizeof(Total)];
  Total* const parts = reinterpret_cast<Total*>(memory);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x % 32;
  Total total{};
  if (column < columns) {
#pragma unroll 4
    for (int64_t piece = threadIdx.x / 32; piece < pieces; piece += kWarps) {
      total = combine(total, totals[piece * columns + column]);
    }
  }
  parts[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x >= 32 || column >= columns) return;
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) {
    total = combine(total, parts[warp * 32 + threadIdx.x]);
  }
  whole[column] = total;
}

/// Replaces totals [pieces, columns] by the sums of the pieces before.
template <class Total>
__global__ void __launch_bounds__(kColumnThreads)
    sum_pieces_before(Total* __restrict__ totals, int64_t pieces, int64_t columns) {
  constexpr int kWarps = kColumnThreads / 32;
  constexpr int kAhead = 8;
  __shared__ Total of_warp[kWarps][32];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t share = ceil_div(pieces, kWarps);
  const int64_t begin = warp * share;
  const int64_t end = column >= columns ? begin : begin + share < pieces ? begin + share : pieces;
  Total total = 0;
#pragma unroll 8
  for (int64_t piece = begin; piece < end; ++piece) total += totals[piece * columns + column];
  of_warp[warp][threadIdx.x % 32] = total;
  __syncthreads();
  Total before = 0;
  for (int other = 0; other < warp; ++other) before += of_warp[other][threadIdx.x % 32];
  for (int64_t piece = begin; piece < end; piece += kAhead) {
    Total values[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (piece + k < end) values[k] = totals[(piece + k) * columns + column];
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (piece + k < end) {
        totals[(piece + k) * columns + column] = before;
        before += values[k];
      }
    }
  }
}

}  // namespace weft::cuda

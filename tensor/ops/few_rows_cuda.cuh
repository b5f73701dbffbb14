#pragma once

// y = x w^T for few rows x, in which reading w once is all the work: a warp has a row of w at a
// time, with kPacks copies of 16 bytes a lane in flight, and the rows of x in shared memory. A row
// may be the normed sum of two, which every block computes for itself while its first copies of w
// are on their way; and two matrices may give silu(x w^T) * (x u^T) in one go.
//
// Copies go to shared memory, of which there is plenty, and not to registers, so that blocks of the
// next kernels find room beside those of this one and begin to read their weights.
//
// Sums depend on K alone: lanes add up their elements in order, and lanes are added as a tree.
#include "cuda/async_copy.cuh"
#include "cuda/overlapped_launch.cuh"
#include "cuda/streaming_load.cuh"
#include "ops/few_rows_cuda.h"
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

inline constexpr int kFewRowsThreads = 256;
inline constexpr int kFewRowsWarps = kFewRowsThreads / 32;

template <class T>
struct FewRows {
  using A = accumulator_t<T>;
  const T* x;
  int64_t x_stride;
  const T* residual;  // may be null
  int64_t residual_stride;
  T* sum;         // dense; where there is a residual
  const A* gain;  // may be null
  A eps;
  const T* weight;
  int64_t weight_stride;
  const T* up;
  int64_t up_stride;
  const A* bias;  // may be null
  T* y;
  int64_t y_stride;
  int rows, columns, length;
};

template <class T>
__device__ __forceinline__ void widen_bits(const uint4& bits,
                                           accumulator_t<T> (&values)[kPackWidth<T>]) {
  Pack<T, kPackWidth<T>> pack;
  memcpy(&pack, &bits, sizeof pack);
  widen_pack(pack, values);
}

/// The rows as the product reads them, in shared memory: rows [kRows][length], those past p.rows
/// zero. Waits for earlier kernels.
template <int kRows, class T>
__device__ __forceinline__ void gather_rows(const FewRows<T>& p, T* rows) {
  using A = accumulator_t<T>;
  constexpr int kWidth = kPackWidth<T>;
  // What most rows have for a thread is there before their elements are.
  A first_gain[kWidth] = {};
  if (p.gain != nullptr && static_cast<int>(threadIdx.x) * kWidth < p.length)
    load_values<kWidth>(p.gain + threadIdx.x * kWidth, first_gain);
  wait_for_earlier_kernels();
  __shared__ A parts[kFewRowsWarps][kRows];
  const int thread = static_cast<int>(threadIdx.x);
  A squares[kRows] = {};
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    for (int i = thread * kWidth; i < p.length; i += kFewRowsThreads * kWidth) {
      Pack<T, kWidth> pack{};
      if (m < p.rows) {
        pack = load_fresh_pack(p.x + m * p.x_stride + i);
        if (p.residual != nullptr) {
          const auto added = load_fresh_pack(p.residual + m * p.residual_stride + i);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            pack.values[k] = narrow<T>(widen(pack.values[k]) + widen(added.values[k]));
          }
          if (blockIdx.x == 0) store_pack(p.sum + static_cast<int64_t>(m) * p.length + i, pack);
        }
      }
      store_pack(rows + m * p.length + i, pack);
      if (p.gain != nullptr) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          const A value = widen(pack.values[k]);
          squares[m] += value * value;
        }
      }
    }
  }
  if (p.gain != nullptr) {
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      squares[m] = sum_over<32>(squares[m]);
      if (thread % 32 == 0) parts[thread / 32][m] = squares[m];
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      A total = 0;
#pragma unroll
      for (int warp = 0; warp < kFewRowsWarps; ++warp) total += parts[warp][m];
      const A scale = A(1) / sqrt(total / static_cast<A>(p.length) + p.eps);
      // Each thread turns what it has written itself.
      for (int i = thread * kWidth; i < p.length; i += kFewRowsThreads * kWidth) {
        A gain[kWidth], values[kWidth];
        if (i == thread * kWidth) {
#pragma unroll
          for (int k = 0; k < kWidth; ++k) gain[k] = first_gain[k];
        } else {
          load_values<kWidth>(p.gain + i, gain);
        }
        widen_pack(load_pack<kWidth>(rows + m * p.length + i), values);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values[k] = values[k] * scale * gain[k];
        store_values(rows + m * p.length + i, values);
      }
    }
  }
  __syncthreads();
}

template <class T>
__device__ __forceinline__ accumulator_t<T> gated(accumulator_t<T> gate, accumulator_t<T> up) {
  using A = accumulator_t<T>;
  // Both as the product of their own would have been stored.
  const A g = widen(narrow<T>(gate)), u = widen(narrow<T>(up));
  return g * (A(1) / (A(1) + exponential<T>(-g))) * u;
}

/// Blocks of a multiprocessor.
template <int kRows, int kPacks, bool kGated>
inline constexpr int kFewRowsResident = kPacks <= 4 && kRows <= 4 ? 3 : 2;

/// Blocks that registers would be enough for.
template <int kRows>
inline constexpr int kFewRowsAtMost = kRows == 1   ? 5
                                      : kRows == 4 ? 4
                                                   : 3;

/// Shared memory: the rows of x, then what the lanes of each warp copy.
template <class T, int kRows, int kPacks, bool kGated>
struct FewRowsMemory {
  size_t copies_at, bytes;

  __host__ __device__ explicit FewRowsMemory(int length)
      : copies_at(sizeof(T) * kRows * static_cast<size_t>(length)),
        bytes(copies_at + sizeof(uint4) * kFewRowsThreads * kPacks * (kGated ? 2 : 1)) {}
};

template <class T, int kRows, int kPacks, bool kGated>
__global__ void __launch_bounds__(kFewRowsThreads, kFewRowsAtMost<kRows>)
    few_rows_kernel(const FewRows<T> p) {
  using A = accumulator_t<T>;
  constexpr int kWidth = kPackWidth<T>;
  constexpr int kWeights = kGated ? 2 : 1;
  constexpr int kChunk = 32 * kPacks;  // packs of a row that a warp has in flight
  extern __shared__ __align__(16) unsigned char memory[];
  T* const rows = reinterpret_cast<T*>(memory);
  const FewRowsMemory<T, kRows, kPacks, kGated> lies(p.length);
  // A lane reads what it has copied itself: nobody waits for another.
  uint4* const copied = reinterpret_cast<uint4*>(memory + lies.copies_at) + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int packs = p.length / kWidth;
  const int step = static_cast<int>(gridDim.x) * kFewRowsWarps;
  int column = static_cast<int>(blockIdx.x) * kFewRowsWarps + static_cast<int>(threadIdx.x) / 32;

  const auto copy = [&](int of_column, int first, int u) {
    const int at = first + u * 32 + lane;
    if (of_column < p.columns && at < packs) {
      copy_pack_async(copied + u * kWeights * kFewRowsThreads,
                      p.weight + of_column * p.weight_stride + at * kWidth);
      if constexpr (kGated) {
        copy_pack_async(copied + (u * kWeights + 1) * kFewRowsThreads,
                        p.up + of_column * p.up_stride + at * kWidth);
      }
    }
    end_copy_group();  // also of none, so that groups can be counted
  };
  let_next_kernel_start();
#pragma unroll
  for (int u = 0; u < kPacks; ++u) copy(column, 0, u);
  gather_rows<kRows>(p, rows);

  for (; column < p.columns; column += step) {
    A sums[kWeights][kRows] = {};
    for (int first = 0; first < packs; first += kChunk) {
      const bool is_last = first + kChunk >= packs;
      const int next_column = is_last ? column + step : column;
      const int next_first = is_last ? 0 : first + kChunk;
#pragma unroll
      for (int u = 0; u < kPacks; ++u) {
        const int at = first + u * 32 + lane;
        wait_for_copy_groups<kPacks - 1>();
        if (at < packs) {
          A weights[kWeights][kWidth];
#pragma unroll
          for (int w = 0; w < kWeights; ++w)
            widen_bits<T>(copied[(u * kWeights + w) * kFewRowsThreads], weights[w]);
#pragma unroll
          for (int m = 0; m < kRows; ++m) {
            A values[kWidth];
            widen_pack(load_pack<kWidth>(rows + m * p.length + at * kWidth), values);
#pragma unroll
            for (int w = 0; w < kWeights; ++w) {
#pragma unroll
              for (int k = 0; k < kWidth; ++k) sums[w][m] += weights[w][k] * values[k];
            }
          }
        }
        copy(next_column, next_first, u);
      }
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
#pragma unroll
      for (int w = 0; w < kWeights; ++w) sums[w][m] = sum_over<32>(sums[w][m]);
      if (lane == m && m < p.rows) {
        A result = sums[0][m];
        if constexpr (kGated) {
          result = gated<T>(result, sums[1][m]);
        } else if (p.bias != nullptr) {
          result += p.bias[column];
        }
        p.y[m * p.y_stride + column] = narrow<T>(result);
      }
    }
  }
}

/// Copies in flight for a row of so many packs a lane, where `columns` rows are to be read.
inline int packs_in_flight(int per_lane, int64_t columns) {
  if (per_lane <= 4 || columns >= 8192) return 4;
  const auto padded = [&](int packs) { return (per_lane + packs - 1) / packs * packs; };
  return padded(12) <= padded(8) ? 12 : 8;
}

}  // namespace weft::cuda

namespace weft {

template <class T>
bool run_few_rows(const FewRowsParams& params, Stream stream) {
  using namespace cuda;
  using A = accumulator_t<T>;
  const Tensor& x = params.x;
  const bool has_residual = params.residual.defined(), is_gated = params.up.defined();
  const FewRows<T> p{.x = x.data<T>(),
                     .x_stride = x.strides()[0],
                     .residual = has_residual ? params.residual.data<T>() : nullptr,
                     .residual_stride = has_residual ? params.residual.strides()[0] : 0,
                     .sum = has_residual ? static_cast<T*>(params.sum.raw_data()) : nullptr,
                     .gain = params.gain.defined() ? params.gain.data<A>() : nullptr,
                     .eps = static_cast<A>(params.eps),
                     .weight = params.weight.data<T>(),
                     .weight_stride = params.weight.strides()[0],
                     .up = is_gated ? params.up.data<T>() : nullptr,
                     .up_stride = is_gated ? params.up.strides()[0] : 0,
                     .bias = params.bias.defined() ? params.bias.data<A>() : nullptr,
                     .y = static_cast<T*>(params.y.raw_data()),
                     .y_stride = params.y.strides()[0],
                     .rows = static_cast<int>(x.size(0)),
                     .columns = static_cast<int>(params.weight.size(0)),
                     .length = static_cast<int>(x.size(1))};
  const int per_lane = static_cast<int>(ceil_div(p.length, 32 * kPackWidth<T>));
  const DeviceContext& context = device_context(stream.device());
  const int multiprocessors = context.multiprocessors();
  // What a block may have besides what it has by itself.
  const size_t most_shared_bytes = context.properties().sharedMemPerBlockOptin - 1024;
  bool fits = false;
  const auto run = [&]<int kRows, int kPacks, bool kGated>() {
    size_t shared_bytes = FewRowsMemory<T, kRows, kPacks, kGated>(p.length).bytes;
    // With what the kernel has by itself this would be more than it gets without asking.
    constexpr size_t kPlainBytes = size_t{48} << 10;
    if (shared_bytes <= kPlainBytes && shared_bytes + 1024 > kPlainBytes)
      shared_bytes = kPlainBytes + 16;
    fits = shared_bytes <= most_shared_bytes;
    if (!fits) return;
    const auto resident =
        static_cast<unsigned>(multiprocessors * kFewRowsResident<kRows, kPacks, kGated>);
    const auto blocks = static_cast<unsigned>(ceil_div(p.columns, kFewRowsWarps));
    launch_overlapped("few_rows_product", stream,
                      {blocks < resident ? blocks : resident, kFewRowsThreads, shared_bytes},
                      params.settled, few_rows_kernel<T, kRows, kPacks, kGated>, p);
  };
  const auto run_rows = [&]<int kRows>() {
    if (is_gated) return run.template operator()<kRows, 4, true>();
    switch (packs_in_flight(per_lane, p.columns)) {
      case 4:
        return run.template operator()<kRows, 4, false>();
      case 8:
        return run.template operator()<kRows, 8, false>();
      default:
        return run.template operator()<kRows, 12, false>();
    }
  };
  if (p.rows == 1) {
    run_rows.template operator()<1>();
  } else if (p.rows <= 4) {
    run_rows.template operator()<4>();
  } else {
    run_rows.template operator()<8>();
  }
  return fits;
}

}  // namespace weft

#pragma once

// What the kernels of y = x w^T for few rows x have in common. Reading w once is all their work. A
// row of x may be the normed sum of two, which every block computes for itself while its first
// reads of w are on their way; and two matrices may give silu(x w^T) * (x u^T) in one go.
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

/// The rows as the product reads them, in shared memory: rows [kRows][stride], those past p.rows
/// zero. Waits for earlier kernels.
template <int kRows, class T>
__device__ __forceinline__ void gather_rows(const FewRows<T>& p, T* rows, int stride) {
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
      store_pack(rows + m * stride + i, pack);
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
        widen_pack(load_pack<kWidth>(rows + m * stride + i), values);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values[k] = values[k] * scale * gain[k];
        store_values(rows + m * stride + i, values);
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

template <class T>
FewRows<T> few_rows_of(const FewRowsParams& params) {
  using A = accumulator_t<T>;
  const Tensor& x = params.x;
  const bool has_residual = params.residual.defined(), is_gated = params.up.defined();
  return {.x = x.data<T>(),
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
}

}  // namespace weft::cuda

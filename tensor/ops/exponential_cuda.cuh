#pragma once

// Exponentials of terms that are small beside the largest of a row or column.
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

/// exponential() for half types with zero for what is below the least normal float, in two
/// instructions rather than five.
template <class T>
__device__ __forceinline__ accumulator_t<T> quick_exponential(accumulator_t<T> x) {
  if constexpr (sizeof(T) == 2) {
    constexpr float kLog2OfE = 1.44269504f;
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * kLog2OfE));
    return result;
  } else {
    return exponential<T>(x);
  }
}

/// Running::take() with quick_exponential().
template <class T, int kWidth>
__device__ __forceinline__ void take_quickly(Running<T>& running,
                                             const accumulator_t<T> (&values)[kWidth]) {
  using A = accumulator_t<T>;
  A highest = running.max;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) highest = KeepLarger()(highest, values[k]);
  if (highest == kMinusInfinity<A>) return;
  if (highest != running.max) running.sum *= quick_exponential<T>(running.max - highest);
  running.max = highest;
  A sum = 0;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) sum += quick_exponential<T>(values[k] - highest);
  running.sum += sum;
}

}  // namespace weft::cuda

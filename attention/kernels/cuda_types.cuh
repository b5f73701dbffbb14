#pragma once

// What all CUDA kernels of this folder share: element types and small numeric helpers.
#include <cstdint>
#include <string>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/error.h"
#include "weft/tensor/stream.h"

#include "cuda/launch.cuh"

namespace weft::attention::gpu {

using weft::cuda::launch;

/// The device's own type for an element type.
template <class T>
struct NativeOf {
  using type = T;
};
template <>
struct NativeOf<bf16> {
  using type = __nv_bfloat16;
};
template <>
struct NativeOf<f16> {
  using type = __half;
};
template <class T>
using native_t = typename NativeOf<T>::type;

/// The type in which sums over a native type are kept.
template <class T>
using sum_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
inline constexpr bool is_half = sizeof(T) == 2;

template <class T>
__device__ __forceinline__ sum_t<T> widen(T x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __bfloat162float(x);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __half2float(x);
  } else {
    return x;
  }
}

template <class T>
__device__ __forceinline__ T narrow(sum_t<T> x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return x;
  }
}

/// Two neighbouring elements; `to` is aligned to both.
template <class T>
__device__ __forceinline__ void store_pair(T* to, sum_t<T> x, sum_t<T> y) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(x, y);
  } else if constexpr (std::is_same_v<T, __half>) {
    *reinterpret_cast<__half2*>(to) = __floats2half2_rn(x, y);
  } else {
    to[0] = x;
    to[1] = y;
  }
}

/// 2^x. Where results are rounded to a half type, the unit's own approximation is close enough.
template <class T>
__device__ __forceinline__ sum_t<T> power_of_two(sum_t<T> x) {
  if constexpr (is_half<T>) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  } else {
    return exp2(x);
  }
}

template <class A>
__device__ __forceinline__ A infinity() {
  return static_cast<A>(__int_as_float(0x7f800000));
}

template <class A>
inline constexpr A kLog2e = static_cast<A>(1.4426950408889634074);

/// The sum of all lanes, in every lane, always added in the same order.
template <class A>
__device__ __forceinline__ A warp_sum(A x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

/// Bytes of shared memory that a block may have on the stream's device.
inline size_t most_shared_bytes(Stream stream) {
  return cuda::device_context(stream.device()).properties().sharedMemPerBlockOptin;
}

/// Blocks of a one-dimensional grid.
inline unsigned grid_size(const char* op, int64_t blocks) {
  if (blocks > INT32_MAX) {
    throw ShapeError(std::string(op) + ": needs " + std::to_string(blocks) +
                     " blocks of threads, more than a grid holds");
  }
  return static_cast<unsigned>(blocks);
}

/// Calls body.template operator()<T>() with the native type of `dtype`.
template <class Body>
void dispatch_native(DType dtype, const char* op, const Body& body) {
  dispatch_floating(dtype, op, [&]<class T>() { body.template operator()<native_t<T>>(); });
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace weft::attention::gpu

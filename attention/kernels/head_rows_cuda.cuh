#pragma once

#include <cstdint>

#include "weft/tensor/tensor.h"

namespace weft::attention::gpu {

/// A tensor [B, T, H, D] with a dense last axis, as kernels see it.
struct HeadRows {
  void* data = nullptr;
  int64_t batch_stride = 0, row_stride = 0, head_stride = 0;

  /// Row (b, t, h).
  template <class T>
  __device__ T* at(int64_t b, int64_t t, int64_t h) const {
    return static_cast<T*>(data) + b * batch_stride + t * row_stride + h * head_stride;
  }
};

inline HeadRows rows_of(const Tensor& x) {
  return {x.raw_data(), x.stride(0), x.stride(1), x.stride(2)};
}

}  // namespace weft::attention::gpu

#pragma once

#include <array>
#include <cstdint>

#include "weft/tensor/parallel.h"
#include "weft/tensor/shape.h"

namespace weft {

/// The axes of an elementwise loop over N operands of one shape, merged where every operand is
/// dense across the border, so that the inner loop is as long as the layouts allow. Strides are in
/// elements.
template <int N>
struct StridedLoop {
  Shape shape;                     // merged; rank at least 1
  std::array<Strides, N> strides;  // per operand

  StridedLoop(const Shape& full_shape, const std::array<Strides, N>& full_strides) {
    for (int axis = 0; axis < full_shape.rank(); ++axis) {
      if (full_shape[axis] == 1) continue;
      bool mergeable = shape.rank() > 0;
      for (int i = 0; i < N && mergeable; ++i) {
        mergeable = strides[i][shape.rank() - 1] == full_strides[i][axis] * full_shape[axis];
      }
      if (mergeable) {
        shape[shape.rank() - 1] *= full_shape[axis];
        for (int i = 0; i < N; ++i) strides[i][shape.rank() - 1] = full_strides[i][axis];
      } else {
        shape.push_back(full_shape[axis]);
        for (int i = 0; i < N; ++i) strides[i].push_back(full_strides[i][axis]);
      }
    }
    if (shape.rank() == 0) {
      shape.push_back(1);
      for (int i = 0; i < N; ++i) strides[i].push_back(1);
    }
  }

  /// Calls body(offsets, inner_strides, count) for runs along the last axis, on all threads:
  /// element k of operand i lies at offsets[i] + k * inner_strides[i].
  template <class Body>
  void for_each_run(int64_t grain, Body&& body) const {
    const int last = shape.rank() - 1;
    const int64_t inner = shape[last];
    std::array<int64_t, N> inner_strides;
    for (int i = 0; i < N; ++i) inner_strides[i] = strides[i][last];
    parallel_for(0, shape.numel(), grain, [&](int64_t begin, int64_t end) {
      for (int64_t position = begin; position < end;) {
        int64_t rest = position / inner;
        const int64_t start = position % inner;
        const int64_t count = std::min(inner - start, end - position);
        std::array<int64_t, N> offsets;
        for (int i = 0; i < N; ++i) offsets[i] = start * inner_strides[i];
        for (int axis = last - 1; axis >= 0; --axis) {
          const int64_t index = rest % shape[axis];
          rest /= shape[axis];
          for (int i = 0; i < N; ++i) offsets[i] += index * strides[i][axis];
        }
        body(offsets, inner_strides, count);
        position += count;
      }
    });
  }
};

/// Elements per thread below which a simple elementwise loop is not worth splitting.
inline constexpr int64_t kElementwiseGrain = 32768;

}  // namespace weft

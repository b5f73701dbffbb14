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

  /// Walks positions [begin, end), in row-major order and not empty, and calls body(offsets,
  /// inner_strides, count) for each run along the last axis: element k of operand i lies at
  /// offsets[i] + k * inner_strides[i].
  template <class Body>
  void walk_runs(int64_t begin, int64_t end, Body&& body) const {
    const int last = shape.rank() - 1;
    std::array<int64_t, kMaxRank> index;
    std::array<int64_t, N> offsets{};
    std::array<int64_t, N> inner_strides;
    int64_t rest = begin;
    for (int axis = last; axis >= 0; --axis) {
      const auto at = static_cast<size_t>(axis);
      index[at] = axis > 0 ? rest % shape[axis] : rest;
      rest /= shape[axis];
      for (int i = 0; i < N; ++i) offsets[i] += index[at] * strides[i][axis];
    }
    for (int i = 0; i < N; ++i) inner_strides[i] = strides[i][last];
    for (int64_t position = begin;;) {
      int64_t& start = index[static_cast<size_t>(last)];
      const int64_t count = std::min(shape[last] - start, end - position);
      body(offsets, inner_strides, count);
      position += count;
      if (position == end) return;
      for (int i = 0; i < N; ++i) offsets[i] -= start * inner_strides[i];
      start = 0;
      for (int axis = last - 1; axis >= 0; --axis) {
        const auto at = static_cast<size_t>(axis);
        for (int i = 0; i < N; ++i) offsets[i] += strides[i][axis];
        if (++index[at] < shape[axis]) break;
        for (int i = 0; i < N; ++i) offsets[i] -= index[at] * strides[i][axis];
        index[at] = 0;
      }
    }
  }

  /// walk_runs() over all positions, on all threads.
  template <class Body>
  void for_each_run(int64_t grain, Body&& body) const {
    parallel_for(0, shape.numel(), grain,
                 [&](int64_t begin, int64_t end) { walk_runs(begin, end, body); });
  }
};

/// Elements per thread below which a simple elementwise loop is not worth splitting.
inline constexpr int64_t kElementwiseGrain = 32768;

}  // namespace weft

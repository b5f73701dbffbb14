#pragma once

#include <array>
#include <span>

#include "weft/tensor/tensor.h"

#include "ops/strided.h"

// What libraries of matrix products ask of the layout of an operand [batch..., rows, columns].

namespace weft {

/// The elements of a row lie side by side, and rows do not overlap.
inline bool has_dense_rows(const Tensor& matrix) {
  const int64_t rows = matrix.size(-2), columns = matrix.size(-1);
  return (matrix.stride(-1) == 1 || columns == 1) && (matrix.stride(-2) >= columns || rows == 1);
}

/// Its rows or its columns are dense.
inline bool has_dense_axis(const Tensor& matrix) {
  return has_dense_rows(matrix) || has_dense_rows(matrix.transpose(-1, -2));
}

/// The operand itself, or a copy with dense rows. Repeated batch axes stay repeated.
inline Tensor with_dense_axis(const Tensor& operand) {
  if (has_dense_axis(operand)) return operand;
  Tensor once = operand;
  for (int axis = 0; axis < operand.rank() - 2; ++axis) {
    if (operand.strides()[axis] == 0) once = once.slice(axis, 0, 1);
  }
  return once.clone().expand(operand.shape());
}

/// Distance of two rows of a matrix with dense rows; where there is one row only, what libraries
/// that check it take.
inline int64_t leading_size(const Tensor& matrix) {
  return matrix.size(-2) == 1 ? matrix.size(-1) : matrix.stride(-2);
}

/// The axes before the last two.
inline Shape batch_axes(const Shape& sizes) {
  return Shape(std::span(sizes.begin(), static_cast<size_t>(sizes.rank() - 2)));
}

/// The batch axes of c, a and b, merged where that is possible.
using BatchLoop = StridedLoop<3>;

inline BatchLoop make_batch_loop(const Tensor& c, const Tensor& a, const Tensor& b) {
  return {batch_axes(c.shape()),
          {batch_axes(c.strides()), batch_axes(a.strides()), batch_axes(b.strides())}};
}

/// Offsets of c, a and b in matrix number `index` of the batch.
inline std::array<int64_t, 3> batch_offsets(const BatchLoop& batch, int64_t index) {
  std::array<int64_t, 3> offsets{};
  for (int axis = batch.shape.rank() - 1; axis >= 0; --axis) {
    const int64_t position = index % batch.shape[axis];
    index /= batch.shape[axis];
    for (size_t i = 0; i < 3; ++i) offsets[i] += position * batch.strides[i][axis];
  }
  return offsets;
}

}  // namespace weft

#pragma once

#include <algorithm>
#include <cstdint>

#include "weft/tensor/tensor.h"

namespace weft {

/// The tensor as a matrix [rows, length of the last axis] whose rows are dense and equally far
/// apart: a view where its layout allows (slices of a packed projection do), otherwise a copy.
Tensor as_rows(const Tensor& tensor);

/// A split of rows into blocks that depends on the sizes alone, so that sums over rows taken per
/// block and then over blocks come out the same for every number of threads.
struct RowBlocks {
  int64_t rows = 0;
  int64_t rows_per_block = 1;
  int64_t count = 0;

  RowBlocks(int64_t rows, int64_t length);
  int64_t begin(int64_t block) const { return block * rows_per_block; }
  int64_t end(int64_t block) const { return std::min(rows, begin(block) + rows_per_block); }
};

/// Rows per thread below which a kernel over rows is not worth splitting.
int64_t row_grain(int64_t length);

/// Sums the rows of `partials` [blocks, length] (f32 or f64) in their order into `total` [length].
void sum_partials_cpu(const Tensor& partials, Tensor& total);

// Checks of the user functions over rows; `op` and `name` go into the error.

/// A floating tensor with a last axis of at least one element.
void check_row_input(const char* op, const Tensor& x);
/// [length of x's last axis], of x's type or f32 (f64 for f64).
void check_row_weight(const char* op, const char* name, const Tensor& weight, const Tensor& x);
/// `tensor` has the shape, type and device of `other`.
void check_same_kind(const char* op, const char* name, const Tensor& tensor, const char* other_name,
                     const Tensor& other);
/// A statistic of every row: x's shape without the last axis, of accumulator_of(x).
void check_row_statistic(const char* op, const char* name, const Tensor& statistic,
                         const Tensor& x);

/// The type in which sums over elements of this type are kept.
DType accumulator_of(DType dtype);
Shape without_last_axis(Shape shape);

}  // namespace weft

#pragma once

#include <algorithm>
#include <cstdint>

#include "weft/tensor/tensor.h"

namespace weft {

/// The tensor as a matrix [rows, length of the last axis] whose rows are dense and equally far
/// apart: a view where its layout allows (slices of a packed projection do), otherwise a copy.
Tensor as_rows(const Tensor& tensor);

/// Whether as_rows() gives a view.
bool has_dense_rows(const Tensor& tensor);

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

}  // namespace weft

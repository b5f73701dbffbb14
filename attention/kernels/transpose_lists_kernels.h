#pragma once

#include <cstdint>

#include "weft/tensor/stream.h"

namespace weft::attention {

/// `matrices` sparse matrices of the same size, each as ascending lists of the columns in every
/// row. List r of matrix m is items[offsets[m * rows + r]] up to the next offset; offsets[0] = 0.
struct TransposeListsParams {
  int64_t matrices = 0, rows = 0, columns = 0;
  const int64_t* offsets = nullptr;  // [matrices * rows + 1]
  const int32_t* items = nullptr;
  int64_t* column_offsets = nullptr;  // [matrices * columns + 1], out
  int32_t* column_items = nullptr;    // as many as items, out: the rows of every column
};

void transpose_lists_cpu(const TransposeListsParams& params, Stream stream);
void transpose_lists_cuda(const TransposeListsParams& params, Stream stream);

}  // namespace weft::attention

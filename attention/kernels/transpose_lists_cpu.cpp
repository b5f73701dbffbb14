// Counting sort of list entries by column. Rows are visited in order, so that the rows of a column
// ascend. The entries of a matrix keep their place among those of the others: matrices are
// independent tasks.
#include <algorithm>

#include "weft/tensor/parallel.h"
#include "weft/tensor/tensor.h"

#include "kernels/transpose_lists_kernels.h"

namespace weft::attention {

void transpose_lists_cpu(const TransposeListsParams& p, Stream /*stream*/) {
  p.column_offsets[0] = 0;
  // Where the next entry of each column goes.
  Tensor cursors = empty({num_threads(), p.columns}, DType::i64);
  int64_t* const all_cursors = cursors.data<int64_t>();
  parallel_for_dynamic(0, p.matrices, 1, [&](int64_t begin, int64_t end, int thread) {
    int64_t* const cursor = all_cursors + thread * p.columns;
    for (int64_t matrix = begin; matrix < end; ++matrix) {
      const int64_t* const offsets = p.offsets + matrix * p.rows;
      std::fill_n(cursor, p.columns, 0);
      for (int64_t i = offsets[0]; i < offsets[p.rows]; ++i) ++cursor[p.items[i]];
      int64_t* const ends = p.column_offsets + matrix * p.columns + 1;
      int64_t sum = offsets[0];
      for (int64_t column = 0; column < p.columns; ++column) {
        const int64_t count = cursor[column];
        cursor[column] = sum;
        sum += count;
        ends[column] = sum;
      }
      for (int64_t row = 0; row < p.rows; ++row) {
        for (int64_t i = offsets[row]; i < offsets[row + 1]; ++i)
          p.column_items[cursor[p.items[i]]++] = static_cast<int32_t>(row);
      }
    }
  });
}

}  // namespace weft::attention

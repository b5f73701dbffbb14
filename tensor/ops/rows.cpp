#include "ops/rows.h"

#include <algorithm>

#include "weft/tensor/check.h"
#include "weft/tensor/parallel.h"

#include "ops/strided.h"

namespace weft {
namespace {

struct RowLayout {
  bool dense = true;
  int64_t stride = 0;
};

/// The distance of rows, where all outer axes can be merged into one.
RowLayout row_layout(const Tensor& tensor) {
  const Shape& shape = tensor.shape();
  const Strides& strides = tensor.strides();
  const int last = tensor.rank() - 1;
  RowLayout rows{.dense = shape[last] <= 1 || strides[last] == 1, .stride = shape[last]};
  bool first = true;
  int64_t expected = 0;  // stride at which the next axis merges
  for (int axis = last - 1; axis >= 0; --axis) {
    if (shape[axis] == 1) continue;
    if (first) {
      rows.stride = strides[axis];
      first = false;
    } else if (strides[axis] != expected) {
      rows.dense = false;
    }
    expected = strides[axis] * shape[axis];
  }
  return rows;
}

template <class A>
void sum_partials(const Tensor& partials, Tensor& total) {
  const int64_t blocks = partials.size(0);
  const int64_t length = partials.size(1);
  const A* const from = partials.data<A>();
  A* const to = total.data<A>();
  parallel_for(0, length, std::max<int64_t>(64, kElementwiseGrain / std::max<int64_t>(blocks, 1)),
               [&](int64_t begin, int64_t end) {
                 std::fill(to + begin, to + end, A(0));
                 for (int64_t block = 0; block < blocks; ++block) {
                   const A* const row = from + block * length;
                   for (int64_t i = begin; i < end; ++i) to[i] += row[i];
                 }
               });
}

}  // namespace

bool has_dense_rows(const Tensor& tensor) {
  return tensor.numel() == 0 || row_layout(tensor).dense;
}

Tensor as_rows(const Tensor& tensor) {
  const int64_t length = tensor.shape().back();
  const int64_t rows = length == 0 ? 0 : tensor.numel() / length;
  if (tensor.numel() == 0) {
    return Tensor(tensor.storage(), {{rows, length}, {length, 1}, tensor.offset()}, tensor.dtype());
  }
  const RowLayout layout = row_layout(tensor);
  if (!layout.dense) return tensor.contiguous().view({rows, length});
  return Tensor(tensor.storage(), {{rows, length}, {layout.stride, 1}, tensor.offset()},
                tensor.dtype());
}

RowBlocks::RowBlocks(int64_t row_count, int64_t length) : rows(row_count) {
  // At most 32 partial sums, each over enough elements to pay for adding it up.
  constexpr int64_t kMaxBlocks = 32;
  constexpr int64_t kMinElements = 8192;
  const int64_t min_rows = kMinElements / std::max<int64_t>(length, 1) + 1;
  rows_per_block = std::max((rows + kMaxBlocks - 1) / kMaxBlocks, min_rows);
  rows_per_block = (rows_per_block + 3) / 4 * 4;  // kernels take rows in groups of four
  count = (rows + rows_per_block - 1) / rows_per_block;
}

int64_t row_grain(int64_t length) {
  return std::max<int64_t>(1, kElementwiseGrain / 2 / std::max<int64_t>(length, 1));
}

void sum_partials_cpu(const Tensor& partials, Tensor& total) {
  if (partials.dtype() == DType::f64) {
    sum_partials<double>(partials, total);
  } else {
    sum_partials<float>(partials, total);
  }
}

}  // namespace weft

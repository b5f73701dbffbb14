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

void check_row_input(const char* op, const Tensor& x) {
  WEFT_CHECK(x.defined(), ShapeError, "{}: x is undefined", op);
  WEFT_CHECK(is_floating(x.dtype()), DTypeError, "{}: x must be of a floating type, got {}", op, x);
  WEFT_CHECK(x.rank() >= 1 && x.size(-1) >= 1, ShapeError,
             "{}: x must have a last axis of at least 1, got {}", op, x);
}

void check_row_weight(const char* op, const char* name, const Tensor& weight, const Tensor& x) {
  WEFT_CHECK(weight.defined() && weight.rank() == 1 && weight.size(0) == x.size(-1), ShapeError,
             "{}: {} must have shape [{}] for x {}, got {}", op, name, x.size(-1), x, weight);
  WEFT_CHECK(weight.dtype() == x.dtype() || weight.dtype() == accumulator_of(x.dtype()), DTypeError,
             "{}: {} must be {} or of the type of x {}, got {}", op, name,
             accumulator_of(x.dtype()), x, weight);
  WEFT_CHECK(weight.device() == x.device(), DeviceError, "{}: x {}, {} {}", op, x, name, weight);
}

void check_same_kind(const char* op, const char* name, const Tensor& tensor, const char* other_name,
                     const Tensor& other) {
  WEFT_CHECK(tensor.defined() && tensor.shape() == other.shape(), ShapeError,
             "{}: {} must have the shape of {} {}, got {}", op, name, other_name, other, tensor);
  WEFT_CHECK(tensor.dtype() == other.dtype(), DTypeError,
             "{}: {} must have the type of {} {}, got {}", op, name, other_name, other, tensor);
  WEFT_CHECK(tensor.device() == other.device(), DeviceError, "{}: {} {}, {} {}", op, other_name,
             other, name, tensor);
}

void check_row_statistic(const char* op, const char* name, const Tensor& statistic,
                         const Tensor& x) {
  const Shape shape = without_last_axis(x.shape());
  const DType dtype = accumulator_of(x.dtype());
  WEFT_CHECK(statistic.defined() && statistic.shape() == shape && statistic.dtype() == dtype,
             ShapeError, "{}: {} must be {} {} for x {}, got {}", op, name, shape, dtype, x,
             statistic);
}

DType accumulator_of(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

Shape without_last_axis(Shape shape) {
  shape.erase(shape.rank() - 1);
  return shape;
}

}  // namespace weft

#include "weft/attention/block_stream.h"

#include <algorithm>

#include "weft/tensor/ops/join.h"

namespace weft::attention {

BlockStream::BlockStream(const BlockShape& shape, int64_t batch, int64_t capacity, int64_t heads,
                         int64_t dim, DType dtype, Device device)
    : shape_(shape), ring_(batch, heads, std::min(shape.block, capacity), dim, dtype, device) {
  validate(shape);
}

Tensor BlockStream::append(const Tensor& x) {
  const int64_t before = length_, after = before + x.size(1);
  const int64_t first = shape_.count(before) * shape_.stride;  // token of the incomplete block
  const int64_t blocks = shape_.count(after) - shape_.count(before);
  const int64_t last = first + (blocks - 1) * shape_.stride + shape_.block;
  Tensor rows = x.slice(1, 0, 0);
  if (blocks > 0 && first < before) {
    rows = cat({ring_.read(first, before), x.slice(1, 0, last - before)}, 1);
  } else if (blocks > 0) {
    rows = x.slice(1, first - before, last - before);
  }
  ring_.write(x, before);
  length_ = after;
  return rows;
}

}  // namespace weft::attention

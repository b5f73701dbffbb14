#include "weft/attention/token_ring.h"

#include <algorithm>

#include "weft/tensor/check.h"
#include "weft/tensor/ops/join.h"

namespace weft::attention {

TokenRing::TokenRing(int64_t batch, int64_t heads, int64_t rows, int64_t dim, DType dtype,
                     Device device)
    : data_(empty({batch, heads, rows, dim}, dtype, device)) {}

int64_t TokenRing::bytes() const {
  return data_.numel() * static_cast<int64_t>(size_of(data_.dtype()));
}

void TokenRing::write(const Tensor& x, int64_t position) {
  WEFT_CHECK(x.rank() == 4 && x.size(0) == data_.size(0) && x.size(2) == data_.size(1) &&
                 x.size(3) == data_.size(3),
             ShapeError, "cache: made for rows [{}, T, {}, {}], got {}", data_.size(0),
             data_.size(1), data_.size(3), x);
  WEFT_CHECK(x.dtype() == data_.dtype(), DTypeError, "cache: made for {}, got {}", data_.dtype(),
             x);
  const int64_t last = position + x.size(1);
  for (int64_t s = std::max(position, last - rows()); s < last;) {
    const int64_t slot = s % rows();
    const int64_t count = std::min(last - s, rows() - slot);
    data_.slice(2, slot, slot + count)
        .copy_(x.slice(1, s - position, s - position + count).transpose(1, 2));
    s += count;
  }
}

Tensor TokenRing::read(int64_t first, int64_t last) const {
  const auto piece = [&](int64_t begin, int64_t count) {
    return data_.slice(2, begin, begin + count).transpose(1, 2);
  };
  const int64_t count = last - first;
  if (count == 0) return piece(0, 0);
  const int64_t slot = first % rows(), straight = std::min(count, rows() - slot);
  if (straight == count) return piece(slot, count);
  return cat({piece(slot, straight), piece(0, count - straight)}, 1);
}

Tensor TokenRing::kept(int64_t length) const {
  return data_.slice(2, 0, std::min(length, rows())).transpose(1, 2);
}

}  // namespace weft::attention

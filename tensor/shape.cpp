#include "weft/tensor/shape.h"

#include "weft/tensor/check.h"

namespace weft {

Shape::Shape(std::initializer_list<int64_t> sizes)
    : Shape(std::span<const int64_t>(sizes.begin(), sizes.size())) {}

Shape::Shape(std::span<const int64_t> sizes) {
  for (int64_t size : sizes) push_back(size);
}

int64_t Shape::numel() const {
  int64_t product = 1;
  for (int64_t size : *this) product *= size;
  return product;
}

void Shape::push_back(int64_t size) {
  insert(rank_, size);
}

void Shape::insert(int axis, int64_t size) {
  WEFT_CHECK(rank_ < kMaxRank, ShapeError, "shape: more than {} axes in {} with another of size {}",
             kMaxRank, *this, size);
  std::copy_backward(sizes_.begin() + axis, sizes_.begin() + rank_, sizes_.begin() + rank_ + 1);
  sizes_[static_cast<size_t>(axis)] = size;
  ++rank_;
}

void Shape::erase(int axis) {
  std::copy(sizes_.begin() + axis + 1, sizes_.begin() + rank_, sizes_.begin() + axis);
  --rank_;
}

Axes::Axes(std::span<const int> axes) {
  for (int axis : axes) push_back(axis);
}

void Axes::push_back(int axis) {
  WEFT_CHECK(count_ < kMaxRank, ShapeError, "axes: more than {} given", kMaxRank);
  axes_[static_cast<size_t>(count_++)] = axis;
}

unsigned Axes::mask(const char* op, int rank) const {
  if (empty()) return (1u << rank) - 1;
  unsigned mask = 0;
  for (int axis : *this) {
    const unsigned bit = 1u << normalize_axis(op, axis, rank);
    WEFT_CHECK((mask & bit) == 0, ShapeError, "{}: axis {} given twice", op, axis);
    mask |= bit;
  }
  return mask;
}

std::string to_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

Strides contiguous_strides(const Shape& shape) {
  Strides strides = shape;
  int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[axis] = step;
    step *= std::max<int64_t>(shape[axis], 1);
  }
  return strides;
}

Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b) {
  const Shape& longer = a.rank() >= b.rank() ? a : b;
  const Shape& shorter = a.rank() >= b.rank() ? b : a;
  Shape result = longer;
  for (int i = 1; i <= shorter.rank(); ++i) {
    int64_t& size = result[longer.rank() - i];
    const int64_t other = shorter[shorter.rank() - i];
    WEFT_CHECK(size == other || size == 1 || other == 1, ShapeError,
               "{}: shapes {} and {} do not broadcast", op, a, b);
    if (size == 1) size = other;
  }
  return result;
}

int normalize_axis(const char* op, int axis, int rank) {
  WEFT_CHECK(axis >= -rank && axis < rank, ShapeError, "{}: axis {} out of range for rank {}", op,
             axis, rank);
  return axis < 0 ? axis + rank : axis;
}

}  // namespace weft

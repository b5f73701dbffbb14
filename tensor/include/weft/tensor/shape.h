#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

namespace weft {

/// Largest number of axes of a Tensor.
inline constexpr int kMaxRank = 8;

/// A short inline list of int64: the sizes of a tensor's axes, or its strides in elements.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes);     // NOLINT: shapes are written in braces at calls
  explicit Shape(std::span<const int64_t> sizes);  // throws ShapeError above kMaxRank

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return sizes_[static_cast<size_t>(axis)]; }
  int64_t& operator[](int axis) { return sizes_[static_cast<size_t>(axis)]; }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + rank_; }
  int64_t back() const { return sizes_[static_cast<size_t>(rank_ - 1)]; }

  /// Product of all sizes; 1 for rank 0.
  int64_t numel() const;
  void push_back(int64_t size);  // throws ShapeError above kMaxRank
  void insert(int axis, int64_t size);
  void erase(int axis);

  friend bool operator==(const Shape& a, const Shape& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

using Strides = Shape;

/// A list of axes as an argument: `2`, `{0, -1}` or a vector. Empty means every axis.
class Axes {
 public:
  Axes() = default;
  Axes(int axis) { push_back(axis); }  // NOLINT: an axis is a list of one
  Axes(std::initializer_list<int> axes)
      : Axes(std::span<const int>(axes.begin(), axes.size())) {}            // NOLINT
  Axes(std::span<const int> axes);                                          // NOLINT
  Axes(const std::vector<int>& axes) : Axes(std::span<const int>(axes)) {}  // NOLINT

  const int* begin() const { return axes_.data(); }
  const int* end() const { return axes_.data() + count_; }
  bool empty() const { return count_ == 0; }

  /// Bit a set for every axis a of a tensor of this rank, negative ones resolved; all bits when
  /// empty. Throws ShapeError, naming `op`, on an axis out of range or given twice.
  unsigned mask(const char* op, int rank) const;

 private:
  void push_back(int axis);
  std::array<int, kMaxRank> axes_{};
  int count_ = 0;
};

/// "[2, 128, 64]".
std::string to_string(const Shape& shape);

/// Row-major strides of a dense tensor, in elements.
Strides contiguous_strides(const Shape& shape);

/// The shape to which both broadcast, aligned at the last axis. `op` names the caller in the
/// ShapeError.
Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b);

/// Maps a negative axis to its position from the front. `op` names the caller in the ShapeError.
int normalize_axis(const char* op, int axis, int rank);

}  // namespace weft

#pragma once

#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "weft/tensor/device.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/shape.h"
#include "weft/tensor/storage.h"

namespace weft {

/// Where a tensor's elements lie in its storage, in elements.
struct Layout {
  Shape shape;
  Strides strides;
  int64_t offset = 0;
};

/// A strided n-dimensional array: a cheap handle of a shared storage, a layout and an element type.
/// Copying the handle shares the elements; views (slice, transpose, ...) share them too. Knows
/// nothing of gradients (see autograd::Variable).
///
/// Axes may be negative, counted from the end. A default-made tensor is undefined: it has no
/// storage, and only defined() may be asked of it.
class Tensor {
 public:
  Tensor() = default;
  Tensor(std::shared_ptr<Storage> storage, Layout layout, DType dtype);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return layout_.shape; }
  const Strides& strides() const { return layout_.strides; }
  int64_t offset() const { return layout_.offset; }
  const Layout& layout() const { return layout_; }
  int rank() const { return layout_.shape.rank(); }
  int64_t size(int axis) const;    ///< throws ShapeError
  int64_t stride(int axis) const;  ///< in elements; throws ShapeError
  int64_t numel() const { return layout_.shape.numel(); }
  DType dtype() const { return dtype_; }
  Device device() const;
  /// Dense and row-major.
  bool is_contiguous() const;
  const std::shared_ptr<Storage>& storage() const { return storage_; }
  uint64_t version() const { return storage_->version(); }

  /// First element. Throws DTypeError when T is not the element type.
  template <class T>
  T* data() {
    return static_cast<T*>(checked_data(dtype_of<T>));
  }
  template <class T>
  const T* data() const {
    return static_cast<const T*>(checked_data(dtype_of<T>));
  }
  void* raw_data() const;

  // Views: share the elements, copy nothing.
  /// Elements start, start+step, ... below stop along `axis`. Negative bounds count from the end;
  /// bounds are clipped.
  Tensor slice(int axis, int64_t start, int64_t stop, int64_t step = 1) const;
  /// Entry `index` of `axis`, which disappears. Throws IndexError.
  Tensor select(int axis, int64_t index) const;
  Tensor transpose(int axis_a, int axis_b) const;
  Tensor permute(std::initializer_list<int> axes) const;
  Tensor permute(std::span<const int> axes) const;
  /// The same elements in another shape; one size may be -1. Throws ShapeError when only a copy
  /// could give it.
  Tensor view(const Shape& shape) const;
  /// view() where possible, otherwise a dense copy.
  Tensor reshape(const Shape& shape) const;
  /// Repeats axes of size 1 (and new leading axes) with stride 0; -1 keeps a size.
  Tensor expand(const Shape& shape) const;
  /// Drops `axis`, which must have size 1.
  Tensor squeeze(int axis) const;
  /// Drops all axes of size 1.
  Tensor squeeze() const;
  /// Adds an axis of size 1 before position `axis`.
  Tensor unsqueeze(int axis) const;
  /// Merges axes first..last into one; a copy where they are not adjacent in memory.
  Tensor flatten(int first = 0, int last = -1) const;
  /// Pieces of `size` along `axis`; the last may be smaller.
  std::vector<Tensor> split(int64_t size, int axis) const;
  std::vector<Tensor> split(std::span<const int64_t> sizes, int axis) const;

  // Copies.
  Tensor contiguous() const;       ///< itself when dense, otherwise a dense copy
  Tensor clone() const;            ///< always a dense copy
  Tensor to(DType dtype) const;    ///< itself when nothing changes
  Tensor to(Device device) const;  ///< itself when nothing changes

  // In place. They change the version that autograd watches, and refuse tensors with repeated
  // (stride 0) elements.
  Tensor& copy_(const Tensor& source);  ///< broadcasts and converts
  Tensor& fill_(double value);
  Tensor& zero_();

  /// The only element, converted to T. Throws ShapeError when there are more.
  template <class T>
  T item() const;
  /// All elements in row-major order, converted to T.
  template <class T>
  std::vector<T> to_vector() const;

 private:
  void* checked_data(DType wanted) const;
  double item_as_double() const;
  int64_t item_as_int() const;

  std::shared_ptr<Storage> storage_;
  Layout layout_;
  DType dtype_ = DType::f32;
};

template <class T>
T Tensor::item() const {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(item_as_int());
  } else {
    return static_cast<T>(item_as_double());
  }
}

/// "[2, 128] f32 cpu", or "undefined".
std::string describe(const Tensor& tensor);

/// Values with shape and type, as nested brackets; long axes are shortened.
std::ostream& operator<<(std::ostream& stream, const Tensor& tensor);

// Factories.
Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = kCpu);
Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = kCpu);
Tensor ones(const Shape& shape, DType dtype = DType::f32, Device device = kCpu);
Tensor full(const Shape& shape, double value, DType dtype = DType::f32, Device device = kCpu);
Tensor empty_like(const Tensor& tensor);
Tensor zeros_like(const Tensor& tensor);
/// start, start+step, ... below stop.
Tensor arange(int64_t start, int64_t stop, int64_t step = 1, DType dtype = DType::i64,
              Device device = kCpu);
/// A rank-0 tensor.
Tensor scalar(double value, DType dtype = DType::f32, Device device = kCpu);

/// A dense tensor with these elements in row-major order. Throws ShapeError when the counts differ.
template <class T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape, Device device = kCpu);

}  // namespace weft

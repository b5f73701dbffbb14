#pragma once

#include <array>

#include "weft/tensor/tensor.h"

namespace weft {

// Pooling over the last axes of x [N, C, H, W] or [N, C, L], f64, f32, bf16 or f16. Output size
// along an axis: floor((size + 2 padding - kernel) / stride) + 1. Padding is at most half the
// kernel, so that each window holds an element. Errors: ShapeError, DTypeError, ConfigError
// (options).

/// Each entry is that of height, then width.
struct Pool2dOptions {
  std::array<int64_t, 2> kernel = {2, 2};
  std::array<int64_t, 2> stride = {0, 0};  ///< 0: as large as the kernel
  std::array<int64_t, 2> padding = {0, 0};
  /// Means divide by the size of the kernel, padding included; otherwise by the elements of x in
  /// the window.
  bool count_padding = true;
};

struct Pool1dOptions {
  int64_t kernel = 2;
  int64_t stride = 0;  ///< 0: as large as the kernel
  int64_t padding = 0;
  bool count_padding = true;  ///< as in Pool2dOptions
};

struct MaxPoolResult {
  Tensor y;        ///< [N, C, H', W'] (or [N, C, L']) of x's type
  Tensor indices;  ///< i64, of y's shape: position in the plane of x, row-major
};

/// Largest element of each window, NaN if there is one; the first among equals.
Tensor max_pool2d(const Tensor& x, const Pool2dOptions& options = {});
/// max_pool2d() that also gives what its backward needs.
MaxPoolResult max_pool2d_forward(const Tensor& x, const Pool2dOptions& options = {});
/// dx for x of shape `x_shape`. Throws IndexError on an index outside the plane.
Tensor max_pool2d_backward(const Tensor& dy, const Tensor& indices, const Shape& x_shape);

/// Mean of each window.
Tensor avg_pool2d(const Tensor& x, const Pool2dOptions& options = {});
Tensor avg_pool2d_backward(const Tensor& dy, const Shape& x_shape,
                           const Pool2dOptions& options = {});

Tensor max_pool1d(const Tensor& x, const Pool1dOptions& options = {});
MaxPoolResult max_pool1d_forward(const Tensor& x, const Pool1dOptions& options = {});
Tensor max_pool1d_backward(const Tensor& dy, const Tensor& indices, const Shape& x_shape);
Tensor avg_pool1d(const Tensor& x, const Pool1dOptions& options = {});
Tensor avg_pool1d_backward(const Tensor& dy, const Shape& x_shape,
                           const Pool1dOptions& options = {});

}  // namespace weft

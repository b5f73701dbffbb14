#pragma once

#include <array>
#include <optional>

#include "weft/tensor/tensor.h"

namespace weft {

// Convolutions (cross-correlations, as the field has them) over axes after batch and channels.
// Tensors are f64, f32, bf16 or f16; weight and bias have x's type or f32, as in linear(); sums are
// kept in f32 (f64 for f64). Output size along an axis: floor((size + 2 padding - dilation (kernel
// - 1) - 1) / stride) + 1. Errors: ShapeError, DTypeError, DeviceError, ConfigError (options).

/// Each entry is that of height, then width.
struct Conv2dOptions {
  std::array<int64_t, 2> stride = {1, 1};
  std::array<int64_t, 2> padding = {0, 0};  ///< zeros added on both sides
  std::array<int64_t, 2> dilation = {1, 1};
  /// Divides channels into groups that do not see each other; both channel counts are multiples.
  int64_t groups = 1;
};

/// y[n, o] = bias[o] + sum over c of x[n, c] * weight[o, c]. x: [N, C, H, W]; weight: [O, C /
/// groups, kh, kw]; bias: [O], undefined for none; y: [N, O, H', W'] of x's type.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const Conv2dOptions& options = {});

/// dx for x of shape `x_shape`; of dy's type.
Tensor conv2d_backward_input(const Tensor& dy, const Tensor& weight, const Shape& x_shape,
                             const Conv2dOptions& options = {});

/// dweight of shape `weight_shape`, of `out_dtype` (dy's type or f32; dy's by default).
Tensor conv2d_backward_weight(const Tensor& dy, const Tensor& x, const Shape& weight_shape,
                              const Conv2dOptions& options = {},
                              std::optional<DType> out_dtype = std::nullopt);

/// dbias: dy [N, O, ...] summed over all axes but channels, of `out_dtype` (dy's type or f32).
Tensor conv_backward_bias(const Tensor& dy, std::optional<DType> out_dtype = std::nullopt);

struct Conv1dOptions {
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t dilation = 1;
  int64_t groups = 1;
};

/// x: [N, C, L]; weight: [O, C / groups, k]; bias: [O]; y: [N, O, L'].
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const Conv1dOptions& options = {});
Tensor conv1d_backward_input(const Tensor& dy, const Tensor& weight, const Shape& x_shape,
                             const Conv1dOptions& options = {});
Tensor conv1d_backward_weight(const Tensor& dy, const Tensor& x, const Shape& weight_shape,
                              const Conv1dOptions& options = {},
                              std::optional<DType> out_dtype = std::nullopt);

}  // namespace weft

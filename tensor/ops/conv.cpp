#include "weft/tensor/ops/conv.h"

#include <algorithm>
#include <vector>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/reduce.h"

#include "ops/conv_kernels.h"
#include "ops/op_list.h"

namespace weft {
namespace {

using ConvLauncher = void(const Tensor&, const Tensor&, Tensor&, const ConvGeometry&, Stream);
constexpr Kernel<ConvLauncher> kForward{"conv2d", &conv2d_forward_cpu,
                                        WEFT_CUDA_KERNEL(conv2d_forward_cuda)};
constexpr Kernel<ConvLauncher> kBackwardInput{"conv2d_backward_input", &conv2d_backward_input_cpu,
                                              WEFT_CUDA_KERNEL(conv2d_backward_input_cuda)};
constexpr Kernel<ConvLauncher> kBackwardWeight{"conv2d_backward_weight",
                                               &conv2d_backward_weight_cpu,
                                               WEFT_CUDA_KERNEL(conv2d_backward_weight_cuda)};

DType accumulator_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

int64_t output_size(const char* op, int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                    int64_t dilation) {
  const int64_t reach = dilation * (kernel - 1) + 1;
  WEFT_CHECK(size + 2 * padding >= reach, ShapeError,
             "{}: a kernel that reaches over {} does not fit an input of {} with padding {}", op,
             reach, size, padding);
  return (size + 2 * padding - reach) / stride + 1;
}

/// Checks shapes and options against each other.
ConvGeometry make_geometry(const char* op, const Shape& x, const Shape& weight,
                           const Conv2dOptions& options) {
  WEFT_CHECK(x.rank() == 4 && weight.rank() == 4, ShapeError,
             "{}: x must be [N, C, H, W] and weight [O, C / groups, kh, kw]; got {} and {}", op, x,
             weight);
  for (size_t i = 0; i < 2; ++i) {
    constexpr int64_t kMost = int64_t{1} << 30;  // keeps the arithmetic of sizes from overflowing
    WEFT_CHECK(options.stride[i] >= 1 && options.dilation[i] >= 1 && options.padding[i] >= 0 &&
                   std::max({options.stride[i], options.dilation[i], options.padding[i]}) <= kMost,
               ConfigError,
               "{}: stride and dilation must be at least 1, padding at least 0, all at most 2^30; "
               "got {}, {}, {}",
               op, options.stride[i], options.dilation[i], options.padding[i]);
  }
  WEFT_CHECK(options.groups >= 1, ConfigError, "{}: groups must be at least 1, got {}", op,
             options.groups);
  WEFT_CHECK(x[1] == weight[1] * options.groups && weight[0] % options.groups == 0, ShapeError,
             "{}: x {} with {} groups needs a weight [multiple of {}, {}, kh, kw], got {}", op, x,
             options.groups, options.groups, x[1] / options.groups, weight);
  WEFT_CHECK(weight[2] >= 1 && weight[3] >= 1, ShapeError, "{}: empty kernel in weight {}", op,
             weight);
  ConvGeometry geometry;
  geometry.batch = x[0];
  geometry.channels = x[1];
  geometry.height = x[2];
  geometry.width = x[3];
  geometry.out_channels = weight[0];
  geometry.kernel_height = weight[2];
  geometry.kernel_width = weight[3];
  geometry.options = options;
  geometry.out_height =
      output_size(op, x[2], weight[2], options.stride[0], options.padding[0], options.dilation[0]);
  geometry.out_width =
      output_size(op, x[3], weight[3], options.stride[1], options.padding[1], options.dilation[1]);
  return geometry;
}

Shape output_shape(const ConvGeometry& geometry) {
  return {geometry.batch, geometry.out_channels, geometry.out_height, geometry.out_width};
}

void check_operand(const char* op, const char* name, const Tensor& tensor, const char* first_name,
                   const Tensor& first, bool is_parameter) {
  WEFT_CHECK(tensor.defined(), ShapeError, "{}: {} is undefined", op, name);
  WEFT_CHECK(tensor.device() == first.device(), DeviceError, "{}: {} is {}, {} is {}", op,
             first_name, first, name, tensor);
  WEFT_CHECK(tensor.dtype() == first.dtype() ||
                 (is_parameter && tensor.dtype() == DType::f32 && first.dtype() != DType::f64),
             DTypeError, "{}: {} must be of the type of {}{}; got {} and {}", op, name, first_name,
             is_parameter ? " or f32" : "", tensor, first);
}

void check_input(const char* op, const char* name, const Tensor& tensor) {
  WEFT_CHECK(tensor.defined(), ShapeError, "{}: {} is undefined", op, name);
  WEFT_CHECK(is_floating(tensor.dtype()), DTypeError,
             "{}: {} must be f64, f32, bf16 or f16, got {}", op, name, tensor);
}

void check_gradient_shape(const char* op, const Tensor& dy, const ConvGeometry& geometry) {
  WEFT_CHECK(dy.shape() == output_shape(geometry), ShapeError,
             "{}: dy must have the shape {} of the output, got {}", op, output_shape(geometry), dy);
}

/// [N, C, L] as [N, C, 1, L].
Shape with_height(const char* op, const Shape& shape) {
  WEFT_CHECK(shape.rank() == 3, ShapeError, "{}: expects three axes, got {}", op, shape);
  return {shape[0], shape[1], 1, shape[2]};
}

Tensor with_height(const char* op, const char* name, const Tensor& tensor) {
  WEFT_CHECK(tensor.defined() && tensor.rank() == 3, ShapeError,
             "{}: {} must have three axes, got {}", op, name, tensor);
  return tensor.unsqueeze(2);
}

Conv2dOptions over_width(const Conv1dOptions& options) {
  return {.stride = {1, options.stride},
          .padding = {0, options.padding},
          .dilation = {1, options.dilation},
          .groups = options.groups};
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const Conv2dOptions& options) {
  constexpr const char* kOp = "conv2d";
  check_input(kOp, "x", x);
  check_operand(kOp, "weight", weight, "x", x, /*is_parameter=*/true);
  const ConvGeometry geometry = make_geometry(kOp, x.shape(), weight.shape(), options);
  Tensor y = empty(output_shape(geometry), x.dtype(), x.device());
  if (bias.defined()) {
    check_operand(kOp, "bias", bias, "x", x, /*is_parameter=*/true);
    WEFT_CHECK(bias.shape() == Shape({weight.size(0)}), ShapeError,
               "{}: bias {} does not have the {} outputs of weight {}", kOp, bias, weight.size(0),
               weight);
    y.copy_(bias.view({1, -1, 1, 1}));
  } else {
    y.zero_();
  }
  if (y.numel() == 0 || x.numel() == 0) return y;
  kForward(x.device())(x.contiguous(), low_precision_copy(weight, x.dtype()).contiguous(), y,
                       geometry, current_stream(x.device()));
  return y;
}

Tensor conv2d_backward_input(const Tensor& dy, const Tensor& weight, const Shape& x_shape,
                             const Conv2dOptions& options) {
  constexpr const char* kOp = "conv2d_backward_input";
  check_input(kOp, "dy", dy);
  check_operand(kOp, "weight", weight, "dy", dy, /*is_parameter=*/true);
  const ConvGeometry geometry = make_geometry(kOp, x_shape, weight.shape(), options);
  check_gradient_shape(kOp, dy, geometry);
  Tensor dx = empty(x_shape, dy.dtype(), dy.device());
  if (dx.numel() == 0) return dx;
  if (dy.numel() == 0) return dx.zero_();
  kBackwardInput(dy.device())(dy.contiguous(), low_precision_copy(weight, dy.dtype()).contiguous(),
                              dx, geometry, current_stream(dy.device()));
  return dx;
}

Tensor conv2d_backward_weight(const Tensor& dy, const Tensor& x, const Shape& weight_shape,
                              const Conv2dOptions& options, std::optional<DType> out_dtype) {
  constexpr const char* kOp = "conv2d_backward_weight";
  check_input(kOp, "dy", dy);
  check_operand(kOp, "x", x, "dy", dy, /*is_parameter=*/false);
  const ConvGeometry geometry = make_geometry(kOp, x.shape(), weight_shape, options);
  check_gradient_shape(kOp, dy, geometry);
  const DType dtype = out_dtype.value_or(dy.dtype());
  const DType accumulator = accumulator_type(dy.dtype());
  WEFT_CHECK(dtype == dy.dtype() || dtype == accumulator, DTypeError,
             "{}: operands of {} cannot give {}", kOp, dy.dtype(), dtype);
  Tensor dweight = zeros(weight_shape, accumulator, dy.device());
  if (dweight.numel() > 0 && dy.numel() > 0 && x.numel() > 0)
    kBackwardWeight(dy.device())(dy.contiguous(), x.contiguous(), dweight, geometry,
                                 current_stream(dy.device()));
  return dweight.to(dtype);
}

Tensor conv_backward_bias(const Tensor& dy, std::optional<DType> out_dtype) {
  constexpr const char* kOp = "conv_backward_bias";
  check_input(kOp, "dy", dy);
  WEFT_CHECK(dy.rank() >= 2, ShapeError, "{}: dy must be [N, O, ...], got {}", kOp, dy);
  const DType dtype = out_dtype.value_or(dy.dtype());
  const DType accumulator = accumulator_type(dy.dtype());
  WEFT_CHECK(dtype == dy.dtype() || dtype == accumulator, DTypeError, "{}: {} cannot give {}", kOp,
             dy.dtype(), dtype);
  std::vector<int> axes = {0};
  for (int axis = 2; axis < dy.rank(); ++axis) axes.push_back(axis);
  // Summed in the wide type where the result is to keep it.
  return sum(dtype == dy.dtype() ? dy : dy.to(dtype), axes);
}

Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const Conv1dOptions& options) {
  return conv2d(with_height("conv1d", "x", x), with_height("conv1d", "weight", weight), bias,
                over_width(options))
      .squeeze(2);
}

Tensor conv1d_backward_input(const Tensor& dy, const Tensor& weight, const Shape& x_shape,
                             const Conv1dOptions& options) {
  constexpr const char* kOp = "conv1d_backward_input";
  return conv2d_backward_input(with_height(kOp, "dy", dy), with_height(kOp, "weight", weight),
                               with_height(kOp, x_shape), over_width(options))
      .squeeze(2);
}

Tensor conv1d_backward_weight(const Tensor& dy, const Tensor& x, const Shape& weight_shape,
                              const Conv1dOptions& options, std::optional<DType> out_dtype) {
  constexpr const char* kOp = "conv1d_backward_weight";
  return conv2d_backward_weight(with_height(kOp, "dy", dy), with_height(kOp, "x", x),
                                with_height(kOp, weight_shape), over_width(options), out_dtype)
      .squeeze(2);
}

void list_conv_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes);
  table.add(kBackwardInput, kFloatingTypes);
  table.add(kBackwardWeight, kFloatingTypes);
}

}  // namespace weft

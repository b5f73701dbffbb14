#include "weft/tensor/ops/pool.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/op_list.h"
#include "ops/pool_kernels.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, Tensor&, Tensor&, const PoolGeometry&, Stream)> kMax{
    "max_pool2d", &max_pool2d_cpu, WEFT_CUDA_KERNEL(max_pool2d_cuda)};
constexpr Kernel<void(const Tensor&, const Tensor&, Tensor&, Stream)> kMaxBackward{
    "max_pool2d_backward", &max_pool2d_backward_cpu, WEFT_CUDA_KERNEL(max_pool2d_backward_cuda)};
constexpr Kernel<void(const Tensor&, Tensor&, const PoolGeometry&, Stream)> kAvg{
    "avg_pool2d", &avg_pool2d_cpu, WEFT_CUDA_KERNEL(avg_pool2d_cuda)};
constexpr Kernel<void(const Tensor&, Tensor&, const PoolGeometry&, Stream)> kAvgBackward{
    "avg_pool2d_backward", &avg_pool2d_backward_cpu, WEFT_CUDA_KERNEL(avg_pool2d_backward_cuda)};

void check_input(const char* op, const char* name, const Tensor& tensor) {
  WEFT_CHECK(tensor.defined(), ShapeError, "{}: {} is undefined", op, name);
  WEFT_CHECK(is_floating(tensor.dtype()), DTypeError,
             "{}: {} must be f64, f32, bf16 or f16, got {}", op, name, tensor);
}

PoolGeometry make_geometry(const char* op, const Shape& x, const Pool2dOptions& options) {
  WEFT_CHECK(x.rank() == 4, ShapeError, "{}: x must be [N, C, H, W], got {}", op, x);
  PoolGeometry geometry;
  geometry.planes = x[0] * x[1];
  geometry.height = x[2];
  geometry.width = x[3];
  geometry.options = options;
  int64_t out_size[2];
  for (size_t i = 0; i < 2; ++i) {
    constexpr int64_t kMost = int64_t{1} << 30;  // keeps the arithmetic of sizes from overflowing
    const int64_t kernel = options.kernel[i], padding = options.padding[i];
    int64_t& stride = geometry.options.stride[i];
    if (stride == 0) stride = kernel;
    WEFT_CHECK(kernel >= 1 && kernel <= kMost && stride >= 1 && stride <= kMost, ConfigError,
               "{}: kernel must be 1 to 2^30 and stride 0 to 2^30, got {} and {}", op, kernel,
               options.stride[i]);
    WEFT_CHECK(padding >= 0 && 2 * padding <= kernel, ConfigError,
               "{}: padding must be 0 to half the kernel of {}, got {}", op, kernel, padding);
    const int64_t size = x[static_cast<int>(i) + 2];
    WEFT_CHECK(size >= 1 && size + 2 * padding >= kernel, ShapeError,
               "{}: a kernel of {} does not fit x {} with padding {}", op, kernel, x, padding);
    out_size[i] = (size + 2 * padding - kernel) / stride + 1;
  }
  geometry.out_height = out_size[0];
  geometry.out_width = out_size[1];
  return geometry;
}

Shape output_shape(const Shape& x, const PoolGeometry& geometry) {
  return {x[0], x[1], geometry.out_height, geometry.out_width};
}

MaxPoolResult max_pool(const Tensor& x, const Pool2dOptions& options, bool with_indices) {
  constexpr const char* kOp = "max_pool2d";
  check_input(kOp, "x", x);
  const PoolGeometry geometry = make_geometry(kOp, x.shape(), options);
  const Shape shape = output_shape(x.shape(), geometry);
  MaxPoolResult result{empty(shape, x.dtype(), x.device()),
                       with_indices ? empty(shape, DType::i64, x.device()) : Tensor()};
  if (x.numel() > 0)
    kMax(x.device())(x.contiguous(), result.y, result.indices, geometry,
                     current_stream(x.device()));
  return result;
}

Tensor with_height(const char* op, const char* name, const Tensor& tensor) {
  WEFT_CHECK(tensor.defined() && tensor.rank() == 3, ShapeError,
             "{}: {} must have three axes, got {}", op, name, tensor);
  return tensor.unsqueeze(2);
}

Shape with_height(const char* op, const Shape& shape) {
  WEFT_CHECK(shape.rank() == 3, ShapeError, "{}: expects three axes, got {}", op, shape);
  return {shape[0], shape[1], 1, shape[2]};
}

Pool2dOptions over_width(const Pool1dOptions& options) {
  return {.kernel = {1, options.kernel},
          .stride = {1, options.stride},
          .padding = {0, options.padding},
          .count_padding = options.count_padding};
}

}  // namespace

Tensor max_pool2d(const Tensor& x, const Pool2dOptions& options) {
  return max_pool(x, options, /*with_indices=*/false).y;
}

MaxPoolResult max_pool2d_forward(const Tensor& x, const Pool2dOptions& options) {
  return max_pool(x, options, /*with_indices=*/true);
}

Tensor max_pool2d_backward(const Tensor& dy, const Tensor& indices, const Shape& x_shape) {
  constexpr const char* kOp = "max_pool2d_backward";
  check_input(kOp, "dy", dy);
  WEFT_CHECK(indices.defined() && indices.shape() == dy.shape(), ShapeError,
             "{}: dy is {}, indices are {}; they must have one shape", kOp, dy, indices);
  WEFT_CHECK(indices.dtype() == DType::i64, DTypeError, "{}: indices must be i64, got {}", kOp,
             indices);
  WEFT_CHECK(indices.device() == dy.device(), DeviceError, "{}: dy is {}, indices are {}", kOp, dy,
             indices);
  WEFT_CHECK(x_shape.rank() == 4 && dy.rank() == 4 && x_shape[0] == dy.shape()[0] &&
                 x_shape[1] == dy.shape()[1],
             ShapeError, "{}: dy {} cannot come from x of shape {}", kOp, dy, x_shape);
  Tensor dx = zeros(x_shape, dy.dtype(), dy.device());
  if (dy.numel() > 0)
    kMaxBackward(dy.device())(dy.contiguous(), indices.contiguous(), dx,
                              current_stream(dy.device()));
  return dx;
}

Tensor avg_pool2d(const Tensor& x, const Pool2dOptions& options) {
  constexpr const char* kOp = "avg_pool2d";
  check_input(kOp, "x", x);
  const PoolGeometry geometry = make_geometry(kOp, x.shape(), options);
  Tensor y = empty(output_shape(x.shape(), geometry), x.dtype(), x.device());
  if (x.numel() > 0) kAvg(x.device())(x.contiguous(), y, geometry, current_stream(x.device()));
  return y;
}

Tensor avg_pool2d_backward(const Tensor& dy, const Shape& x_shape, const Pool2dOptions& options) {
  constexpr const char* kOp = "avg_pool2d_backward";
  check_input(kOp, "dy", dy);
  const PoolGeometry geometry = make_geometry(kOp, x_shape, options);
  WEFT_CHECK(dy.shape() == output_shape(x_shape, geometry), ShapeError,
             "{}: dy must have the shape {} of the output, got {}", kOp,
             output_shape(x_shape, geometry), dy);
  Tensor dx = empty(x_shape, dy.dtype(), dy.device());
  if (dx.numel() > 0)
    kAvgBackward(dy.device())(dy.contiguous(), dx, geometry, current_stream(dy.device()));
  return dx;
}

Tensor max_pool1d(const Tensor& x, const Pool1dOptions& options) {
  return max_pool2d(with_height("max_pool1d", "x", x), over_width(options)).squeeze(2);
}

MaxPoolResult max_pool1d_forward(const Tensor& x, const Pool1dOptions& options) {
  const MaxPoolResult result =
      max_pool2d_forward(with_height("max_pool1d", "x", x), over_width(options));
  return {result.y.squeeze(2), result.indices.squeeze(2)};
}

Tensor max_pool1d_backward(const Tensor& dy, const Tensor& indices, const Shape& x_shape) {
  constexpr const char* kOp = "max_pool1d_backward";
  return max_pool2d_backward(with_height(kOp, "dy", dy), with_height(kOp, "indices", indices),
                             with_height(kOp, x_shape))
      .squeeze(2);
}

Tensor avg_pool1d(const Tensor& x, const Pool1dOptions& options) {
  return avg_pool2d(with_height("avg_pool1d", "x", x), over_width(options)).squeeze(2);
}

Tensor avg_pool1d_backward(const Tensor& dy, const Shape& x_shape, const Pool1dOptions& options) {
  constexpr const char* kOp = "avg_pool1d_backward";
  return avg_pool2d_backward(with_height(kOp, "dy", dy), with_height(kOp, x_shape),
                             over_width(options))
      .squeeze(2);
}

void list_pool_ops(OpTable& table) {
  table.add(kMax, kFloatingTypes);
  table.add(kMaxBackward, kFloatingTypes);
  table.add(kAvg, kFloatingTypes);
  table.add(kAvgBackward, kFloatingTypes);
}

}  // namespace weft

#include "weft/attention/kernels/block_pool.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/reduce.h"

#include "kernels/block_pool_kernels.h"
#include "kernels/op_list.h"

namespace weft::attention {
namespace {

constexpr Kernel<void(const BlockPoolParams&, Stream)> kPool{
    "block_pool", &block_pool_forward_cpu, WEFT_CUDA_KERNEL(block_pool_forward_cuda)};
constexpr Kernel<void(const BlockPoolBackwardParams&, Stream)> kPoolBackward{
    "block_pool_backward", &block_pool_backward_cpu, WEFT_CUDA_KERNEL(block_pool_backward_cuda)};
constexpr Kernel<void(const BlockUnfoldParams&, Stream)> kUnfold{
    "block_unfold", &block_unfold_forward_cpu, WEFT_CUDA_KERNEL(block_unfold_forward_cuda)};
constexpr Kernel<void(const BlockUnfoldParams&, Stream)> kUnfoldBackward{
    "block_unfold_backward", &block_unfold_backward_cpu,
    WEFT_CUDA_KERNEL(block_unfold_backward_cuda)};

DType accumulator_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

Tensor with_dense_rows(const Tensor& x) {
  return x.size(-1) <= 1 || x.stride(-1) == 1 ? x : x.contiguous();
}

void check_rows(const char* op, const char* name, const Tensor& x) {
  WEFT_CHECK(x.defined() && x.rank() == 4, ShapeError, "{}: {} must have 4 axes, got {}", op, name,
             x);
  WEFT_CHECK(is_floating(x.dtype()), DTypeError, "{}: takes f64, f32, bf16 or f16, got {} {}", op,
             name, x);
}

/// `parameter` in the accumulator type of x; undefined stays so.
Tensor checked_parameter(const char* op, const char* name, const Tensor& parameter,
                         const Shape& shape, const Tensor& x) {
  if (!parameter.defined()) return {};
  WEFT_CHECK(parameter.shape() == shape, ShapeError, "{}: {} must be {}, got {}", op, name, shape,
             parameter);
  WEFT_CHECK(parameter.dtype() == x.dtype() || parameter.dtype() == accumulator_type(x.dtype()),
             DTypeError, "{}: {} must be {} or {}, got {}", op, name, x.dtype(),
             accumulator_type(x.dtype()), parameter);
  WEFT_CHECK(parameter.device() == x.device(), DeviceError, "{}: {} must be on {}, got {}", op,
             name, x.device(), parameter);
  return parameter.to(accumulator_type(x.dtype())).contiguous();
}

/// The weights of a pool over rows like x [., ., H, D] in the accumulator type.
Tensor pool_weights(const char* op, const Tensor& weights, const BlockShape& shape,
                    const Tensor& x) {
  if (!weights.defined()) {
    return full({1, shape.block}, 1 / static_cast<double>(shape.block), accumulator_type(x.dtype()),
                x.device());
  }
  const int64_t rows = weights.rank() == 2 && weights.size(0) == 1 ? 1 : x.size(2);
  return checked_parameter(op, "weights", weights, {rows, shape.block}, x);
}

Tensor pool_positions(const char* op, const Tensor& positions, const BlockShape& shape,
                      const Tensor& x) {
  return checked_parameter(op, "positions", positions, {x.size(2), shape.block, x.size(3)}, x);
}

void check_grad(const char* op, const Tensor& grad, const Shape& shape, const Tensor& x) {
  WEFT_CHECK(grad.defined() && grad.shape() == shape, ShapeError, "{}: dy must be {}, got {}", op,
             shape, grad);
  WEFT_CHECK(grad.dtype() == x.dtype(), DTypeError, "{}: dy must be {}, got {}", op, x.dtype(),
             grad);
  WEFT_CHECK(grad.device() == x.device(), DeviceError, "{}: dy must be on {}, got {}", op,
             x.device(), grad);
}

}  // namespace

void validate(const BlockShape& shape) {
  WEFT_CHECK(shape.block >= 1 && shape.stride >= 1 && shape.stride <= shape.block, ConfigError,
             "blocks: block must be at least 1 and stride 1 to block, got {} and {}", shape.block,
             shape.stride);
}

Tensor block_pool_forward(const Tensor& x, const BlockShape& shape, const Tensor& weights,
                          const Tensor& positions) {
  constexpr const char* kOp = "block_pool";
  validate(shape);
  check_rows(kOp, "x", x);
  BlockPoolParams params{
      .shape = shape,
      .x = with_dense_rows(x),
      .weights = pool_weights(kOp, weights, shape, x),
      .bias = {},
      .y = empty({x.size(0), shape.count(x.size(1)), x.size(2), x.size(3)}, x.dtype(), x.device())};
  if (const Tensor p = pool_positions(kOp, positions, shape, x); p.defined())
    params.bias = sum(mul(p, params.weights.unsqueeze(-1)), 1);
  if (params.y.numel() > 0) kPool(x.device())(params, current_stream(x.device()));
  return params.y;
}

BlockPoolGradients block_pool_backward(const Tensor& dy, const Tensor& x, const BlockShape& shape,
                                       const Tensor& weights, const Tensor& positions) {
  constexpr const char* kOp = "block_pool_backward";
  validate(shape);
  check_rows(kOp, "x", x);
  check_grad(kOp, dy, {x.size(0), shape.count(x.size(1)), x.size(2), x.size(3)}, x);
  const DType sum_type = accumulator_type(x.dtype());
  const int64_t heads = x.size(2), dim = x.size(3);
  BlockPoolBackwardParams params{.shape = shape,
                                 .dy = dy.contiguous(),
                                 .weights = pool_weights(kOp, weights, shape, x),
                                 .x = with_dense_rows(x),
                                 .dx = empty(x.shape(), x.dtype(), x.device()),
                                 .dweights = {}};
  if (weights.defined()) params.dweights = zeros({heads, shape.block}, sum_type, x.device());
  if (x.numel() > 0) kPoolBackward(x.device())(params, current_stream(x.device()));

  BlockPoolGradients grads{.dx = params.dx, .dweights = params.dweights, .dpositions = {}};
  if (const Tensor p = pool_positions(kOp, positions, shape, x); p.defined()) {
    // positions_m adds weights_m positions_m to every block.
    const Tensor total = linear_backward_bias(
        params.dy.view({x.size(0) * params.dy.size(1), heads * dim}), sum_type);
    const Tensor row = total.view({heads, 1, dim});
    grads.dpositions = mul(row, params.weights.unsqueeze(-1)).to(positions.dtype());
    if (grads.dweights.defined()) grads.dweights = add(grads.dweights, sum(mul(row, p), 2));
  }
  if (grads.dweights.defined()) {
    if (weights.size(0) != heads) grads.dweights = sum(grads.dweights, 0, /*keepdim=*/true);
    grads.dweights = grads.dweights.to(weights.dtype());
  }
  return grads;
}

Tensor block_pool_backward_input(const Tensor& dy, int64_t tokens, const BlockShape& shape,
                                 const Tensor& weights) {
  constexpr const char* kOp = "block_pool_backward";
  validate(shape);
  check_rows(kOp, "dy", dy);
  WEFT_CHECK(tokens >= 0 && dy.size(1) == shape.count(tokens), ShapeError,
             "{}: {} tokens have {} blocks, got dy {}", kOp, tokens, shape.count(tokens), dy);
  const BlockPoolBackwardParams params{
      .shape = shape,
      .dy = dy.contiguous(),
      .weights = pool_weights(kOp, weights, shape, dy),
      .x = {},
      .dx = empty({dy.size(0), tokens, dy.size(2), dy.size(3)}, dy.dtype(), dy.device()),
      .dweights = {}};
  if (params.dx.numel() > 0) kPoolBackward(dy.device())(params, current_stream(dy.device()));
  return params.dx;
}

Tensor block_unfold_forward(const Tensor& x, const BlockShape& shape, const Tensor& positions) {
  constexpr const char* kOp = "block_unfold";
  validate(shape);
  check_rows(kOp, "x", x);
  const BlockUnfoldParams params{
      .shape = shape,
      .x = with_dense_rows(x),
      .positions = pool_positions(kOp, positions, shape, x),
      .z = empty({x.size(0), shape.count(x.size(1)), x.size(2), shape.block * x.size(3)}, x.dtype(),
                 x.device())};
  if (params.z.numel() > 0) kUnfold(x.device())(params, current_stream(x.device()));
  return params.z;
}

Tensor block_unfold_backward_input(const Tensor& dz, int64_t tokens, const BlockShape& shape) {
  constexpr const char* kOp = "block_unfold_backward";
  validate(shape);
  check_rows(kOp, "dz", dz);
  WEFT_CHECK(tokens >= 0 && dz.size(1) == shape.count(tokens) && dz.size(3) % shape.block == 0,
             ShapeError, "{}: {} tokens have {} blocks of {} rows, got dz {}", kOp, tokens,
             shape.count(tokens), shape.block, dz);
  const BlockUnfoldParams params{
      .shape = shape,
      .x = empty({dz.size(0), tokens, dz.size(2), dz.size(3) / shape.block}, dz.dtype(),
                 dz.device()),
      .positions = {},
      .z = dz.contiguous()};
  if (params.x.numel() > 0) kUnfoldBackward(dz.device())(params, current_stream(dz.device()));
  return params.x;
}

Tensor block_unfold_backward_positions(const Tensor& dz, const BlockShape& shape,
                                       std::optional<DType> dtype) {
  check_rows("block_unfold_backward", "dz", dz);
  const int64_t heads = dz.size(2), width = dz.size(3);
  return linear_backward_bias(dz.contiguous().view({dz.size(0) * dz.size(1), heads * width}), dtype)
      .view({heads, shape.block, width / shape.block});
}

void list_block_pool_ops(OpTable& table) {
  table.add(kPool, kFloatingTypes);
  table.add(kPoolBackward, kFloatingTypes);
  table.add(kUnfold, kFloatingTypes);
  table.add(kUnfoldBackward, kFloatingTypes);
}

}  // namespace weft::attention

#include "weft/tensor/ops/batch_norm.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/unary.h"

#include "ops/batch_norm_kernels.h"
#include "ops/op_list.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, Tensor&, Tensor&, Stream)> kStatistics{
    "batch_norm", &batch_statistics_cpu, WEFT_CUDA_KERNEL(batch_statistics_cuda)};
constexpr Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                      Tensor&, Stream)>
    kNormalize{"batch_norm", &batch_normalize_cpu, WEFT_CUDA_KERNEL(batch_normalize_cuda)};
constexpr Kernel<void(BatchNormBackwardParams&, Stream)> kBackward{
    "batch_norm_backward", &batch_norm_backward_cpu, WEFT_CUDA_KERNEL(batch_norm_backward_cuda)};

DType accumulator_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

void check_input(const char* op, const Tensor& x) {
  WEFT_CHECK(x.defined() && x.rank() >= 2, ShapeError, "{}: x must be [N, C, ...], got {}", op, x);
  WEFT_CHECK(is_floating(x.dtype()), DTypeError, "{}: x must be f64, f32, bf16 or f16, got {}", op,
             x);
}

void check_channels(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  WEFT_CHECK(tensor.defined() && tensor.shape() == Shape({x.size(1)}), ShapeError,
             "{}: {} must be [{}] for x {}, got {}", op, name, x.size(1), x, tensor);
  WEFT_CHECK(tensor.device() == x.device(), DeviceError, "{}: x is {}, {} is {}", op, x, name,
             tensor);
}

/// Gain or bias in the type of sums; `value` everywhere when undefined.
Tensor parameter(const char* op, const char* name, const Tensor& tensor, double value,
                 const Tensor& x) {
  const DType dtype = accumulator_type(x.dtype());
  if (!tensor.defined()) return full({x.size(1)}, value, dtype, x.device());
  check_channels(op, name, tensor, x);
  WEFT_CHECK(tensor.dtype() == x.dtype() || tensor.dtype() == dtype, DTypeError,
             "{}: {} must be {} or {}, got {}", op, name, x.dtype(), dtype, tensor);
  return tensor.to(dtype).contiguous();
}

Tensor statistic(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  check_channels(op, name, tensor, x);
  const DType dtype = accumulator_type(x.dtype());
  WEFT_CHECK(tensor.dtype() == dtype, DTypeError, "{}: {} must be {} for x {}, got {}", op, name,
             dtype, x, tensor);
  return tensor.contiguous();
}

void check_eps(const char* op, double eps) {
  WEFT_CHECK(eps >= 0, ConfigError, "{}: eps must be at least 0, got {}", op, eps);
}

/// [N, C, ...] as dense [N, C, inner].
Tensor with_one_inner_axis(const Tensor& x) {
  int64_t inner = 1;
  for (int axis = 2; axis < x.rank(); ++axis) inner *= x.shape()[axis];
  return x.contiguous().view({x.size(0), x.size(1), inner});
}

Tensor normalize(const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& gain,
                 const Tensor& bias) {
  Tensor y = empty({x.size(0), x.size(1), x.size(2)}, x.dtype(), x.device());
  if (x.numel() > 0)
    kNormalize(x.device())(x, mean, rstd, gain, bias, y, current_stream(x.device()));
  return y;
}

/// running = (1 - momentum) running + momentum batch.
void update_average(Tensor& running, const Tensor& batch, double momentum) {
  mul_(running, 1 - momentum);
  add_(running, batch, momentum);
}

}  // namespace

BatchNormResult batch_norm_train(const Tensor& x, const Tensor& gain, const Tensor& bias,
                                 RunningStatistics running, double momentum, double eps) {
  constexpr const char* kOp = "batch_norm";
  check_input(kOp, x);
  check_eps(kOp, eps);
  WEFT_CHECK(momentum >= 0 && momentum <= 1, ConfigError, "{}: momentum must be 0 to 1, got {}",
             kOp, momentum);
  WEFT_CHECK(running.mean.defined() == running.variance.defined(), ShapeError,
             "{}: running mean is {}, running variance is {}", kOp, running.mean, running.variance);
  if (running.mean.defined()) {
    statistic(kOp, "running mean", running.mean, x);
    statistic(kOp, "running variance", running.variance, x);
  }
  const Tensor factor = parameter(kOp, "gain", gain, 1, x);
  const Tensor shift = parameter(kOp, "bias", bias, 0, x);
  const Tensor input = with_one_inner_axis(x);
  const int64_t count = input.size(0) * input.size(2);
  WEFT_CHECK(count >= 2 || x.size(1) == 0, ShapeError,
             "{}: training needs at least 2 elements a channel, x {} has {}", kOp, x, count);
  BatchNormResult result;
  result.mean = empty({x.size(1)}, accumulator_type(x.dtype()), x.device());
  Tensor variance = empty_like(result.mean);
  if (x.numel() > 0)
    kStatistics(x.device())(input, result.mean, variance, current_stream(x.device()));
  if (running.mean.defined()) {
    const double unbiased = static_cast<double>(count) / static_cast<double>(count - 1);
    update_average(running.mean, result.mean, momentum);
    update_average(running.variance, mul(variance, unbiased), momentum);
  }
  result.rstd = rsqrt(add(variance, eps));
  result.y = normalize(input, result.mean, result.rstd, factor, shift).view(x.shape());
  return result;
}

Tensor batch_norm_eval(const Tensor& x, const Tensor& gain, const Tensor& bias,
                       const RunningStatistics& running, double eps) {
  constexpr const char* kOp = "batch_norm";
  check_input(kOp, x);
  check_eps(kOp, eps);
  const Tensor mean = statistic(kOp, "running mean", running.mean, x);
  const Tensor variance = statistic(kOp, "running variance", running.variance, x);
  return normalize(with_one_inner_axis(x), mean, rsqrt(add(variance, eps)),
                   parameter(kOp, "gain", gain, 1, x), parameter(kOp, "bias", bias, 0, x))
      .view(x.shape());
}

BatchNormGrads batch_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain,
                                   const Tensor& mean, const Tensor& rstd,
                                   bool constant_statistics) {
  constexpr const char* kOp = "batch_norm_backward";
  check_input(kOp, x);
  WEFT_CHECK(dy.defined() && dy.shape() == x.shape(), ShapeError, "{}: dy is {}, x is {}", kOp, dy,
             x);
  WEFT_CHECK(dy.dtype() == x.dtype(), DTypeError, "{}: dy is {}, x is {}", kOp, dy, x);
  WEFT_CHECK(dy.device() == x.device(), DeviceError, "{}: dy is {}, x is {}", kOp, dy, x);
  BatchNormBackwardParams params;
  params.dy = with_one_inner_axis(dy);
  params.x = with_one_inner_axis(x);
  params.gain = parameter(kOp, "gain", gain, 1, x);
  params.mean = statistic(kOp, "mean", mean, x);
  params.rstd = statistic(kOp, "rstd", rstd, x);
  params.dx = empty(params.x.shape(), x.dtype(), x.device());
  params.dgain = zeros({x.size(1)}, accumulator_type(x.dtype()), x.device());
  params.dbias = zeros_like(params.dgain);
  params.constant_statistics = constant_statistics;
  if (x.numel() > 0) kBackward(x.device())(params, current_stream(x.device()));
  return {params.dx.view(x.shape()), params.dgain, params.dbias};
}

void list_batch_norm_ops(OpTable& table) {
  table.add(kStatistics, kFloatingTypes, {"batch_norm_train"});
  table.add(kNormalize, kFloatingTypes, {"batch_norm_eval"});
  table.add(kBackward, kFloatingTypes);
}

}  // namespace weft

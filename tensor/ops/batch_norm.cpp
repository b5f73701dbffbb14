#include "weft/tensor/ops/batch_norm.h"

#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/unary.h"

#include "ops/batch_norm_kernels.h"
#include "ops/op_list.h"

namespace weft {
namespace {

constexpr Kernel<void(BatchNormTrainParams&, Stream)> kTrain{
    "batch_norm", &batch_norm_train_cpu, WEFT_CUDA_KERNEL(batch_norm_train_cuda)};
constexpr Kernel<void(BatchNormEvalParams&, Stream)> kEval{"batch_norm", &batch_norm_eval_cpu,
                                                           WEFT_CUDA_KERNEL(batch_norm_eval_cuda)};
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

/// running = (1 - momentum) running + momentum batch.
void update_average(Tensor& running, const Tensor& batch, double momentum) {
  mul_(running, 1 - momentum);
  add_(running, batch, momentum);
}

}  // namespace

Tensor inverse_deviation(const Tensor& variance, double eps) {
  return rsqrt(add(variance, eps));
}

void finish_statistics(BatchNormTrainParams& params, const Tensor& variance) {
  if (params.running.mean.defined()) {
    const auto count =
        static_cast<double>(params.x.size(0)) * static_cast<double>(params.x.size(2));
    update_average(params.running.mean, params.mean, params.momentum);
    update_average(params.running.variance, mul(variance, count / (count - 1)), params.momentum);
  }
  params.rstd = inverse_deviation(variance, params.eps);
}

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
  BatchNormTrainParams params;
  params.x = with_one_inner_axis(x);
  params.gain = parameter(kOp, "gain", gain, 1, x);
  params.bias = parameter(kOp, "bias", bias, 0, x);
  params.running = std::move(running);
  params.momentum = momentum;
  params.eps = eps;
  const int64_t count = params.x.size(0) * params.x.size(2);
  WEFT_CHECK(count >= 2 || x.size(1) == 0, ShapeError,
             "{}: training needs at least 2 elements a channel, x {} has {}", kOp, x, count);
  params.y = empty(params.x.shape(), x.dtype(), x.device());
  params.mean = empty({x.size(1)}, accumulator_type(x.dtype()), x.device());
  params.rstd = empty_like(params.mean);
  if (x.numel() > 0) kTrain(x.device())(params, current_stream(x.device()));
  return {params.y.view(x.shape()), params.mean, params.rstd};
}

Tensor batch_norm_eval(const Tensor& x, const Tensor& gain, const Tensor& bias,
                       const RunningStatistics& running, double eps) {
  constexpr const char* kOp = "batch_norm";
  check_input(kOp, x);
  check_eps(kOp, eps);
  BatchNormEvalParams params;
  params.x = with_one_inner_axis(x);
  params.gain = parameter(kOp, "gain", gain, 1, x);
  params.bias = parameter(kOp, "bias", bias, 0, x);
  params.mean = statistic(kOp, "running mean", running.mean, x);
  params.variance = statistic(kOp, "running variance", running.variance, x);
  params.eps = eps;
  params.y = empty(params.x.shape(), x.dtype(), x.device());
  if (x.numel() > 0) kEval(x.device())(params, current_stream(x.device()));
  return params.y.view(x.shape());
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
  table.add(kTrain, kFloatingTypes, {"batch_norm_train"});
  table.add(kEval, kFloatingTypes, {"batch_norm_eval"});
  table.add(kBackward, kFloatingTypes);
}

}  // namespace weft

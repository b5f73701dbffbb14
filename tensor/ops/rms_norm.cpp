#include "weft/tensor/ops/rms_norm.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/rms_norm_kernels.h"
#include "ops/rows.h"

namespace weft {
namespace {

constexpr Kernel<void(RmsNormForwardParams&, Stream)> kForward{
    "rms_norm", &rms_norm_forward_cpu, WEFT_CUDA_KERNEL(rms_norm_forward_cuda)};
constexpr Kernel<void(RmsNormBackwardParams&, Stream)> kBackward{
    "rms_norm_backward", &rms_norm_backward_cpu, WEFT_CUDA_KERNEL(rms_norm_backward_cuda)};

void check_inputs(const char* op, const Tensor& x, const Tensor& gain, double eps) {
  WEFT_CHECK(x.defined() && gain.defined(), ShapeError, "{}: undefined tensor", op);
  WEFT_CHECK(is_floating(x.dtype()), DTypeError, "{}: x must be of a floating type, got {}", op, x);
  WEFT_CHECK(x.rank() >= 1 && x.size(-1) >= 1, ShapeError,
             "{}: x must have a last axis of at least 1, got {}", op, x);
  WEFT_CHECK(gain.rank() == 1 && gain.size(0) == x.size(-1), ShapeError,
             "{}: gain must have shape [{}] for x {}, got {}", op, x.size(-1), x, gain);
  WEFT_CHECK(gain.dtype() == x.dtype() || (gain.dtype() == DType::f32 && x.dtype() != DType::f64),
             DTypeError, "{}: gain must be f32 or of the type of x {}, got {}", op, x, gain);
  WEFT_CHECK(gain.device() == x.device(), DeviceError, "{}: x {}, gain {}", op, x, gain);
  WEFT_CHECK(eps >= 0, ConfigError, "{}: eps must be at least 0, got {}", op, eps);
}

void check_like_x(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  WEFT_CHECK(tensor.defined() && tensor.shape() == x.shape(), ShapeError,
             "{}: {} must have the shape of x {}, got {}", op, name, x, tensor);
  WEFT_CHECK(tensor.dtype() == x.dtype(), DTypeError, "{}: {} must have the type of x {}, got {}",
             op, name, x, tensor);
  WEFT_CHECK(tensor.device() == x.device(), DeviceError, "{}: x {}, {} {}", op, x, name, tensor);
}

DType accumulator_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

Shape without_last_axis(Shape shape) {
  shape.erase(shape.rank() - 1);
  return shape;
}

RmsNormForwardParams forward_params(const Tensor& x, const Tensor& gain, double eps) {
  RmsNormForwardParams params;
  params.x = as_rows(x);
  params.gain = gain.to(accumulator_dtype(x.dtype())).contiguous();
  params.eps = eps;
  params.y = empty(params.x.shape(), x.dtype(), x.device());
  params.inverse_rms = empty({params.x.size(0)}, params.gain.dtype(), x.device());
  return params;
}

void run(RmsNormForwardParams& params) {
  const Device device = params.x.device();
  if (params.x.numel() > 0) kForward(device)(params, current_stream(device));
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& gain, double eps) {
  return rms_norm_forward(x, gain, eps).y;
}

RmsNormResult rms_norm_forward(const Tensor& x, const Tensor& gain, double eps) {
  check_inputs("rms_norm", x, gain, eps);
  RmsNormForwardParams params = forward_params(x, gain, eps);
  run(params);
  return {params.y.view(x.shape()), params.inverse_rms.view(without_last_axis(x.shape()))};
}

RmsNormResidualResult rms_norm_residual(const Tensor& x, const Tensor& residual, const Tensor& gain,
                                        double eps) {
  check_inputs("rms_norm_residual", x, gain, eps);
  check_like_x("rms_norm_residual", "residual", residual, x);
  RmsNormForwardParams params = forward_params(x, gain, eps);
  params.residual = as_rows(residual);
  params.sum = empty(params.x.shape(), x.dtype(), x.device());
  run(params);
  return {params.sum.view(x.shape()), params.y.view(x.shape()),
          params.inverse_rms.view(without_last_axis(x.shape()))};
}

RmsNormGrads rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain,
                               const Tensor& inverse_rms, const Tensor& dsum, bool want_dgain) {
  constexpr const char* kOp = "rms_norm_backward";
  check_inputs(kOp, x, gain, 0);
  check_like_x(kOp, "dy", dy, x);
  if (dsum.defined()) check_like_x(kOp, "dsum", dsum, x);
  const DType accumulator = accumulator_dtype(x.dtype());
  WEFT_CHECK(inverse_rms.defined() && inverse_rms.shape() == without_last_axis(x.shape()) &&
                 inverse_rms.dtype() == accumulator,
             ShapeError, "{}: inverse_rms must be {} {}, got {}", kOp, without_last_axis(x.shape()),
             accumulator, inverse_rms);
  RmsNormBackwardParams params;
  params.dy = as_rows(dy);
  params.x = as_rows(x);
  params.gain = gain.to(accumulator).contiguous();
  params.inverse_rms = inverse_rms.contiguous();
  if (dsum.defined()) params.dsum = as_rows(dsum);
  params.dx = empty(params.x.shape(), x.dtype(), x.device());
  if (want_dgain) params.dgain = zeros(gain.shape(), accumulator, x.device());
  if (x.numel() > 0) kBackward(x.device())(params, current_stream(x.device()));
  return {params.dx.view(x.shape()), want_dgain ? params.dgain.to(gain.dtype()) : Tensor()};
}

}  // namespace weft

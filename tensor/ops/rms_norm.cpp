#include "weft/tensor/ops/rms_norm.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/op_list.h"
#include "ops/rms_norm_kernels.h"
#include "ops/rows.h"

namespace weft {
namespace {

constexpr Kernel<void(RmsNormForwardParams&, Stream)> kForward{
    "rms_norm", &rms_norm_forward_cpu, WEFT_CUDA_KERNEL(rms_norm_forward_cuda)};
constexpr Kernel<void(RmsNormBackwardParams&, Stream)> kBackward{
    "rms_norm_backward", &rms_norm_backward_cpu, WEFT_CUDA_KERNEL(rms_norm_backward_cuda)};

void check_inputs(const char* op, const Tensor& x, const Tensor& gain, double eps) {
  check_row_input(op, x);
  check_row_weight(op, "gain", gain, x);
  WEFT_CHECK(eps >= 0, ConfigError, "{}: eps must be at least 0, got {}", op, eps);
}

RmsNormForwardParams forward_params(const Tensor& x, const Tensor& gain, double eps) {
  RmsNormForwardParams params;
  params.x = as_rows(x);
  params.gain = gain.to(accumulator_of(x.dtype())).contiguous();
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
  check_same_kind("rms_norm_residual", "residual", residual, "x", x);
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
  check_same_kind(kOp, "dy", dy, "x", x);
  if (dsum.defined()) check_same_kind(kOp, "dsum", dsum, "x", x);
  const DType accumulator = accumulator_of(x.dtype());
  check_row_statistic(kOp, "inverse_rms", inverse_rms, x);
  RmsNormBackwardParams params;
  params.dy = as_rows(dy);
  params.x = as_rows(x);
  params.gain = gain.to(accumulator).contiguous();
  params.inverse_rms = inverse_rms.contiguous();
  if (dsum.defined()) params.dsum = as_rows(dsum);
  params.dx = empty(params.x.shape(), x.dtype(), x.device());
  if (want_dgain) {  // kernels write all of it, where there are rows
    params.dgain = x.numel() > 0 ? empty(gain.shape(), accumulator, x.device())
                                 : zeros(gain.shape(), accumulator, x.device());
  }
  if (x.numel() > 0) kBackward(x.device())(params, current_stream(x.device()));
  return {params.dx.view(x.shape()), want_dgain ? params.dgain.to(gain.dtype()) : Tensor()};
}

void list_rms_norm_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes, {"rms_norm", "rms_norm_residual"});
  table.add(kBackward, kFloatingTypes);
}

}  // namespace weft

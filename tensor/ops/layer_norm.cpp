#include "weft/tensor/ops/layer_norm.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/layer_norm_kernels.h"
#include "ops/op_list.h"
#include "ops/rows.h"

namespace weft {
namespace {

constexpr Kernel<void(LayerNormForwardParams&, Stream)> kForward{
    "layer_norm", &layer_norm_forward_cpu, WEFT_CUDA_KERNEL(layer_norm_forward_cuda)};
constexpr Kernel<void(LayerNormBackwardParams&, Stream)> kBackward{
    "layer_norm_backward", &layer_norm_backward_cpu, WEFT_CUDA_KERNEL(layer_norm_backward_cuda)};

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, double eps) {
  return layer_norm_forward(x, gain, bias, eps).y;
}

LayerNormResult layer_norm_forward(const Tensor& x, const Tensor& gain, const Tensor& bias,
                                   double eps) {
  constexpr const char* kOp = "layer_norm";
  check_row_input(kOp, x);
  check_row_weight(kOp, "gain", gain, x);
  if (bias.defined()) check_row_weight(kOp, "bias", bias, x);
  WEFT_CHECK(eps >= 0, ConfigError, "{}: eps must be at least 0, got {}", kOp, eps);
  const DType accumulator = accumulator_of(x.dtype());
  LayerNormForwardParams params;
  params.x = as_rows(x);
  params.gain = gain.to(accumulator).contiguous();
  if (bias.defined()) params.bias = bias.to(accumulator).contiguous();
  params.eps = eps;
  params.y = empty(params.x.shape(), x.dtype(), x.device());
  params.mean = empty({params.x.size(0)}, accumulator, x.device());
  params.rstd = empty_like(params.mean);
  if (x.numel() > 0) kForward(x.device())(params, current_stream(x.device()));
  const Shape rows = without_last_axis(x.shape());
  return {params.y.view(x.shape()), params.mean.view(rows), params.rstd.view(rows)};
}

LayerNormGrads layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain,
                                   const Tensor& mean, const Tensor& rstd, LayerNormWants wants) {
  constexpr const char* kOp = "layer_norm_backward";
  check_row_input(kOp, x);
  check_row_weight(kOp, "gain", gain, x);
  check_same_kind(kOp, "dy", dy, "x", x);
  check_row_statistic(kOp, "mean", mean, x);
  check_row_statistic(kOp, "rstd", rstd, x);
  const DType accumulator = accumulator_of(x.dtype());
  LayerNormBackwardParams params;
  params.dy = as_rows(dy);
  params.x = as_rows(x);
  params.gain = gain.to(accumulator).contiguous();
  params.mean = mean.contiguous();
  params.rstd = rstd.contiguous();
  params.dx = empty(params.x.shape(), x.dtype(), x.device());
  if (wants.dgain || wants.dbias) {
    params.dgain_dbias = zeros({2, gain.size(0)}, accumulator, x.device());
  }
  if (x.numel() > 0) kBackward(x.device())(params, current_stream(x.device()));
  LayerNormGrads grads;
  grads.dx = params.dx.view(x.shape());
  if (wants.dgain) grads.dgain = params.dgain_dbias.select(0, 0).to(gain.dtype());
  if (wants.dbias) grads.dbias = params.dgain_dbias.select(0, 1).to(gain.dtype());
  return grads;
}

void list_layer_norm_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes);
  table.add(kBackward, kFloatingTypes);
}

}  // namespace weft

#include "weft/attention/kernels/gated_sum.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/linear.h"

#include "kernels/attention_arguments.h"
#include "kernels/gated_sum_kernels.h"
#include "kernels/op_list.h"

namespace weft::attention {
namespace {

constexpr Kernel<void(const GatedSumParams&, Stream)> kForward{
    "gated_sum", &gated_sum_forward_cpu, WEFT_CUDA_KERNEL(gated_sum_forward_cuda)};
constexpr Kernel<void(const GatedSumBackwardParams&, Stream)> kBackward{
    "gated_sum_backward", &gated_sum_backward_cpu, WEFT_CUDA_KERNEL(gated_sum_backward_cuda)};

/// Checks the arguments and fills everything but results.
GatedSumParams make_params(const char* op, const std::vector<Tensor>& branches,
                           const Tensor& logits, const Tensor& bias) {
  const auto count = static_cast<int64_t>(branches.size());
  WEFT_CHECK(count >= 1 && count <= kMaxGatedBranches, ShapeError,
             "{}: takes 1 to {} branches, got {}", op, kMaxGatedBranches, count);
  const Tensor& first = branches.front();
  WEFT_CHECK(first.defined() && first.rank() == 4, ShapeError,
             "{}: branches must be [B, T, H, D], got {}", op, first);
  WEFT_CHECK(is_floating(first.dtype()), DTypeError, "{}: takes f64, f32, bf16 or f16, got {}", op,
             first);
  GatedSumParams params;
  for (const Tensor& branch : branches) {
    check_like(op, "every branch", branch, first.shape(), first.dtype(), first.device());
    params.branches.push_back(with_dense_rows(branch));
  }
  check_like(op, "logits", logits, {first.size(0), first.size(1), first.size(2), count},
             first.dtype(), first.device());
  params.logits = with_dense_rows(logits);
  if (bias.defined()) {
    const DType sum_type = statistics_type(first.dtype());
    check_like(op, "bias", bias, {first.size(2), count},
               bias.dtype() == sum_type ? sum_type : first.dtype(), first.device());
    params.bias = bias.to(sum_type).contiguous();
  }
  return params;
}

}  // namespace

Tensor gated_sum_forward(const std::vector<Tensor>& branches, const Tensor& logits,
                         const Tensor& bias) {
  GatedSumParams params = make_params("gated_sum", branches, logits, bias);
  const Tensor& like = branches.front();
  params.y = empty(like.shape(), like.dtype(), like.device());
  if (params.y.numel() > 0) kForward(like.device())(params, current_stream(like.device()));
  return params.y;
}

GatedSumGradients gated_sum_backward(const Tensor& dy, const std::vector<Tensor>& branches,
                                     const Tensor& logits, const Tensor& bias) {
  constexpr const char* kOp = "gated_sum_backward";
  GatedSumBackwardParams params;
  static_cast<GatedSumParams&>(params) = make_params(kOp, branches, logits, bias);
  const Tensor& like = branches.front();
  check_like(kOp, "dy", dy, like.shape(), like.dtype(), like.device());
  params.dy = with_dense_rows(dy);
  for (size_t c = 0; c < branches.size(); ++c)
    params.dbranches.push_back(empty(like.shape(), like.dtype(), like.device()));
  params.dlogits = zeros(logits.shape(), like.dtype(), like.device());
  if (like.numel() > 0) kBackward(like.device())(params, current_stream(like.device()));
  Tensor dbias;
  if (bias.defined()) {
    dbias = linear_backward_bias(params.dlogits.view({like.size(0) * like.size(1), bias.numel()}),
                                 bias.dtype())
                .view(bias.shape());
  }
  return {std::move(params.dbranches), std::move(params.dlogits), std::move(dbias)};
}

void list_gated_sum_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes);
  table.add(kBackward, kFloatingTypes);
}

}  // namespace weft::attention

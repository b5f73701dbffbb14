#include "weft/attention/kernels/flash_attention.h"

#include "weft/tensor/kernel.h"

#include "kernels/attention_arguments.h"
#include "kernels/attention_choice.h"
#include "kernels/flash_attention_composite.h"
#include "kernels/flash_attention_kernels.h"
#include "kernels/op_list.h"

namespace weft::attention {
namespace {

constexpr Kernel<void(const FlashAttentionParams&, Stream)> kForward{
    "flash_attention", &flash_attention_forward_cpu,
    WEFT_CUDA_KERNEL(flash_attention_forward_cuda)};
constexpr Kernel<void(const FlashAttentionBackwardParams&, Stream)> kBackward{
    "flash_attention_backward", &flash_attention_backward_cpu,
    WEFT_CUDA_KERNEL(flash_attention_backward_cuda)};

}  // namespace

FlashAttentionOutput flash_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                             const FlashAttentionOptions& options) {
  const Tensor q_rows = with_dense_rows(q), k_rows = with_dense_rows(k),
               v_rows = with_dense_rows(v);
  FlashAttentionParams params = make_params(kForward.op, q_rows, k_rows, v_rows, options);
  if (attention_backend() == AttentionBackend::reference)
    return composite_attention_forward(q, k, v, params);
  FlashAttentionOutput out = make_output(params, q.device());
  const Stream stream = current_stream(q.device());
  if (out.o.numel() > 0 && !run_by_cudnn(kForward.op, params, stream))
    kForward(q.device())(params, stream);
  return out;
}

FlashAttentionGradients flash_attention_backward(const Tensor& dout, const Tensor& q,
                                                 const Tensor& k, const Tensor& v, const Tensor& o,
                                                 const Tensor& lse,
                                                 const FlashAttentionOptions& options) {
  make_params(kBackward.op, q, k, v, options);  // for its checks
  FlashAttentionGradients grads{empty(q.shape(), q.dtype(), q.device()),
                                empty(k.shape(), k.dtype(), k.device()),
                                empty(v.shape(), v.dtype(), v.device())};
  flash_attention_backward_into(grads, dout, q, k, v, o, lse, options);
  return grads;
}

void flash_attention_backward_into(FlashAttentionGradients& grads, const Tensor& dout,
                                   const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& o, const Tensor& lse,
                                   const FlashAttentionOptions& options) {
  const Tensor q_rows = with_dense_rows(q), k_rows = with_dense_rows(k),
               v_rows = with_dense_rows(v);
  FlashAttentionBackwardParams params;
  static_cast<FlashAttentionParams&>(params) =
      make_params(kBackward.op, q_rows, k_rows, v_rows, options);
  const BackwardArguments kept =
      complete_backward(kBackward.op, params, grads, dout, q, k, v, o, lse);
  const Stream stream = current_stream(q.device());
  if (attention_backend() == AttentionBackend::reference) {
    const FlashAttentionGradients sums =
        composite_attention_backward(dout, q, k, v, o, lse, params);
    grads.dq.copy_(sums.dq);
    grads.dk.copy_(sums.dk);
    grads.dv.copy_(sums.dv);
  } else if (q.numel() + k.numel() > 0 && !run_by_cudnn(kBackward.op, params, stream)) {
    kBackward(q.device())(params, stream);
  }
  for (const Tensor* grad : {&grads.dq, &grads.dk, &grads.dv}) grad->storage()->bump_version();
}

void list_flash_attention_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes);
  table.add(kBackward, kFloatingTypes);
}

}  // namespace weft::attention

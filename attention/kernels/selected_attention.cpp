#include "weft/attention/kernels/selected_attention.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "kernels/attention_arguments.h"
#include "kernels/op_list.h"
#include "kernels/selected_attention_kernels.h"

namespace weft::attention {
namespace {

constexpr Kernel<void(const SelectedAttentionParams&, Stream)> kForward{
    "selected_attention", &selected_attention_forward_cpu,
    WEFT_CUDA_KERNEL(selected_attention_forward_cuda)};
constexpr Kernel<void(const SelectedAttentionBackwardParams&, Stream)> kBackward{
    "selected_attention_backward", &selected_attention_backward_cpu,
    WEFT_CUDA_KERNEL(selected_attention_backward_cuda)};

FlashAttentionOptions flash_options(const Selection& selection,
                                    const SelectedAttentionOptions& options) {
  return {.scale = options.scale, .position = selection.shape().position};
}

}  // namespace

SelectionView checked_view(const char* op, const FlashAttentionParams& params, const Tensor& q,
                           const Selection& selection) {
  const SelectionShape& shape = selection.shape();
  WEFT_CHECK(
      shape.batch == params.batch && shape.queries == params.queries && shape.keys == params.keys,
      ShapeError,
      "{}: the selection is for batch {}, {} queries and {} keys, got q and k of batch {}, "
      "{} queries and {} keys",
      op, shape.batch, shape.queries, shape.keys, params.batch, params.queries, params.keys);
  WEFT_CHECK(params.kv_heads % shape.groups == 0, ShapeError,
             "{}: the {} groups of the selection must divide the {} key heads", op, shape.groups,
             params.kv_heads);
  WEFT_CHECK(selection.device() == q.device(), DeviceError,
             "{}: q and the selection must be on one device, got {} and {}", op, q.device(),
             selection.device());
  return {.shape = shape,
          .offsets = selection.offsets().data<int64_t>(),
          .blocks = selection.blocks().data<int32_t>(),
          .entries = selection.blocks().numel()};
}

FlashAttentionOutput selected_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                const Selection& selection,
                                                const SelectedAttentionOptions& options) {
  const Tensor q_rows = with_dense_rows(q), k_rows = with_dense_rows(k),
               v_rows = with_dense_rows(v);
  SelectedAttentionParams params;
  static_cast<FlashAttentionParams&>(params) =
      make_params(kForward.op, q_rows, k_rows, v_rows, flash_options(selection, options));
  params.selection = checked_view(kForward.op, params, q, selection);
  FlashAttentionOutput out = make_output(params, q.device());
  if (out.o.numel() > 0) kForward(q.device())(params, current_stream(q.device()));
  return out;
}

FlashAttentionGradients selected_attention_backward(const Tensor& dout, const Tensor& q,
                                                    const Tensor& k, const Tensor& v,
                                                    const Tensor& o, const Tensor& lse,
                                                    const Selection& selection,
                                                    const SelectedAttentionOptions& options) {
  const Tensor q_rows = with_dense_rows(q), k_rows = with_dense_rows(k),
               v_rows = with_dense_rows(v);
  SelectedAttentionBackwardParams params;
  static_cast<FlashAttentionParams&>(params) =
      make_params(kBackward.op, q_rows, k_rows, v_rows, flash_options(selection, options));
  params.selection = checked_view(kBackward.op, params, q, selection);
  FlashAttentionGradients grads{empty(q.shape(), q.dtype(), q.device()),
                                empty(k.shape(), k.dtype(), k.device()),
                                empty(v.shape(), v.dtype(), v.device())};
  const BackwardArguments kept =
      complete_backward(kBackward.op, params, grads, dout, q, k, v, o, lse);
  if (q.numel() + k.numel() > 0) kBackward(q.device())(params, current_stream(q.device()));
  return grads;
}

void list_selected_attention_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes);
  table.add(kBackward, kFloatingTypes);
}

}  // namespace weft::attention

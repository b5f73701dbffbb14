#include "weft/attention/kernels/latent_attention.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/join.h"

#include "kernels/attention_arguments.h"
#include "kernels/op_list.h"
#include "kernels/split_attention_kernels.h"

namespace weft::attention {
namespace {

constexpr Kernel<void(const SplitAttentionParams&, Stream)> kForward{
    "latent_attention", &split_attention_forward_cpu,
    WEFT_CUDA_KERNEL(split_attention_forward_cuda)};

Tensor joined(const Tensor& first, const Tensor& second) {
  if (second.size(3) == 0) return first;
  const Shape& s = first.shape();
  return cat({first, second.expand({s[0], s[1], s[2], second.size(3)})}, 3);
}

/// Whether the cache is read as it lies. More rows are better off with joined keys, which the
/// kernels for many rows can pack.
bool reads_in_place(const Tensor& q_latent, const Tensor& latents) {
  if (latents.size(2) < 1) return false;  // left to the checks
  return q_latent.size(1) == 1 || q_latent.size(1) * (q_latent.size(2) / latents.size(2)) <= 64;
}

FlashAttentionOutput attend(const char* op, const Tensor& q_latent, const Tensor& q_rope,
                            const Tensor& latents, const Tensor& rope_keys,
                            const FlashAttentionOptions& options, const Selection* selection) {
  const Tensor q = with_dense_rows(q_latent), second_q = with_dense_rows(q_rope),
               k = with_dense_rows(latents), second_k = with_dense_rows(rope_keys);
  SplitAttentionParams params;
  static_cast<FlashAttentionParams&>(params) = make_params(op, q, k, k, options);
  params.second_dim = second_q.size(3);
  params.q_second = view_of(second_q);
  params.k_second = view_of(second_k);
  if (selection != nullptr) {
    params.selected = true;
    params.selection = checked_view(op, params, q, *selection);
  }
  FlashAttentionOutput out = make_output(params, q.device());
  if (out.o.numel() > 0) kForward(q.device())(params, current_stream(q.device()));
  return out;
}

}  // namespace

FlashAttentionOutput latent_attention_forward(const Tensor& q_latent, const Tensor& q_rope,
                                              const Tensor& latents, const Tensor& rope_keys,
                                              const FlashAttentionOptions& options) {
  const char* const op = kForward.op;
  check_latent_parts(op, q_latent, q_rope, latents, rope_keys, options.scale);
  if (reads_in_place(q_latent, latents))
    return attend(op, q_latent, q_rope, latents, rope_keys, options, nullptr);
  return flash_attention_forward(joined(q_latent, q_rope), joined(latents, rope_keys), latents,
                                 options);
}

FlashAttentionOutput selected_latent_attention_forward(const Tensor& q_latent, const Tensor& q_rope,
                                                       const Tensor& latents,
                                                       const Tensor& rope_keys,
                                                       const Selection& selection,
                                                       const SelectedAttentionOptions& options) {
  constexpr const char* kOp = "selected_latent_attention";
  check_latent_parts(kOp, q_latent, q_rope, latents, rope_keys, options.scale);
  if (reads_in_place(q_latent, latents)) {
    return attend(kOp, q_latent, q_rope, latents, rope_keys,
                  {.scale = options.scale, .position = selection.shape().position}, &selection);
  }
  return selected_attention_forward(joined(q_latent, q_rope), joined(latents, rope_keys), latents,
                                    selection, options);
}

void list_latent_attention_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes);
}

}  // namespace weft::attention

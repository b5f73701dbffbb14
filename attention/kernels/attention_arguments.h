#pragma once

// What the attention primitives check of their arguments, and how they turn them into parameters of
// a launcher.
#include "weft/attention/kernels/flash_attention.h"

#include "kernels/flash_attention_kernels.h"

namespace weft::attention {

bool has_dense_rows(const Tensor& x);
/// x with a dense last axis. What is no tensor of four axes is left to the checks.
Tensor with_dense_rows(const Tensor& x);
HeadsView view_of(const Tensor& x);
/// The type of lse and of sums.
DType statistics_type(DType dtype);
void check_like(const char* op, const char* name, const Tensor& x, const Shape& shape, DType dtype,
                Device device);

/// Checks q, k, v (their last axis dense) and the options; fills everything but o and lse.
FlashAttentionParams make_params(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                                 const FlashAttentionOptions& options);
/// New o and lse for `params`, which then point to them.
FlashAttentionOutput make_output(FlashAttentionParams& params, Device device);

/// Checks that the parts of latent attention fit each other.
void check_latent_parts(const char* op, const Tensor& q_latent, const Tensor& q_rope,
                        const Tensor& latents, const Tensor& rope_keys,
                        const std::optional<double>& scale);

/// What a backward launcher needs beyond make_params(), and the tensors that its views look into.
struct BackwardArguments {
  Tensor dout, o, lse, dq_sum;
};
BackwardArguments complete_backward(const char* op, FlashAttentionBackwardParams& params,
                                    FlashAttentionGradients& grads, const Tensor& dout,
                                    const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& o, const Tensor& lse);

}  // namespace weft::attention

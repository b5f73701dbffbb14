#pragma once

// Full attention put together from matrix products and softmax, with the matrix of scores in
// memory: what --attention-backend reference runs.
#include "weft/attention/kernels/flash_attention.h"

#include "kernels/flash_attention_kernels.h"

namespace weft::attention {

/// Of checked arguments, on any device; f64 in f64, other types in f32.
FlashAttentionOutput composite_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                 const FlashAttentionParams& params);
FlashAttentionGradients composite_attention_backward(const Tensor& dout, const Tensor& q,
                                                     const Tensor& k, const Tensor& v,
                                                     const Tensor& o, const Tensor& lse,
                                                     const FlashAttentionParams& params);

}  // namespace weft::attention

#pragma once

#include "weft/attention/kernels/flash_attention.h"

namespace weft::attention::reference {

/// The definition of attention as plain loops in double precision: the oracle of the kernels.
/// Arguments as of flash_attention_forward, of any floating type; o and lse are f64.
FlashAttentionOutput attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const FlashAttentionOptions& options = {});

/// The gradients by the chain rule over the whole row of probabilities; all f64.
FlashAttentionGradients attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                           const Tensor& v,
                                           const FlashAttentionOptions& options = {});

}  // namespace weft::attention::reference

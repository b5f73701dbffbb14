#pragma once

#include <functional>

#include "weft/attention/kernels/flash_attention.h"
#include "weft/attention/kernels/selected_attention.h"

namespace weft::attention::reference {

/// Whether query row t of head h sees key s, in one batch entry.
using Visibility = std::function<bool(int64_t batch, int64_t query, int64_t head, int64_t key)>;

/// The definition of attention as plain loops in double precision: the oracle of the kernels.
/// Arguments as of flash_attention_forward, of any floating type; o and lse are f64.
FlashAttentionOutput attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                       double scale, const Visibility& visible);

/// The gradients by the chain rule over the whole row of probabilities; all f64.
FlashAttentionGradients attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                           const Tensor& v, double scale,
                                           const Visibility& visible);

/// Of flash_attention_forward().
FlashAttentionOutput attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const FlashAttentionOptions& options = {});
FlashAttentionGradients attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                           const Tensor& v,
                                           const FlashAttentionOptions& options = {});

/// Of selected_attention_forward().
FlashAttentionOutput selected_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                const Selection& selection,
                                                const SelectedAttentionOptions& options = {});
FlashAttentionGradients selected_attention_backward(const Tensor& dout, const Tensor& q,
                                                    const Tensor& k, const Tensor& v,
                                                    const Selection& selection,
                                                    const SelectedAttentionOptions& options = {});

}  // namespace weft::attention::reference

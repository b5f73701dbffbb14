#pragma once

#include <optional>

#include "weft/attention/kernels/flash_attention.h"
#include "weft/attention/selection.h"

namespace weft::attention {

struct SelectedAttentionOptions {
  std::optional<double> scale{};  ///< of the scores, above 0; 1 / sqrt(D) unless set
};

/// Softmax attention of q [B, T, H, D] over the listed blocks of keys k [B, S, Hk, D] and values
/// v [B, S, Hk, Dv]: query row t of head h sees the keys s <= position + t of the blocks that
/// `selection` lists for its tile and group. The selection's groups divide Hk: key head j follows
/// group j / (Hk / groups). Types, strides and empty rows as in flash_attention_forward(). Memory
/// beyond the result grows with T, with S and with the lists alone. The same inputs give the same
/// bits for any number of threads. Throws ShapeError, DTypeError, DeviceError, ConfigError.
/// Source: Yuan et al., "Native Sparse Attention" (arXiv 2502.11089), section 3.4.
FlashAttentionOutput selected_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                const Selection& selection,
                                                const SelectedAttentionOptions& options = {});

/// Gradients of selected_attention_forward() from dout [B, T, H, Dv], its inputs, its two results
/// and the same options; none flows into the lists. Deterministic: keys and values sum over the
/// query tiles that list their block in ascending order.
FlashAttentionGradients selected_attention_backward(const Tensor& dout, const Tensor& q,
                                                    const Tensor& k, const Tensor& v,
                                                    const Tensor& o, const Tensor& lse,
                                                    const Selection& selection,
                                                    const SelectedAttentionOptions& options = {});

}  // namespace weft::attention

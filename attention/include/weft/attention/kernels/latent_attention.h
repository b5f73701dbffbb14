#pragma once

#include "weft/attention/kernels/flash_attention.h"
#include "weft/attention/kernels/selected_attention.h"

namespace weft::attention {

/// Attention in the absorbed form of latent attention, for decoding: keys are made of two parts,
/// [c ; r], and their first part is the value too, so that a cache of latents is read as it lies.
/// q_latent [B, T, H, Dc] and q_rope [B, T, H, Dr] over latents c [B, S, G, Dc] and rotary keys r
/// [B, S, 1, Dr] that all groups share; query head h reads group h / (H / G):
///   s = scale (<q_latent, c> + <q_rope, r>),  o = sum_s softmax(s) c  [B, T, H, Dc].
/// Dr may be 0. options.scale must be set: the width that scores are scaled by is that of the
/// expanded heads, which is not seen here. Types, strides, positions, windows, keys that stand for
/// several tokens, empty rows and errors as in flash_attention_forward(). No gradient.
/// Source: arXiv 2405.04434, section 2.1.2; groups: arXiv 2505.21487, section 3.3.2.
FlashAttentionOutput latent_attention_forward(const Tensor& q_latent, const Tensor& q_rope,
                                              const Tensor& latents, const Tensor& rope_keys,
                                              const FlashAttentionOptions& options);

/// The same over the listed blocks alone, see selected_attention_forward(); the selection's groups
/// divide G.
FlashAttentionOutput selected_latent_attention_forward(const Tensor& q_latent, const Tensor& q_rope,
                                                       const Tensor& latents,
                                                       const Tensor& rope_keys,
                                                       const Selection& selection,
                                                       const SelectedAttentionOptions& options);

}  // namespace weft::attention

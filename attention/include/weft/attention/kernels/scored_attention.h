#pragma once

#include <cstdint>

#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/kernels/flash_attention.h"

namespace weft::attention {

/// Whether scored attention runs for queries q [B, T, H, D]: one query a sequence, on the CPU.
bool can_keep_scores(const Tensor& q);

struct ScoredAttentionOutput {
  Tensor o, lse;  ///< as of flash_attention_forward()
  /// [B, H, S] of lse's type: <q, k> of the keys that the query sees, neither scaled nor shifted;
  /// of other keys anything.
  Tensor scores;
};

/// flash_attention_forward() of one query a sequence, q [B, 1, H, D], that hands its scores out: a
/// decoding step chooses blocks by them without reading the compressed keys again. Throws
/// NotImplementedError unless can_keep_scores(), else as flash_attention_forward().
ScoredAttentionOutput scored_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                               const FlashAttentionOptions& options);

/// The same of latent_attention_forward().
ScoredAttentionOutput scored_latent_attention_forward(const Tensor& q_latent, const Tensor& q_rope,
                                                      const Tensor& latents,
                                                      const Tensor& rope_keys,
                                                      const FlashAttentionOptions& options);

/// select_blocks() for the query of scored attention over the compressed keys of `groups` heads, at
/// `position`, the first of a run: the same choice, from scores [B, H, Nc] and lse [B, H, 1].
/// options.scale must be set.
Selection select_blocks_by_scores(const ScoredAttentionOutput& attention, int64_t groups,
                                  int64_t position, int64_t keys,
                                  const BlockSelectionOptions& options);

}  // namespace weft::attention

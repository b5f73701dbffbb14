#pragma once

#include <cstdint>
#include <vector>

#include "weft/attention/kernels/flash_attention.h"
#include "weft/attention/kernels/selected_attention.h"
#include "weft/autograd/variable.h"
#include "weft/tensor/ops/rope.h"

namespace weft::attention {

using autograd::Variable;

/// flash_attention_forward with its gradient: q [B, T, H, D], k [B, S, Hk, D], v [B, S, Hk, Dv] ->
/// [B, T, H, Dv]. Saves q, k, v, the result and one number per row.
Variable flash_attention(const Variable& q, const Variable& k, const Variable& v,
                         const FlashAttentionOptions& options = {});

struct AttentionWithLse {
  Variable o;  ///< [B, T, H, Dv]
  Tensor lse;  ///< [B, H, T], see FlashAttentionOutput; carries no gradient
};

/// flash_attention() that also gives what block selection asks of a row.
AttentionWithLse flash_attention_with_lse(const Variable& q, const Variable& k, const Variable& v,
                                          const FlashAttentionOptions& options = {});

/// selected_attention_forward with its gradient. Saves q, k, v, the result, one number per row and
/// the lists, which must not be changed before backward.
Variable selected_attention(const Variable& q, const Variable& k, const Variable& v,
                            const Selection& selection,
                            const SelectedAttentionOptions& options = {});

/// gated_sum_forward with its gradient. Saves the branches, the logits and the bias, which may be
/// undefined.
Variable gated_sum(const std::vector<Variable>& branches, const Variable& logits,
                   const Variable& bias = {});

/// Turns q and k of a packed product by their positions (position, position + 1, ...) and attends:
/// [B, T, split.width()] -> [B, T, H Dv]. One record and one packed gradient for all of it.
/// `packed` is overwritten by its turned form, so give it the result of a product that nothing else
/// reads. `rope_theta` 0 means no rotation.
Variable packed_attention(const Variable& packed, const QkvSplit& split, int64_t position,
                          double rope_theta, const FlashAttentionOptions& options = {});

/// Heads that lie side by side on the last axis of a packed product.
struct HeadsPart {
  int64_t heads = 1;
  int64_t dim = 1;
  bool rotate = false;  ///< turned by position

  int64_t width() const { return heads * dim; }
};

/// The parts of packed [B, T, width] one behind the other, as views [B, T, heads, dim]. `packed` is
/// overwritten where parts turn, so give it the result of a product that nothing else reads.
/// Backward writes into one packed gradient. Saves nothing. Throws ShapeError.
std::vector<Variable> split_heads(const Variable& packed, const std::vector<HeadsPart>& parts,
                                  const RopeOptions& rope = {});

}  // namespace weft::attention

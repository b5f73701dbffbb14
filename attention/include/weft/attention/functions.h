#pragma once

#include <cstdint>
#include <vector>

#include "weft/attention/kernels/flash_attention.h"
#include "weft/autograd/variable.h"

namespace weft::attention {

using autograd::Variable;

/// flash_attention_forward with its gradient: q [B, T, H, D], k [B, S, Hk, D], v [B, S, Hk, Dv] ->
/// [B, T, H, Dv]. Saves q, k, v, the result and one number per row.
Variable flash_attention(const Variable& q, const Variable& k, const Variable& v,
                         const FlashAttentionOptions& options = {});

/// Heads of a packed product [B, T, H D + Hk D + Hk Dv], which holds queries, keys and values side
/// by side.
struct PackedHeads {
  int64_t heads = 1;
  int64_t kv_heads = 1;
  int64_t dim = 0;
  int64_t value_dim = 0;

  int64_t width() const { return heads * dim + kv_heads * (dim + value_dim); }
};

/// Views of a packed product.
struct QueryKeyValue {
  Tensor q, k, v;  ///< [B, T, H, D], [B, T, Hk, D], [B, T, Hk, Dv]
};
/// Throws ShapeError.
QueryKeyValue unpack_heads(const Tensor& packed, const PackedHeads& heads);

/// Rotates q and k of a packed product by their positions and attends: [B, T, width] -> [B, T,
/// H Dv]. One record for all of it, and one packed gradient. `packed` is overwritten by its rotated
/// form, so give it the result of a product that nothing else reads. `rope_theta` 0 means no
/// rotation.
Variable packed_attention(const Variable& packed, const PackedHeads& heads, int64_t position,
                          double rope_theta, const FlashAttentionOptions& options = {});

/// The rows of several weights [rows_i, columns] as one weight. Copies nothing when they lie one
/// behind the other in one storage, as pack_storage() leaves them.
Variable join_rows(const std::vector<Variable>& weights);

/// Moves the values of weights [rows_i, columns] of one type into one storage, one behind the
/// other.
void pack_storage(std::vector<Variable>& weights);

}  // namespace weft::attention

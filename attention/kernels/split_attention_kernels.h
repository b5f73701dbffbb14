#pragma once

#include "kernels/selected_attention_kernels.h"

namespace weft::attention {

/// Attention of few query rows, as in decoding: all keys of the range or those of listed blocks.
struct SplitAttentionParams : FlashAttentionParams {
  /// Further dims of queries and keys: [B, T, H, second_dim] and [B, S, 1, second_dim], which all
  /// heads share. None with second_dim = 0.
  HeadsView q_second, k_second;
  int64_t second_dim = 0;
  bool selected = false;
  SelectionView selection;  // where `selected`
};

/// Whether a problem has so few query rows that reading keys and values costs more than computing.
/// Depends on shapes alone, as do the bits of a result.
inline bool has_few_rows(const FlashAttentionParams& p) {
  return p.queries == 1 || p.queries * (p.heads / p.kv_heads) <= 16;
}

void split_attention_forward_cpu(const SplitAttentionParams& params, Stream stream);
void split_attention_forward_cuda(const SplitAttentionParams& params, Stream stream);

}  // namespace weft::attention

#pragma once

#include "kernels/block_selection_kernels.h"
#include "kernels/split_attention_kernels.h"

namespace weft::attention {

/// Attention of one query row a sequence that writes its scores: row (b, h) from
/// (b * heads + h) * scores_stride on, in `dtype`'s accumulator.
struct ScoredAttentionParams : SplitAttentionParams {
  void* scores = nullptr;
  int64_t scores_stride = 0;
};

/// A selection from those scores; q and k are not read.
struct ScoredSelectionParams : BlockSelectionParams {
  const void* scores = nullptr;
  int64_t scores_stride = 0;  // a whole number of vectors
};

void scored_attention_forward_cpu(const ScoredAttentionParams& params, Stream stream);
void select_scored_blocks_cpu(const ScoredSelectionParams& params, Stream stream);

}  // namespace weft::attention

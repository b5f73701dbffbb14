#pragma once

#include "weft/attention/kernels/block_selection.h"

namespace weft::attention::reference {

struct BlockSelectionOutput {
  Selection selection;
  /// f64 [B, G, tiles, blocks], of every block up to the own one of the run's first query; 0 beyond
  /// it and for an inherited list.
  Tensor importance;
  /// f64 [B, G, tiles]: by how much the least important block taken by choice exceeds the most
  /// important one left. +inf where nothing was chosen or nothing left.
  Tensor gap;
};

/// The definition of select_blocks() as plain loops in double precision: probabilities from whole
/// rows of scores, importance by the double sum of arXiv 2502.11089, equation 9, blocks by sorting.
BlockSelectionOutput select_blocks(const Tensor& q, const Tensor& k, int64_t position, int64_t keys,
                                   const BlockSelectionOptions& options,
                                   const Selection* inherited = nullptr);

}  // namespace weft::attention::reference

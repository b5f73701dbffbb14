#pragma once

#include <cstdint>

#include "weft/attention/kernels/block_pool.h"
#include "weft/attention/token_ring.h"

namespace weft::attention {

/// Cuts a growing sequence of rows into the blocks that a BlockCompressor reads: keeps the rows
/// from the first token of the first incomplete block on, in a ring of l rows.
class BlockStream {
 public:
  /// For rows [H, D] of `batch` sequences of at most `capacity` tokens.
  BlockStream(const BlockShape& shape, int64_t batch, int64_t capacity, int64_t heads, int64_t dim,
              DType dtype, Device device);

  int64_t length() const { return length_; }  ///< tokens so far
  int64_t bytes() const { return ring_.bytes(); }
  void reset() { length_ = 0; }

  /// Appends x [B, T, H, D] and gives the rows of the blocks that this completes: a compressor
  /// makes of them blocks Nc(before) to Nc(after) - 1. [B, 0, H, D] where it completes none; a view
  /// where the rows lie side by side. Throws ShapeError and DTypeError.
  Tensor append(const Tensor& x);

 private:
  BlockShape shape_;
  TokenRing ring_;  // slot s mod rows, as in TokenRing
  int64_t length_ = 0;
};

}  // namespace weft::attention

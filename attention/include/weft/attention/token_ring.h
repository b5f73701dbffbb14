#pragma once

#include <cstdint>

#include "weft/tensor/tensor.h"

namespace weft::attention {

/// The last rows of a growing sequence: the row of position s lies at slot s mod rows(). With as
/// many rows as the sequence has tokens it is a plain cache. A head's rows lie side by side in
/// memory, so that a decoding step streams through them.
class TokenRing {
 public:
  /// `rows` may be 0: nothing is kept then.
  TokenRing(int64_t batch, int64_t heads, int64_t rows, int64_t dim, DType dtype, Device device);

  int64_t rows() const { return data_.size(2); }
  int64_t bytes() const;

  /// Writes x [B, T, H, D], the rows of positions position, position + 1, ...; where T exceeds
  /// rows(), only the last ones. Throws ShapeError and DTypeError.
  void write(const Tensor& x, int64_t position);
  /// The rows of positions [first, last), oldest first, [B, last - first, H, D]: a view where they
  /// lie side by side, otherwise a copy. Only the last rows() positions written are there.
  Tensor read(int64_t first, int64_t last) const;
  /// All rows of a sequence of `length` tokens that are there, in no particular order: a view.
  Tensor kept(int64_t length) const;
  /// All slots, [B, H, rows, D].
  Tensor& slots() { return data_; }
  const Tensor& slots() const { return data_; }

 private:
  Tensor data_;  // [B, H, rows, D]
};

}  // namespace weft::attention

#pragma once

#include <cstdint>
#include <span>

#include "weft/attention/selection.h"

namespace weft::attention {

/// A selection seen from its keys: for every (batch, group, key block) the ascending list of query
/// tiles that read the block. Gradients of keys and values sum over these. Lists lie one behind the
/// other as in Selection, in the order [batch, group, block].
class TransposedSelection {
 public:
  /// Of the selection that this came from.
  const SelectionShape& shape() const { return shape_; }
  const Tensor& offsets() const { return offsets_; }  ///< i64 [batch x groups x blocks + 1]
  const Tensor& tiles() const { return tiles_; }      ///< i32 [total of the selection]
  Device device() const { return offsets_.device(); }

  /// The tiles that read one block. On the CPU only.
  std::span<const int32_t> list(int64_t batch, int64_t group, int64_t block) const;

 private:
  TransposedSelection(const SelectionShape& shape, Tensor offsets, Tensor tiles);
  friend TransposedSelection transposed(const Selection& selection);

  SelectionShape shape_;
  Tensor offsets_, tiles_;
};

/// The lists seen from the keys, and back: transposed(transposed(s)) has the lists of s. Takes time
/// proportional to total, tiles and blocks.
TransposedSelection transposed(const Selection& selection);
Selection transposed(const TransposedSelection& readers);

}  // namespace weft::attention

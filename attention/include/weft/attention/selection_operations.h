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
  const Tensor& tiles() const { return tiles_; }      ///< i32 [room() of the selection]
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

// Set operations, list by list; two selections must have one shape. On the CPU only. Throw
// ShapeError, ConfigError, DeviceError.

/// Blocks of either, of both, of the first alone.
Selection unite(const Selection& a, const Selection& b);
Selection intersect(const Selection& a, const Selection& b);
Selection subtract(const Selection& a, const Selection& b);
/// Without the blocks that start after the last query of their tile, which no query of it sees.
Selection clip_to_causal(const Selection& selection);
/// With the `initial` first blocks of the sequence and, for every query, the `local` last blocks up
/// to its own; blocks that start after the tile's last query are not added.
Selection with_forced(const Selection& selection, int64_t initial, int64_t local);

// Measures. On the CPU only.

/// i64 [batch, groups, tiles]: the lengths of the lists.
Tensor count(const Selection& selection);

/// The share of the causally eligible blocks, those that start at or before the last query of their
/// tile, that is listed; 0 where there are none.
double density(const Selection& selection);

/// Pairs of a query and a key that it sees, s <= position + t, of all lists together: what a causal
/// kernel computes for each head of a group.
int64_t visible_pairs(const Selection& selection);

struct SelectionOverlap {
  Tensor jaccard;   ///< f64 [batch, groups, tiles]: blocks of both over blocks of either
  double mean = 1;  ///< over all lists
};

/// How alike two selections of one shape are. Two empty lists are equal: 1.
SelectionOverlap overlap(const Selection& a, const Selection& b);

}  // namespace weft::attention

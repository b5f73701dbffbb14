#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "weft/tensor/tensor.h"

namespace weft::attention {

/// What the lists of a selection speak of. Positions are absolute: query row t of the call stands
/// at position + t, key row s at s. Queries at positions [i r, (i+1) r), r = query_tile, share one
/// list, so a call that starts inside such a run has a short first tile. Block j holds the keys
/// [j key_block, (j+1) key_block); the last may be shorter.
struct SelectionShape {
  int64_t batch = 1;
  int64_t groups = 1;      ///< heads that share lists form a group
  int64_t queries = 0;     ///< T
  int64_t keys = 0;        ///< S
  int64_t position = 0;    ///< of the first query
  int64_t query_tile = 1;  ///< r
  int64_t key_block = 16;

  /// Tiles of queries, and blocks of keys.
  int64_t tiles() const;
  int64_t blocks() const;
  /// Query rows [first, last) of the call that tile `tile` holds.
  int64_t first_query(int64_t tile) const;
  int64_t last_query(int64_t tile) const { return first_query(tile + 1); }
  /// The tile of query row t.
  int64_t tile_of(int64_t query) const {
    return (position + query) / query_tile - position / query_tile;
  }
  /// Lists in all: batch x groups x tiles.
  int64_t lists() const { return batch * groups * tiles(); }

  bool operator==(const SelectionShape&) const = default;
};

/// Which blocks of keys each tile of queries reads: for every (batch, group, tile) an ascending
/// list of key blocks of any length, also none. This is what sparse mechanisms hand to
/// selected_attention(): they differ in how they choose the lists, not in how they are read.
///
/// Lists lie one behind the other: list i, in the order [batch, group, tile], is
/// blocks[offsets[i]] ... blocks[offsets[i+1] - 1].
class Selection {
 public:
  /// `offsets` i64 [lists + 1], ascending from 0; `blocks` i32 [at least the last offset]. Throws
  /// ShapeError, DTypeError, ConfigError, and IndexError where a list is not strictly ascending or
  /// names a block that does not exist.
  Selection(const SelectionShape& shape, Tensor offsets, Tensor blocks);
  /// From one vector a list, in the order [batch, group, tile].
  static Selection from_lists(const SelectionShape& shape,
                              const std::vector<std::vector<int32_t>>& lists);

  const SelectionShape& shape() const { return shape_; }
  const Tensor& offsets() const { return offsets_; }
  const Tensor& blocks() const { return blocks_; }
  Device device() const { return offsets_.device(); }
  /// The same lists on another device; itself when nothing changes.
  Selection to(Device device) const;

  /// One list. On the CPU only.
  std::span<const int32_t> list(int64_t batch, int64_t group, int64_t tile) const;
  /// Sum of the lengths of all lists. Waits for a GPU.
  int64_t total() const;
  /// At least total(), and known without waiting for a GPU.
  int64_t room() const;

 private:
  SelectionShape shape_;
  Tensor offsets_, blocks_;
};

}  // namespace weft::attention

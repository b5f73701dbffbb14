#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "weft/attention/selection.h"
#include "weft/tensor/parallel.h"

namespace weft::attention {

/// Throws ShapeError and ConfigError where a shape means nothing.
void check_selection_shape(const SelectionShape& shape);

/// Blocks that start at or before the last query of a tile: [0, this).
inline int64_t eligible_blocks(const SelectionShape& shape, int64_t tile) {
  const int64_t last = shape.position + shape.last_query(tile) - 1;
  return std::min(last / shape.key_block + 1, shape.blocks());
}

/// A selection list by list, on all threads: room(list) is the most that list `list`, of the order
/// [batch, group, tile], may hold, and make(list, to) writes its blocks and returns their end.
template <class Room, class Make>
Selection build_selection(const SelectionShape& shape, const Room& room, const Make& make) {
  constexpr int64_t kGrain = 256;
  const int64_t lists = shape.lists();
  Tensor starts = empty({lists + 1}, DType::i64), offsets = empty({lists + 1}, DType::i64);
  auto* const start = starts.data<int64_t>();
  auto* const offset = offsets.data<int64_t>();
  start[0] = offset[0] = 0;
  for (int64_t list = 0; list < lists; ++list) start[list + 1] = start[list] + room(list);
  Tensor wide = empty({start[lists]}, DType::i32);
  auto* const from = wide.data<int32_t>();
  parallel_for(0, lists, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t list = begin; list < end; ++list) {
      int32_t* const to = from + start[list];
      offset[list + 1] = make(list, to) - to;
    }
  });
  for (int64_t list = 0; list < lists; ++list) offset[list + 1] += offset[list];
  Tensor blocks = empty({offset[lists]}, DType::i32);
  auto* const to = blocks.data<int32_t>();
  parallel_for(0, lists, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t list = begin; list < end; ++list)
      std::copy_n(from + start[list], offset[list + 1] - offset[list], to + offset[list]);
  });
  return {shape, std::move(offsets), std::move(blocks)};
}

}  // namespace weft::attention

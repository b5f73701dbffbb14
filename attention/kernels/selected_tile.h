#pragma once

// What forward and backward of attention over listed blocks share: where the query rows of a tile
// lie, and how blocks of keys are cut into vectors.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/lane_product.h"
#include "kernels/selected_attention_kernels.h"
#include "kernels/tile_memory.h"

namespace weft::attention {

template <class T>
T* row_at(const HeadsView& view, int64_t b, int64_t row, int64_t head) {
  return static_cast<T*>(view.data) + b * view.batch_stride + row * view.row_stride +
         head * view.head_stride;
}

/// The query rows of one tile that share a key head, ordered by token and then by head.
struct SelectedRows {
  int64_t batch, kv_head, group;
  int64_t first_query, last_query;

  SelectedRows(const FlashAttentionParams& p, const SelectionShape& shape, int64_t b,
               int64_t kv_head_index, int64_t tile)
      : batch(b),
        kv_head(kv_head_index),
        group(p.heads / p.kv_heads),
        first_query(shape.first_query(tile)),
        last_query(shape.last_query(tile)) {}

  int64_t count() const { return (last_query - first_query) * group; }
  int64_t query(int64_t row) const { return first_query + row / group; }
  int64_t head(int64_t row) const { return kv_head * group + row % group; }
  /// Of row statistics [B, H, T].
  int64_t statistics_at(const FlashAttentionParams& p, int64_t row) const {
    return (batch * p.heads + head(row)) * p.queries + query(row);
  }
};

/// `rows` rows from `first` on as A, `stride` apart: in place where they lie evenly and, when whole
/// vectors of them are read, fill them; else copied into `buffer` [rows][padded columns].
template <class A, class T>
TileRows<A> gather_rows(const SelectedRows& tile, const HeadsView& view, int64_t first,
                        int64_t rows, int64_t columns, bool in_vectors, A* buffer) {
  const auto row = [&](int64_t r) {
    return row_at<const T>(view, tile.batch, tile.query(first + r), tile.head(first + r));
  };
  if constexpr (std::is_same_v<A, T>) {
    const bool one_token = tile.query(first) == tile.query(first + rows - 1);
    const bool even =
        one_token || tile.group == 1 || view.row_stride == tile.group * view.head_stride;
    if (even && (!in_vectors || columns == padded<A>(columns))) {
      const bool by_token = !one_token && tile.group == 1;
      return {row(0), by_token ? view.row_stride : view.head_stride};
    }
  }
  for (int64_t r = 0; r < rows; ++r)
    pack_rows(row(r), 0, 1, columns, buffer + r * padded<A>(columns), padded<A>(columns));
  return {buffer, padded<A>(columns)};
}

/// Blocks of keys cut into vectors of simd::kLanes<A> keys; the last of a block may be shorter.
template <class A>
struct BlockVectors {
  static constexpr int64_t kLanes = simd::kLanes<A>;

  explicit BlockVectors(const SelectionShape& shape_in)
      : shape(shape_in), per_block((shape_in.key_block + kLanes - 1) / kLanes) {}

  int64_t first_key(int64_t block, int64_t vector) const {
    return block * shape.key_block + vector * kLanes;
  }
  /// Keys of a vector.
  int64_t keys(int64_t block, int64_t vector) const {
    const int64_t last = std::min((block + 1) * shape.key_block, shape.keys);
    return std::clamp<int64_t>(last - first_key(block, vector), 0, kLanes);
  }

  SelectionShape shape;
  int64_t per_block;
};

/// The scores of keys that a row does not see become `hidden`: those of a vector's lanes from
/// `seen` on.
template <class A>
inline void hide_lanes(A* scores, int64_t seen, A hidden) {
  if (seen >= simd::kLanes<A>) return;
  const auto limit = simd::broadcast(static_cast<A>(std::max<int64_t>(seen, 0)));
  simd::store(scores, simd::iota<A>() < limit ? simd::load(scores) : simd::broadcast(hidden));
}

}  // namespace weft::attention

#pragma once

// Attention problems as CUDA kernels see them: which query rows form a tile, and which keys they
// read. Full, sliding-window and selected attention differ in nothing else.
#include <cstdint>

#include "kernels/split_attention_kernels.h"

namespace weft::attention::gpu {

/// Rows of a tensor as tiles read them; strides in elements.
struct RowsView {
  const void* data = nullptr;
  int64_t batch_stride = 0, row_stride = 0, head_stride = 0;
  bool vectors = false;  ///< all rows can be read 16 bytes at a time

  template <class T>
  constexpr const T* at(int batch, int row, int head) const {
    return static_cast<const T*>(data) + batch * batch_stride + row * row_stride +
           head * head_stride;
  }
  template <class T>
  constexpr T* writable(int batch, int row, int head) const {
    return const_cast<T*>(at<T>(batch, row, head));
  }
};

/// `dim`: elements of a row.
inline RowsView rows_view(const HeadsView& view, DType dtype, int64_t dim) {
  const auto even = [size = static_cast<int64_t>(size_of(dtype))](int64_t elements) {
    return elements * size % 16 == 0;
  };
  return {.data = view.data,
          .batch_stride = view.batch_stride,
          .row_stride = view.row_stride,
          .head_stride = view.head_stride,
          .vectors = reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && even(dim) &&
                     even(view.batch_stride) && even(view.row_stride) && even(view.head_stride)};
}

/// Widths of tiles are whole steps of a product.
constexpr int padded(int64_t width) {
  return static_cast<int>((width + 15) / 16 * 16);
}

/// One problem. The query rows of a unit share their keys: all rows of one key head, ordered by
/// token and then by head, or those of one tile of a selection.
struct Problem {
  RowsView q, k, v, o;
  RowsView q_second, k_second;  // further dims; k_second has one head
  void* lse = nullptr;          // [B, H, T]
  int batch = 0, queries = 0, keys = 0, heads = 0, kv_heads = 0, group = 1;
  int dim = 0, value_dim = 0, second_dim = 0;
  bool shares_values = false;  // values are the first dims of keys
  double scale = 1;

  bool causal = true;
  int64_t window = 0, position = 0, key_length = 1, key_stride = 1;

  bool selected = false;
  const int64_t* offsets = nullptr;
  const int32_t* blocks = nullptr;
  int heads_per_list = 1, list_groups = 1, list_tiles = 1;
  int key_block = 1;
  int64_t query_tile = 1;

  /// Behind the last key that query rows before `end` see.
  constexpr int last_key(int end) const {
    if (!causal) return keys;
    const int64_t past = position + end - key_length;
    if (past < 0) return 0;
    const int64_t last = key_stride == 1 ? past + 1 : past / key_stride + 1;
    return last < keys ? static_cast<int>(last) : keys;
  }
  /// The first key that query rows from `begin` on see.
  constexpr int first_key(int begin) const {
    const int64_t first = window > 0 ? position + begin - window + 1 : 0;
    return first < 0 ? 0 : first < keys ? static_cast<int>(first) : keys;
  }
  /// Where a tile of a selection would begin if it were whole.
  constexpr int64_t tile_begin(int64_t tile) const {
    return (position / query_tile + tile) * query_tile - position;
  }
  /// The first query row of a tile of a selection.
  constexpr int first_query(int tile) const {
    const int64_t first = tile_begin(tile);
    return first < 0 ? 0 : first < queries ? static_cast<int>(first) : queries;
  }
  constexpr int64_t statistics_at(int b, int h, int t) const {
    return (static_cast<int64_t>(b) * heads + h) * queries + t;
  }

  /// Units, and the rows of the largest.
  constexpr int64_t units() const {
    return static_cast<int64_t>(batch) * kv_heads * (selected ? list_tiles : 1);
  }
  constexpr int64_t rows_of_unit() const {
    return (selected && query_tile < queries ? query_tile : queries) * group;
  }
  /// Whole steps of a product that the dims of a key take.
  constexpr int key_width() const { return padded(dim) + padded(second_dim); }
};

/// With parts > 1 the keys of a row are cut into parts of `part_keys`, whose sums a second kernel
/// merges in order.
struct ForwardPlan {
  int parts = 1, part_keys = 0;
  void* partial_sums = nullptr;        // [B, H, T, parts, Dv] of the accumulator type
  void* partial_statistics = nullptr;  // [B, H, T, parts, 2]
};

/// o and lse. T is an element type of Tensor.
template <class T>
void run_forward(const char* op, const Problem& problem, const ForwardPlan& plan, Stream stream);

struct BackwardProblem : Problem {
  RowsView dout, dq, dk, dv;
  void* delta = nullptr;  // [B, H, T], scratch
  /// Where selected, the tiles that list every block.
  const int64_t* reader_offsets = nullptr;
  const int32_t* readers = nullptr;
};

/// dq, dk and dv.
template <class T>
void run_backward(const char* op, const BackwardProblem& problem, Stream stream);

}  // namespace weft::attention::gpu

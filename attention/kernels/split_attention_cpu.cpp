// Attention of few query rows on the CPU, as in decoding: time goes into reading keys and values,
// so that they are read once, as they lie. They are cut into chunks of fixed size, which are the
// tasks; the chunks of a row are then merged in order.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/dot_product.h"
#include "kernels/scored_attention_kernels.h"
#include "kernels/selected_tile.h"
#include "kernels/soften.h"
#include "kernels/split_attention_kernels.h"
#include "kernels/tile_memory.h"

namespace weft::attention {
namespace {

constexpr int64_t kMostTileKeys = 64;

/// Keys of a chunk: enough of few to share among threads, and of many not more than merging is
/// worth.
int64_t chunk_keys(int64_t keys) {
  constexpr int64_t kFewKeys = 512, kManyKeys = 4096;
  return keys <= kFewKeys ? 128 : keys <= kManyKeys ? 256 : 512;
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

template <class T>
class SplitForward {
  using A = accumulator_t<T>;
  static constexpr int64_t kLanes = simd::kLanes<A>;
  static constexpr A kHidden = -std::numeric_limits<A>::infinity();
  /// Products that take as long as waking threads.
  static constexpr int64_t kLeastSharedWork = 1 << 17;
  static constexpr int64_t kFewParts = 16;

  /// Query rows that read the same keys of one head.
  struct Unit {
    int64_t batch, kv_head;
    int64_t first_query, last_query;
    FlashAttentionParams::Range range;  // of keys
    SelectionView::List list;           // of blocks, where selected
    int64_t first_part;                 // of its chunks among all parts
  };

 public:
  /// Rows of scores are written to `scores`, `scores_stride` apart, unless it is null: for one
  /// query a sequence, not selected.
  explicit SplitForward(const SplitAttentionParams& params, A* scores = nullptr,
                        int64_t scores_stride = 0)
      : p_(params),
        scores_(scores),
        scores_stride_(scores_stride),
        group_(params.heads / params.kv_heads),
        dim_width_(padded<A>(params.dim)),
        second_width_(padded<A>(params.second_dim)),
        value_width_(padded<A>(params.value_dim)),
        // Keys and values of a tile are met by all rows while they are in the first-level cache.
        tile_keys_(std::clamp<int64_t>(
            (32 << 10) / static_cast<int64_t>(sizeof(A)) / (dim_width_ + second_width_) / 16 * 16,
            16, kMostTileKeys)) {
    find_units();
  }

  void run() {
    int64_t most_rows = 0;
    for (const Unit& unit : units_) most_rows = std::max(most_rows, rows_of(unit));
    part_elements_ = most_rows * (value_width_ + 2);
    parts_ = empty({parts_count_, part_elements_}, dtype_of<A>);
    const int64_t staged = tile_keys_ * (dim_width_ + second_width_ + value_width_);
    ThreadScratch<A> scratch(num_threads(),
                             most_rows * (dim_width_ + second_width_ + kMostTileKeys + 1) + staged);
    if (work_ < kLeastSharedWork) {
      for (int64_t part = 0; part < parts_count_; ++part) run_part(part, scratch.of(0));
      for (const Unit& unit : units_) merge(unit);
      return;
    }
    const auto run_parts = [&](int64_t begin, int64_t end, int thread) {
      for (int64_t part = begin; part < end; ++part) run_part(part, scratch.of(thread));
    };
    // Few chunks go to the same threads in every step, whose caches may still hold their keys.
    if (parts_count_ <= kFewParts * num_threads()) {
      parallel_for(0, parts_count_, 1, run_parts);
    } else {
      parallel_for_dynamic(0, parts_count_, 1, run_parts);
    }
    const auto units = static_cast<int64_t>(units_.size());
    const bool small = parts_count_ * part_elements_ < (1 << 15);
    parallel_for(0, units, small ? units : 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) merge(units_[static_cast<size_t>(unit)]);
    });
  }

 private:
  void find_units() {
    const SelectionShape& shape = p_.selection.shape;
    const int64_t tiles = p_.selected ? shape.tiles() : 1;
    int64_t most_keys = 0;
    for (int64_t b = 0; b < p_.batch; ++b) {
      for (int64_t kv_head = 0; kv_head < p_.kv_heads; ++kv_head) {
        for (int64_t tile = 0; tile < tiles; ++tile) {
          Unit unit{.batch = b,
                    .kv_head = kv_head,
                    .first_query = p_.selected ? shape.first_query(tile) : 0,
                    .last_query = p_.selected ? shape.last_query(tile) : p_.queries,
                    .range = {},
                    .list = {},
                    .first_part = 0};
          unit.range = p_.visible_keys(unit.first_query, unit.last_query);
          if (p_.selected)
            unit.list = p_.selection.list(b, kv_head / (p_.kv_heads / shape.groups), tile);
          most_keys = std::max(most_keys, keys_of(unit));
          work_ += keys_of(unit) * rows_of(unit) * (p_.dim + p_.second_dim + p_.value_dim);
          units_.push_back(unit);
        }
      }
    }
    chunk_ = chunk_keys(p_.selected ? most_keys : p_.keys);
    for (Unit& unit : units_) {
      unit.first_part = parts_count_;
      parts_count_ += parts_of(unit);
    }
  }

  /// Keys that a unit reads, or some more.
  int64_t keys_of(const Unit& unit) const {
    if (!p_.selected) return unit.range.empty() ? 0 : unit.range.last - unit.range.first;
    return (unit.list.last - unit.list.first) * p_.selection.shape.key_block;
  }

  int64_t rows_of(const Unit& unit) const { return (unit.last_query - unit.first_query) * group_; }

  int64_t blocks_of_chunk() const {
    return std::max<int64_t>(chunk_ / p_.selection.shape.key_block, 1);
  }
  /// Chunks of one listed block, where a block is longer than a chunk.
  int64_t chunks_of_block() const { return ceil_div(p_.selection.shape.key_block, chunk_); }

  /// Chunks of a unit. Those of a range are cut at fixed positions, so that a window that moves
  /// does not change how keys are summed.
  int64_t parts_of(const Unit& unit) const {
    if (!p_.selected) {
      if (unit.range.empty()) return 0;
      return ceil_div(unit.range.last, chunk_) - unit.range.first / chunk_;
    }
    const int64_t blocks = unit.list.last - unit.list.first;
    return ceil_div(blocks, blocks_of_chunk()) * chunks_of_block();
  }

  /// Calls body(first, last) for the runs of keys of a chunk.
  template <class Body>
  void for_each_run(const Unit& unit, int64_t chunk, Body&& body) const {
    const auto clipped = [&](int64_t first, int64_t last) {
      first = std::max(first, unit.range.first);
      last = std::min(last, unit.range.last);
      if (first < last) body(first, last);
    };
    if (!p_.selected) {
      const int64_t first = (unit.range.first / chunk_ + chunk) * chunk_;
      return clipped(first, first + chunk_);
    }
    const int64_t length = p_.selection.shape.key_block;
    const int64_t piece = chunk % chunks_of_block() * chunk_;
    const int32_t* const blocks = unit.list.first + chunk / chunks_of_block() * blocks_of_chunk();
    for (int64_t i = 0; i < std::min<int64_t>(blocks_of_chunk(), unit.list.last - blocks); ++i) {
      const int64_t first = blocks[i] * length;
      clipped(first + piece, first + std::min(piece + chunk_, length));
    }
  }

  A* sums_of(int64_t part) const {  // [rows]: m, z; then [rows][value width]
    return const_cast<A*>(parts_.data<A>()) + part * part_elements_;
  }

  void run_part(int64_t part, A* scratch) const {
    const auto after =
        std::upper_bound(units_.begin(), units_.end(), part,
                         [](int64_t index, const Unit& unit) { return index < unit.first_part; });
    const Unit& unit = *(after - 1);
    const int64_t rows = rows_of(unit);
    A* const largest = sums_of(part);
    A* const sum = largest + rows;
    A* const output = sum + rows;
    std::fill_n(largest, rows, kHidden);
    std::fill_n(sum, rows, A(0));
    std::fill_n(output, rows * value_width_, A(0));

    const int64_t width = dim_width_ + second_width_;
    A* const q = scratch;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t t = unit.first_query + r / group_, h = unit.kv_head * group_ + r % group_;
      pack_rows(row_at<const T>(p_.q, unit.batch, t, h), 0, 1, p_.dim, q + r * width, width);
      if (second_width_ > 0) {
        pack_rows(row_at<const T>(p_.q_second, unit.batch, t, h), 0, 1, p_.second_dim,
                  q + r * width + dim_width_, width);
      }
    }
    Tile tile{.count = 0, .keys = {}};
    for_each_run(unit, part - unit.first_part, [&](int64_t first, int64_t last) {
      while (first < last) {
        tile.keys[tile.count++] = first++;
        if (tile.count == tile_keys_) {
          absorb(unit, tile, q, largest, sum, output, q + rows * width);
          tile.count = 0;
        }
      }
    });
    if (tile.count > 0) absorb(unit, tile, q, largest, sum, output, q + rows * width);
  }

  struct Tile {
    int64_t count;
    int64_t keys[kMostTileKeys];
  };

  /// Where rows of the keys of a tile lie as A in whole vectors: in place, or in `buffer`.
  void rows_of_tile(const HeadsView& view, const Unit& unit, int64_t head, const Tile& tile,
                    int64_t columns, A* buffer, const A** rows) const {
    const int64_t width = padded<A>(columns), stride = view.row_stride;
    const T* const base = row_at<const T>(view, unit.batch, 0, head);
    const auto in_place = [&] {
      if constexpr (std::is_same_v<A, T>) {
        if (width == columns) {
          for (int64_t j = 0; j < tile.count; ++j) rows[j] = base + tile.keys[j] * stride;
          return true;
        }
      }
      return false;
    };
    if (!in_place()) {
      for (int64_t j = 0; j < tile.count; ++j) {
        rows[j] = buffer + j * width;
        pack_rows(base + tile.keys[j] * stride, 0, 1, columns, buffer + j * width, width);
      }
    }
    std::fill(rows + tile.count, rows + padded<A>(tile.count), rows[tile.count - 1]);
  }

  void absorb(const Unit& unit, const Tile& tile, const A* q, A* largest, A* sum, A* output,
              A* scratch) const {
    const int64_t rows = rows_of(unit);
    const int64_t width = dim_width_ + second_width_;
    A* const scores = scratch;
    A* const factor = scores + rows * kMostTileKeys;
    A* const k_buffer = factor + rows;
    A* const second_buffer = k_buffer + tile_keys_ * dim_width_;
    A* const v_buffer = second_buffer + tile_keys_ * second_width_;
    const A *k[kMostTileKeys], *second[kMostTileKeys], *v[kMostTileKeys];
    rows_of_tile(p_.k, unit, unit.kv_head, tile, p_.dim, k_buffer, k);
    if (second_width_ > 0)
      rows_of_tile(p_.k_second, unit, 0, tile, p_.second_dim, second_buffer, second);
    const bool latent = p_.k.data == p_.v.data && p_.value_dim == p_.dim;
    if (latent) {
      std::copy_n(k, padded<A>(tile.count), v);
    } else {
      rows_of_tile(p_.v, unit, unit.kv_head, tile, p_.value_dim, v_buffer, v);
    }

    // Values come while scores are computed, and the keys of the next tile, where those follow in
    // memory, while values are summed.
    // Not so for latents: they are few bytes for many products.
    RowsAhead<A> values_ahead, keys_ahead;
    const A* next[kMostTileKeys];
    if constexpr (std::is_same_v<A, T>) {
      if (!latent) values_ahead = {v, value_width_};
      if (!latent && !p_.selected) {
        const T* const base = row_at<const T>(p_.k, unit.batch, 0, unit.kv_head);
        const int64_t stride = p_.k.row_stride, ahead = tile_keys_, last = unit.range.last - 1;
        for (int64_t j = 0; j < tile.count; ++j)
          next[j] = base + std::min(tile.keys[j] + ahead, last) * stride;
        keys_ahead = {next, p_.dim};
      }
    }
    dot_keys<A>(rows, tile.count, q, width, {k, dim_width_}, {second, second_width_}, scores,
                kMostTileKeys, values_ahead);
    if (scores_ != nullptr) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = unit.batch * p_.heads + unit.kv_head * group_ + r;
        std::copy_n(scores + r * kMostTileKeys, tile.count,
                    scores_ + row * scores_stride_ + tile.keys[0]);
      }
    }
    const A c = static_cast<A>(p_.scale * 1.4426950408889634074);
    const int64_t first_key = tile.keys[0], last_key = tile.keys[tile.count - 1];
    for (int64_t r = 0; r < rows; ++r) {
      A* const row = scores + r * kMostTileKeys;
      std::fill(row + tile.count, row + padded<A>(tile.count), kHidden);
      const int64_t t = unit.first_query + r / group_;
      const auto seen = p_.visible_keys(t, t + 1);
      if (first_key < seen.first || last_key >= seen.last) {
        for (int64_t j = 0; j < tile.count; ++j) {
          if (tile.keys[j] < seen.first || tile.keys[j] >= seen.last) row[j] = kHidden;
        }
      }
      factor[r] = soften(row, padded<A>(tile.count) / kLanes, c, largest[r], sum[r]);
    }
    weigh_values<A>(rows, tile.count, v, value_width_, scores, kMostTileKeys, output, value_width_,
                    factor, keys_ahead);
  }

  /// Sums the chunks of a unit's rows in order and writes o and lse.
  void merge(const Unit& unit) const {
    const int64_t rows = rows_of(unit), parts = parts_of(unit);
    const A c = static_cast<A>(p_.scale * 1.4426950408889634074);
    std::vector<A> total(static_cast<size_t>(value_width_));
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t t = unit.first_query + r / group_, h = unit.kv_head * group_ + r % group_;
      const auto part_of = [&](int64_t part) { return sums_of(unit.first_part + part); };
      A largest = kHidden, sum = 0;
      for (int64_t part = 0; part < parts; ++part) largest = std::max(part_of(part)[r], largest);
      std::fill(total.begin(), total.end(), A(0));
      for (int64_t part = 0; part < parts; ++part) {
        const A* const from = part_of(part);
        if (from[rows + r] == 0) continue;
        const A weight = std::exp2((from[r] - largest) * c);
        const A* const output = from + 2 * rows + r * value_width_;
        sum += weight * from[rows + r];
        for (int64_t e = 0; e < value_width_; ++e) total[e] += weight * output[e];
      }
      T* const o = row_at<T>(p_.o, unit.batch, t, h);
      const A normaliser = sum == 0 ? A(0) : 1 / sum;
      for (int64_t e = 0; e < p_.value_dim; ++e) o[e] = static_cast<T>(total[e] * normaliser);
      static_cast<A*>(p_.lse)[(unit.batch * p_.heads + h) * p_.queries + t] =
          sum == 0 ? std::numeric_limits<A>::infinity()
                   : largest * static_cast<A>(p_.scale) + std::log(sum);
    }
  }

  const SplitAttentionParams& p_;
  A* scores_;
  int64_t scores_stride_;
  int64_t group_, dim_width_, second_width_, value_width_, tile_keys_;
  std::vector<Unit> units_;
  int64_t chunk_ = 0, parts_count_ = 0, part_elements_ = 0, work_ = 0;
  Tensor parts_;
};

}  // namespace

void split_attention_forward_cpu(const SplitAttentionParams& params, Stream /*stream*/) {
  dispatch_floating(params.dtype, "split_attention",
                    [&]<class T>() { SplitForward<T>(params).run(); });
}

void scored_attention_forward_cpu(const ScoredAttentionParams& params, Stream /*stream*/) {
  dispatch_floating(params.dtype, "scored_attention", [&]<class T>() {
    SplitForward<T>(params, static_cast<accumulator_t<T>*>(params.scores), params.scores_stride)
        .run();
  });
}

}  // namespace weft::attention

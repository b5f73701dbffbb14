#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/prefetch.h"
#include "kernels/simd.h"
#include "kernels/tile_memory.h"
#include "kernels/tile_product.h"

namespace weft::attention {

/// Attention of up to kTileRows query rows that absorb their keys tile by tile, by the online
/// softmax. Scores are kept transposed, [key][row]: the queries are packed once, keys and values
/// are read as they lie, and row maxima and sums need no operation across a vector.
///   s_j = <q, k_j>;  m' = max(m, s);  z = 2^(c(m - m')) z + sum_j 2^(c(s_j - m'));  o likewise,
/// with c = scale * log2(e).
template <class A>
class ForwardTile {
 public:
  /// Keys [first, last) of a tile that each row sees, counted from the tile's first key.
  struct Bounds {
    alignas(64) A first[kTileRows];
    alignas(64) A last[kTileRows];
  };

  static int64_t scratch_elements(int64_t dim, int64_t value_dim) {
    return dim * kTileRows + kTileKeys * kTileRows + kTileRows * padded<A>(value_dim) +
           3 * kTileRows;
  }

  ForwardTile(A* scratch, int64_t dim, int64_t value_dim, double scale)
      : dim_(dim),
        value_width_(padded<A>(value_dim)),
        scale_(scale),
        queries_(scratch),
        scores_(queries_ + dim * kTileRows),
        largest_(scores_ + kTileKeys * kTileRows),
        sum_(largest_ + kTileRows),
        factor_(sum_ + kTileRows),
        output_(factor_ + kTileRows) {}

  /// Where the caller packs the query rows, [dim][kTileRows], padded rows zero.
  A* queries() { return queries_; }

  /// Gets a step for every few rows of a product.
  PrefetchQueue& prefetch() { return prefetch_; }
  /// Steps of the prefetch queue that absorbing a whole tile of keys makes.
  static constexpr int64_t kPrefetchSteps = 22;

  void start(int64_t rows) {
    rows_ = rows;
    empty_ = true;
    std::fill_n(largest_, kTileRows, -std::numeric_limits<A>::infinity());
    std::fill_n(sum_, kTileRows, A(0));
  }

  /// Up to kTileKeys keys [count, dim] and values [count, value_dim padded]; all visible to all
  /// rows unless `bounds` are given.
  void absorb(int64_t count, TileRows<A> k, TileRows<A> v, const Bounds* bounds) {
    if (bounds == nullptr) {
      const int64_t width = padded<A>(rows_);
      score({0, count}, {0, width}, k);
      softmax({0, width}, {0, count}, nullptr);
      weigh({0, rows_}, {0, count}, v);
    } else {
      absorb_partly(count, k, v, *bounds);
    }
    empty_ = false;
  }

  /// The unnormalised output row, and by what to multiply it: 1 / z, or 0 for a row without keys.
  const A* output(int64_t row) const { return output_ + row * value_width_; }
  A normaliser(int64_t row) const { return empty_ || sum_[row] == 0 ? A(0) : 1 / sum_[row]; }
  /// ln of the sum of exp(scale * s); +inf for a row without keys.
  A lse(int64_t row) const {
    if (empty_ || sum_[row] == 0) return std::numeric_limits<A>::infinity();
    return largest_[row] * static_cast<A>(scale_) + std::log(sum_[row]);
  }
  bool saw_keys() const { return !empty_; }

 private:
  /// Groups of rows see different keys: scores are computed for groups of keys and rows that meet,
  /// the rest by the keys that a group of rows sees.
  void absorb_partly(int64_t count, TileRows<A> k, TileRows<A> v, const Bounds& bounds) {
    constexpr int64_t kGroups = kTileRows / kTileGroup;
    const int64_t width = padded<A>(rows_);
    TileRange seen[kGroups];  // keys, by group of rows
    int64_t groups = 0;
    for (int64_t row = 0; row < width; row += kTileGroup, ++groups) {
      const int64_t end = std::min(row + kTileGroup, width);
      seen[groups] = {
          static_cast<int64_t>(*std::min_element(bounds.first + row, bounds.first + end)),
          static_cast<int64_t>(*std::max_element(bounds.last + row, bounds.last + end))};
    }
    for (int64_t key = 0; key < count; key += kTileGroup) {
      const TileRange keys{key, std::min(key + kTileGroup, count)};
      const auto meets = [&](int64_t group) {
        return seen[group].first < keys.last && seen[group].last > keys.first;
      };
      for (int64_t group = 0; group < groups;) {
        int64_t end = group;
        while (end < groups && meets(end)) ++end;
        if (end > group) score(keys, {group * kTileGroup, std::min(end * kTileGroup, width)}, k);
        group = std::max(end, group + 1);
      }
    }
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t row = group * kTileGroup;
      softmax({row, std::min(row + kTileGroup, width)}, seen[group], &bounds);
      weigh({row, std::min(row + kTileGroup, rows_)}, seen[group], v);
    }
  }

  void score(TileRange keys, TileRange rows, TileRows<A> k) {
    tile_product<A, TileOrder::rows>(keys.size(), rows.size(), dim_, k.data + keys.first * k.stride,
                                     k.stride, queries_ + rows.first, kTileRows,
                                     scores_ + keys.first * kTileRows + rows.first, kTileRows,
                                     TileStore::overwrite);
  }

  void weigh(TileRange rows, TileRange keys, TileRows<A> v) {
    tile_product<A, TileOrder::columns>(
        rows.size(), value_width_, keys.size(), scores_ + keys.first * kTileRows + rows.first,
        kTileRows, v.data + keys.first * v.stride, v.stride, output_ + rows.first * value_width_,
        value_width_, empty_ ? TileStore::overwrite : TileStore::rescale, factor_ + rows.first,
        &prefetch_);
  }

  /// Turns the scores of some rows and keys into exp(s - m), with m and z brought up to date.
  void softmax(TileRange rows, TileRange keys, const Bounds* bounds) {
    for (int64_t lane = rows.first; lane < rows.last; lane += simd::kLanes<A>)
      softmax_lanes(lane, keys, bounds);
  }

  void softmax_lanes(int64_t lane, TileRange keys, const Bounds* bounds) {
    using V = simd::Vec<A>;
    constexpr A kHidden = -std::numeric_limits<A>::infinity();
    A* const column = scores_ + lane;
    const V before = simd::load(largest_ + lane);
    V largest = before;
    if (bounds != nullptr) {
      const V first = simd::load(bounds->first + lane);
      const V last = simd::load(bounds->last + lane);
      const V hidden = simd::broadcast(kHidden);
      for (int64_t j = keys.first; j < keys.last; ++j) {
        const V index = simd::broadcast(static_cast<A>(j));
        V score = simd::load(column + j * kTileRows);
        score = index < last ? score : hidden;
        score = index >= first ? score : hidden;
        largest = simd::max<A>(score, largest);
        simd::store(column + j * kTileRows, score);
      }
    } else {
      for (int64_t j = keys.first; j < keys.last; ++j)
        largest = simd::max<A>(simd::load(column + j * kTileRows), largest);
    }
    simd::store(largest_ + lane, largest);
    // Rows that have seen no key yet must not compute inf - inf.
    const V c = simd::broadcast(static_cast<A>(scale_ * 1.4426950408889634074));
    const V shift = (largest == kHidden ? V{} : largest) * c;
    const V factor = simd::exp2(before * c - shift);
    V sum = simd::load(sum_ + lane) * factor;
    for (int64_t j = keys.first; j < keys.last; ++j) {
      const V p = simd::exp2(simd::load(column + j * kTileRows) * c - shift);
      sum += p;
      simd::store(column + j * kTileRows, p);
    }
    simd::store(factor_ + lane, factor);
    simd::store(sum_ + lane, sum);
  }

  int64_t dim_, value_width_;
  double scale_;
  A* queries_;  // [dim][kTileRows]
  A* scores_;   // [kTileKeys][kTileRows]
  A* largest_;  // m, of the scores before scaling
  A* sum_;      // z
  A* factor_;   // of the last tile's rescaling
  A* output_;   // [kTileRows][value_width]
  int64_t rows_ = 0;
  bool empty_ = true;
  PrefetchQueue prefetch_;
};

}  // namespace weft::attention

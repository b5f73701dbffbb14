#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

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

  void start(int64_t rows) {
    rows_ = rows;
    empty_ = true;
    std::fill_n(largest_, kTileRows, -std::numeric_limits<A>::infinity());
    std::fill_n(sum_, kTileRows, A(0));
  }

  /// Up to kTileKeys keys [count, dim] and values [count, value_dim padded]; all visible to all
  /// rows unless `bounds` are given.
  void absorb(int64_t count, TileRows<A> k, TileRows<A> v, const Bounds* bounds) {
    const int64_t width = padded<A>(rows_);
    tile_product<A, TileOrder::rows>(count, width, dim_, k.data, k.stride, queries_, kTileRows,
                                     scores_, kTileRows, TileStore::overwrite);
    for (int64_t lane = 0; lane < width; lane += simd::kLanes<A>) softmax(lane, count, bounds);
    tile_product<A, TileOrder::columns>(
        rows_, value_width_, count, scores_, kTileRows, v.data, v.stride, output_, value_width_,
        empty_ ? TileStore::overwrite : TileStore::rescale, factor_);
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
  void softmax(int64_t lane, int64_t count, const Bounds* bounds) {
    using V = simd::Vec<A>;
    constexpr A kHidden = -std::numeric_limits<A>::infinity();
    A* const column = scores_ + lane;
    if (bounds != nullptr) {
      const V first = simd::load(bounds->first + lane);
      const V last = simd::load(bounds->last + lane);
      for (int64_t j = 0; j < count; ++j) {
        const V index = simd::broadcast(static_cast<A>(j));
        const V score = simd::load(column + j * kTileRows);
        const V hidden = simd::broadcast(kHidden);
        const V below = index < last ? score : hidden;
        simd::store(column + j * kTileRows, index >= first ? below : hidden);
      }
    }
    const V before = simd::load(largest_ + lane);
    V largest = before;
    for (int64_t j = 0; j < count; ++j)
      largest = simd::max<A>(simd::load(column + j * kTileRows), largest);
    simd::store(largest_ + lane, largest);
    // Rows that have seen no key yet must not compute inf - inf.
    const V c = simd::broadcast(static_cast<A>(scale_ * 1.4426950408889634074));
    const V shift = (largest == kHidden ? V{} : largest) * c;
    const V factor = simd::exp2(before * c - shift);
    V sum = simd::load(sum_ + lane) * factor;
    for (int64_t j = 0; j < count; ++j) {
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
};

}  // namespace weft::attention

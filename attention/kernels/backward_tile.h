#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/prefetch.h"
#include "kernels/simd.h"
#include "kernels/tile_memory.h"
#include "kernels/tile_product.h"

namespace weft::attention {

/// The gradients between up to kTileRows query rows of one head and up to kTileKeys keys, from
/// recomputed probabilities. Scores are kept [row][key]: keys and values are transposed once for
/// all queries that they meet; everything else is read as it lies.
///   P = exp(scale S - L),  dS = P (dout V^T - delta)
///   dV += P^T dout,  dK += dS^T Q / scale,  dQ += dS K / scale
template <class A>
class BackwardTile {
 public:
  struct Queries {
    int64_t rows;
    TileRows<A> q, dout;  ///< [rows, dim], [rows, value_dim]
    const A* lse;         ///< [rows]
    const A* delta;       ///< [rows], <dout, o>
    A* dq;                ///< [rows][dim padded], dense
    bool dq_empty;        ///< dq holds nothing yet
  };
  struct Keys {
    int64_t count;
    TileRows<A> k;       ///< [count, dim]
    const A* k_columns;  ///< [dim][columns_stride], lanes beyond count zero
    const A* v_columns;  ///< [value_dim][columns_stride]
    int64_t columns_stride;
    A* dk;  ///< [count][dim padded], dense, summed into
    A* dv;  ///< [count][value_dim padded]
  };
  /// Keys [first, last) of the tile that each row sees.
  struct Bounds {
    int64_t first[kTileRows];
    int64_t last[kTileRows];
  };

  static int64_t scratch_elements() { return 2 * kTileRows * kTileKeys; }

  BackwardTile(A* scratch, int64_t dim, int64_t value_dim, double scale)
      : dim_(dim),
        value_dim_(value_dim),
        scale_(scale),
        p_(scratch),
        ds_(scratch + kTileRows * kTileKeys) {}

  /// Gets a step for every few rows of a product.
  PrefetchQueue& prefetch() { return prefetch_; }
  /// Steps of the prefetch queue that accumulate() makes on whole tiles.
  static constexpr int64_t kPrefetchSteps = 55;

  /// `bounds` null: every row sees every key.
  void accumulate(const Queries& x, const Keys& y, const Bounds* bounds) {
    if (bounds == nullptr) {
      const TileRange rows{0, x.rows}, keys{0, y.count};
      score(x, y, rows, {0, padded<A>(y.count)});
      for (int64_t r = 0; r < x.rows; ++r)
        differentiate(r, {0, padded<A>(y.count)}, x.lse[r], x.delta[r], nullptr);
      sum_keys(x, y, rows, keys);
      sum_queries(x, y, rows, keys);
    } else {
      accumulate_partly(x, y, *bounds);
    }
  }

 private:
  /// Groups of rows see different keys: only groups of rows and keys that meet are computed.
  void accumulate_partly(const Queries& x, const Keys& y, const Bounds& bounds) {
    constexpr int64_t kGroups = kTileRows / kTileGroup;
    TileRange seen[kGroups];  // keys in whole groups, by group of rows
    int64_t groups = 0;
    for (int64_t row = 0; row < x.rows; row += kTileGroup, ++groups) {
      const TileRange rows{row, std::min(row + kTileGroup, x.rows)};
      const int64_t first = *std::min_element(bounds.first + rows.first, bounds.first + rows.last);
      const int64_t last = *std::max_element(bounds.last + rows.first, bounds.last + rows.last);
      TileRange& keys = seen[groups];
      keys = {first / kTileGroup * kTileGroup,
              std::min((last + kTileGroup - 1) / kTileGroup * kTileGroup, padded<A>(y.count))};
      if (last <= first) keys = {0, 0};
      score(x, y, rows, keys);
      for (int64_t r = rows.first; r < rows.last; ++r)
        differentiate(r, keys, x.lse[r], x.delta[r], &bounds);
      sum_queries(x, y, rows, {keys.first, std::min(keys.last, y.count)});
    }
    for (int64_t key = 0; key < y.count; key += kTileGroup) {
      const TileRange keys{key, std::min(key + kTileGroup, y.count)};
      for (int64_t group = 0; group < groups;) {
        int64_t end = group;
        while (end < groups && seen[end].first < keys.last && seen[end].last > keys.first) ++end;
        if (end > group)
          sum_keys(x, y, {group * kTileGroup, std::min(end * kTileGroup, x.rows)}, keys);
        group = std::max(end, group + 1);
      }
    }
  }

  /// S = Q K^T and <dout, v> = dout V^T. Keys in whole vectors.
  void score(const Queries& x, const Keys& y, TileRange rows, TileRange keys) {
    const int64_t at = rows.first * kTileKeys + keys.first;
    tile_product<A, TileOrder::rows>(rows.size(), keys.size(), dim_,
                                     x.q.data + rows.first * x.q.stride, x.q.stride,
                                     y.k_columns + keys.first, y.columns_stride, p_ + at, kTileKeys,
                                     TileStore::overwrite, nullptr, &prefetch_);
    tile_product<A, TileOrder::rows>(rows.size(), keys.size(), value_dim_,
                                     x.dout.data + rows.first * x.dout.stride, x.dout.stride,
                                     y.v_columns + keys.first, y.columns_stride, ds_ + at,
                                     kTileKeys, TileStore::overwrite, nullptr, &prefetch_);
  }

  /// dV += P^T dout, dK += dS^T Q.
  void sum_keys(const Queries& x, const Keys& y, TileRange rows, TileRange keys) {
    const int64_t at = rows.first * kTileKeys + keys.first;
    const int64_t dim_width = padded<A>(dim_), value_width = padded<A>(value_dim_);
    tile_product<A, TileOrder::columns>(keys.size(), value_width, rows.size(), p_ + at, kTileKeys,
                                        x.dout.data + rows.first * x.dout.stride, x.dout.stride,
                                        y.dv + keys.first * value_width, value_width,
                                        TileStore::accumulate, nullptr, &prefetch_);
    tile_product<A, TileOrder::columns>(keys.size(), dim_width, rows.size(), ds_ + at, kTileKeys,
                                        x.q.data + rows.first * x.q.stride, x.q.stride,
                                        y.dk + keys.first * dim_width, dim_width,
                                        TileStore::accumulate, nullptr, &prefetch_);
  }

  /// dQ += dS K.
  void sum_queries(const Queries& x, const Keys& y, TileRange rows, TileRange keys) {
    const int64_t dim_width = padded<A>(dim_);
    tile_product<A, TileOrder::rows>(
        rows.size(), dim_width, keys.size(), ds_ + rows.first * kTileKeys + keys.first, kTileKeys,
        y.k.data + keys.first * y.k.stride, y.k.stride, x.dq + rows.first * dim_width, dim_width,
        x.dq_empty ? TileStore::overwrite : TileStore::accumulate, nullptr, &prefetch_);
  }

  /// Turns one row of scores and of <dout, v> into P and dS.
  void differentiate(int64_t row, TileRange keys, A lse, A delta, const Bounds* bounds) {
    using V = simd::Vec<A>;
    constexpr A kLog2e = A(1.4426950408889634074);
    A* const p = p_ + row * kTileKeys;
    A* const ds = ds_ + row * kTileKeys;
    const V c = simd::broadcast(static_cast<A>(scale_) * kLog2e);
    const V shift = simd::broadcast(lse * kLog2e);
    for (int64_t j = keys.first; j < keys.last; j += simd::kLanes<A>) {
      V probability = simd::exp2(simd::load(p + j) * c - shift);
      V gradient = simd::load(ds + j) - delta;
      if (bounds != nullptr) {
        const V index = simd::iota<A>() + static_cast<A>(j);
        const auto seen = (index >= static_cast<A>(bounds->first[row])) &
                          (index < static_cast<A>(bounds->last[row]));
        probability = seen ? probability : V{};
        gradient = seen ? gradient : V{};
      }
      simd::store(p + j, probability);
      simd::store(ds + j, probability * gradient);
    }
  }

  int64_t dim_, value_dim_;
  double scale_;
  A* p_;   // [kTileRows][kTileKeys]
  A* ds_;  // [kTileRows][kTileKeys]
  PrefetchQueue prefetch_;
};

}  // namespace weft::attention

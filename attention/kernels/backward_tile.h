#pragma once

#include <algorithm>
#include <cstdint>

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

  /// `bounds` null: every row sees every key.
  void accumulate(const Queries& x, const Keys& y, const Bounds* bounds) {
    const int64_t width = padded<A>(y.count);
    tile_product<A, TileOrder::rows>(x.rows, width, dim_, x.q.data, x.q.stride, y.k_columns,
                                     y.columns_stride, p_, kTileKeys, TileStore::overwrite);
    tile_product<A, TileOrder::rows>(x.rows, width, value_dim_, x.dout.data, x.dout.stride,
                                     y.v_columns, y.columns_stride, ds_, kTileKeys,
                                     TileStore::overwrite);
    for (int64_t r = 0; r < x.rows; ++r) {
      differentiate(r, width, x.lse[r], x.delta[r], bounds != nullptr ? bounds->first[r] : 0,
                    bounds != nullptr ? bounds->last[r] : width);
    }
    tile_product<A, TileOrder::columns>(y.count, padded<A>(value_dim_), x.rows, p_, kTileKeys,
                                        x.dout.data, x.dout.stride, y.dv, padded<A>(value_dim_),
                                        TileStore::accumulate);
    tile_product<A, TileOrder::columns>(y.count, padded<A>(dim_), x.rows, ds_, kTileKeys, x.q.data,
                                        x.q.stride, y.dk, padded<A>(dim_), TileStore::accumulate);
    tile_product<A, TileOrder::rows>(x.rows, padded<A>(dim_), y.count, ds_, kTileKeys, y.k.data,
                                     y.k.stride, x.dq, padded<A>(dim_),
                                     x.dq_empty ? TileStore::overwrite : TileStore::accumulate);
  }

 private:
  /// Turns one row of scores and of <dout, v> into P and dS.
  void differentiate(int64_t row, int64_t width, A lse, A delta, int64_t first, int64_t last) {
    using V = simd::Vec<A>;
    constexpr A kLog2e = A(1.4426950408889634074);
    A* const p = p_ + row * kTileKeys;
    A* const ds = ds_ + row * kTileKeys;
    const V c = simd::broadcast(static_cast<A>(scale_) * kLog2e);
    const V shift = simd::broadcast(lse * kLog2e);
    const bool hides = first > 0 || last < width;
    for (int64_t j = 0; j < width; j += simd::kLanes<A>) {
      V probability = simd::exp2(simd::load(p + j) * c - shift);
      V gradient = simd::load(ds + j) - delta;
      if (hides) {
        const V index = simd::iota<A>() + static_cast<A>(j);
        const auto seen = (index >= static_cast<A>(first)) & (index < static_cast<A>(last));
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
};

}  // namespace weft::attention

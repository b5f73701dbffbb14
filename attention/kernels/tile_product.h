#pragma once

// Products of small matrices that lie in the caches: the inner loops of the attention kernels.
#include <algorithm>
#include <cstdint>

#include "kernels/prefetch.h"
#include "kernels/simd.h"

namespace weft::attention {

/// How A of a tile product lies in memory: element (m, k) at a[m * lda + k], or at a[k * lda + m].
enum class TileOrder { rows, columns };

/// What a tile product does to C.
enum class TileStore {
  overwrite,   ///< C = A B
  accumulate,  ///< C = C + A B
  rescale      ///< C = diag(factor) C + A B
};

namespace detail {

// The widest block of C that leaves registers for B and for a broadcast element of A.
inline constexpr int kBlockRows = 6;
inline constexpr int kBlockVectors = simd::kRegisters >= 32 ? 4 : 2;

template <class T, TileOrder Order, int Rows, int Vectors>
inline void block_product(int64_t depth, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                          int64_t ldc, TileStore mode, const T* factor) {
  using V = simd::Vec<T>;
  constexpr int kWidth = simd::kLanes<T>;
  V sum[Rows][Vectors];
  if (mode == TileStore::overwrite) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] = V{};
    }
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const T f = mode == TileStore::rescale ? factor[r] : T(1);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] = simd::load(c + r * ldc + v * kWidth) * f;
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    V row[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) row[v] = simd::load(b + k * ldb + v * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const T element = Order == TileOrder::rows ? a[r * lda + k] : a[k * lda + r];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] += row[v] * element;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) simd::store(c + r * ldc + v * kWidth, sum[r][v]);
  }
}

template <class T, TileOrder Order, int Vectors>
void strip_product(int64_t rows, int64_t depth, const T* a, int64_t lda, const T* b, int64_t ldb,
                   T* c, int64_t ldc, TileStore mode, const T* factor, PrefetchQueue* prefetch) {
  int64_t m = 0;
  const auto step = [&]<int Rows>() {
    block_product<T, Order, Rows, Vectors>(depth, Order == TileOrder::rows ? a + m * lda : a + m,
                                           lda, b, ldb, c + m * ldc, ldc, mode, factor + m);
    m += Rows;
    if (prefetch != nullptr) prefetch->step();
  };
  while (rows - m >= kBlockRows) step.template operator()<kBlockRows>();
  if (rows - m >= 4) step.template operator()<4>();
  if (rows - m >= 2) step.template operator()<2>();
  if (rows - m >= 1) step.template operator()<1>();
}

}  // namespace detail

/// C [rows, width] from A [rows, depth] and B [depth, width]; B and C are row-major and `width` is
/// a multiple of simd::kLanes<T>. Each element is one chain of fused multiply-adds over k = 0, 1,
/// ..., so that it does not depend on the other rows and columns of the call. `factor` [rows] is
/// read with TileStore::rescale alone.
/// `prefetch` makes a step per block of rows.
template <class T, TileOrder Order>
void tile_product(int64_t rows, int64_t width, int64_t depth, const T* a, int64_t lda, const T* b,
                  int64_t ldb, T* c, int64_t ldc, TileStore mode, const T* factor = nullptr,
                  PrefetchQueue* prefetch = nullptr) {
  constexpr int kWidth = simd::kLanes<T>;
  for (int64_t column = 0; column < width;) {
    const int64_t vectors = std::min<int64_t>((width - column) / kWidth, detail::kBlockVectors);
    const auto strip = [&]<int Vectors>() {
      detail::strip_product<T, Order, Vectors>(rows, depth, a, lda, b + column, ldb, c + column,
                                               ldc, mode, factor, prefetch);
    };
    if constexpr (detail::kBlockVectors == 4) {
      if (vectors == 4) strip.template operator()<4>();
      if (vectors == 3) strip.template operator()<3>();
    }
    if (vectors == 2) strip.template operator()<2>();
    if (vectors == 1) strip.template operator()<1>();
    column += vectors * kWidth;
  }
}

}  // namespace weft::attention

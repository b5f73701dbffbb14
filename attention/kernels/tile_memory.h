#pragma once

// Bringing rows of a tensor into the form that tile products read.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "weft/tensor/tensor.h"

#include "kernels/simd.h"

namespace weft::attention {

/// Query rows and keys of one tile. 64 floats are 4 vectors of the widest registers; a 64 x 64 tile
/// of scores (16 KiB) and one operand stay in the first-level cache.
inline constexpr int64_t kTileRows = 64;
inline constexpr int64_t kTileKeys = 64;

/// Rows or keys that are computed together where a mask cuts a tile: a divisor of both, and a whole
/// number of vectors.
inline constexpr int64_t kTileGroup = 16;

/// A part [first, last) of the rows or keys of a tile.
struct TileRange {
  int64_t first, last;
  int64_t size() const { return last > first ? last - first : 0; }
};

/// `count` rounded up to whole vectors of T.
template <class T>
constexpr int64_t padded(int64_t count) {
  return (count + simd::kLanes<T> - 1) / simd::kLanes<T> * simd::kLanes<T>;
}

/// Rows of A that a tile product can read: in place or packed.
template <class A>
struct TileRows {
  const A* data;
  int64_t stride;
};

/// to[r * to_stride + c] = from[r * from_stride + c], and 0 for c in [columns, padded columns).
template <class A, class T>
void pack_rows(const T* from, int64_t from_stride, int64_t rows, int64_t columns, A* to,
               int64_t to_stride) {
  const int64_t end = padded<A>(columns);
  for (int64_t r = 0; r < rows; ++r) {
    const T* const source = from + r * from_stride;
    A* const target = to + r * to_stride;
    for (int64_t c = 0; c < end; c += simd::kLanes<A>)
      simd::store(target + c, simd::load_converted<A>(source + c, columns - c));
  }
}

/// to[c * to_stride + r] = row(r)[c] for r < rows; columns r in [rows, padded rows) become 0.
template <class A, class RowAt>
void pack_transposed(const RowAt& row, int64_t rows, int64_t columns, A* to, int64_t to_stride) {
  constexpr int64_t n = simd::kLanes<A>;
  for (int64_t r0 = 0; r0 < rows; r0 += n) {
    for (int64_t c0 = 0; c0 < columns; c0 += n) {
      const int64_t width = std::min(n, columns - c0);
      simd::Vec<A> block[n];
#pragma GCC unroll 16
      for (int64_t r = 0; r < n; ++r) {
        block[r] =
            r0 + r < rows ? simd::load_converted<A>(row(r0 + r) + c0, width) : simd::Vec<A>{};
      }
      simd::transpose<A>(block);
#pragma GCC unroll 16
      for (int64_t c = 0; c < n; ++c) {
        if (c < width) simd::store(to + (c0 + c) * to_stride + r0, block[c]);
      }
    }
  }
}

/// Rows for the left side of a product, which are read element by element: in place, or converted
/// into `buffer` [rows][padded columns].
template <class A, class T>
TileRows<A> left_rows(const T* from, int64_t from_stride, int64_t rows, int64_t columns,
                      A* buffer) {
  if constexpr (std::is_same_v<A, T>) return {from, from_stride};
  pack_rows(from, from_stride, rows, columns, buffer, padded<A>(columns));
  return {buffer, padded<A>(columns)};
}

/// Rows for the right side, which are read in whole vectors and again for every block of the left:
/// in place where they are dense and whole vectors, else copied. A vector that reaches beyond the
/// columns would read beyond the last row, and rows that lie far apart, as heads of one product do,
/// would share few sets of the first-level cache.
template <class A, class T>
TileRows<A> right_rows(const T* from, int64_t from_stride, int64_t rows, int64_t columns,
                       A* buffer) {
  if constexpr (std::is_same_v<A, T>) {
    if (from_stride == columns && columns == padded<A>(columns)) return {from, from_stride};
  }
  pack_rows(from, from_stride, rows, columns, buffer, padded<A>(columns));
  return {buffer, padded<A>(columns)};
}

/// One piece of scratch memory for each thread of a parallel loop.
template <class A>
class ThreadScratch {
 public:
  ThreadScratch(int threads, int64_t elements)
      : elements_(padded<A>(elements)), memory_(empty({threads, elements_}, dtype_of<A>)) {}
  A* of(int thread) { return memory_.data<A>() + thread * elements_; }

 private:
  int64_t elements_;
  Tensor memory_;
};

}  // namespace weft::attention

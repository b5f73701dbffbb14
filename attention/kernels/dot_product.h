#pragma once

// Products of few rows with keys that are read as they lie, dim by dim in the lanes: for keys that
// are read once, where packing them would cost as much as all the rest.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/lane_product.h"
#include "kernels/simd.h"

namespace weft::attention {

namespace detail {

/// The sums of the lanes of kLanes vectors, in their order: each round adds the halves of two
/// vectors into one.
template <class A>
[[gnu::always_inline]] inline simd::Vec<A> sums_of_lanes(simd::Vec<A> (&x)[simd::kLanes<A>]) {
  constexpr int n = simd::kLanes<A>;
#pragma GCC unroll 8
  for (int half = n / 2; half >= 1; half /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < half; ++i) {
      simd::Vec<A> low, high;
      simd::detail::interleave<A>(x[i], x[i + half], low, high, std::make_index_sequence<n>());
      x[i] = low + high;
    }
  }
  return x[0];
}

/// Adds the products of `Rows` rows and kLanes / Rows keys over some dims, in whole vectors.
template <class A, int Rows>
[[gnu::always_inline]] inline void dot_add(simd::Vec<A> (&sum)[simd::kLanes<A>], int64_t width,
                                           const A* q, int64_t ldq, const A* const* keys) {
  constexpr int kKeys = simd::kLanes<A> / Rows;
  for (int64_t d = 0; d < width; d += simd::kLanes<A>) {
    simd::Vec<A> row[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) row[r] = simd::load(q + r * ldq + d);
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
      const simd::Vec<A> key = simd::load(keys[j] + d);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) sum[r * kKeys + j] += row[r] * key;
    }
  }
}

}  // namespace detail

/// Rows of memory that are needed soon: rows[j] points to `width` elements. None where `rows` is
/// null.
template <class A>
struct RowsAhead {
  const A* const* rows = nullptr;
  int64_t width = 0;

  void ask(int64_t row) const {
    if (rows == nullptr) return;
    for (int64_t d = 0; d < width; d += 64 / static_cast<int64_t>(sizeof(A)))
      __builtin_prefetch(rows[row] + d, 0, 3);
  }
};

/// Dims of a key that lie in one row: keys[j] points to `width` elements, in whole vectors.
template <class A>
struct KeyPart {
  const A* const* keys;
  int64_t width;
};

/// scores[r][j] = <q_r, key j> for j < count, where the dims of a key lie in two parts; a row of q
/// holds both, one behind the other. The pointers must be readable, and valid, up to `count`
/// rounded up to kLanes keys. `ahead` has as many rows.
template <class A>
void dot_keys(int64_t rows, int64_t count, const A* q, int64_t ldq, KeyPart<A> first,
              KeyPart<A> second, A* scores, int64_t ld, RowsAhead<A> ahead) {
  constexpr int n = simd::kLanes<A>;
  const auto some = [&]<int Rows>(int64_t row) {
    constexpr int kKeys = n / Rows;
    for (int64_t j = 0; j < count; j += kKeys) {
      if (row == 0) {
        for (int64_t i = 0; i < kKeys; ++i) ahead.ask(j + i);
      }
      simd::Vec<A> sum[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) sum[i] = simd::Vec<A>{};
      detail::dot_add<A, Rows>(sum, first.width, q + row * ldq, ldq, first.keys + j);
      if (second.width > 0) {
        detail::dot_add<A, Rows>(sum, second.width, q + row * ldq + first.width, ldq,
                                 second.keys + j);
      }
      alignas(simd::kVectorBytes) A sums[n];
      simd::store(sums, detail::sums_of_lanes<A>(sum));
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r)
        std::copy_n(sums + r * kKeys, kKeys, scores + (row + r) * ld + j);
    }
  };
  int64_t row = 0;
  if constexpr (n >= 4) {
    for (; rows - row >= 4; row += 4) some.template operator()<4>(row);
  }
  for (; rows - row >= 2; row += 2) some.template operator()<2>(row);
  if (row < rows) some.template operator()<1>(row);
}

namespace detail {

template <class A, int Rows, int Vectors>
inline void weigh_pointed(int64_t count, const A* const* values, int64_t column, const A* weights,
                          int64_t ld, A* to, int64_t ldt, const A* factor, RowsAhead<A> ahead) {
  constexpr int n = simd::kLanes<A>;
  simd::Vec<A> sum[Rows][Vectors];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v)
      sum[r][v] = simd::load(to + r * ldt + column + v * n) * factor[r];
  }
  for (int64_t j = 0; j < count; ++j) {
    const A* const value = values[j] + column;
    ahead.ask(j);
    simd::Vec<A> row[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) row[v] = simd::load(value + v * n);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const A element = weights[r * ld + j];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[r][v] += row[v] * element;
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) simd::store(to + r * ldt + column + v * n, sum[r][v]);
  }
}

}  // namespace detail

/// to[r] = factor[r] to[r] + sum_j weights[r][j] value j, for columns [0, width) in whole vectors.
/// `ahead` has `count` rows.
template <class A>
void weigh_values(int64_t rows, int64_t count, const A* const* values, int64_t width,
                  const A* weights, int64_t ld, A* to, int64_t ldt, const A* factor,
                  RowsAhead<A> ahead) {
  for (int64_t r = 0; r < rows; r += kLaneRows) {
    detail::with_constant<kLaneRows>(std::min(kLaneRows, rows - r), [&]<int Rows>() {
      detail::for_each_strip<A>(width, [&]<int Vectors>(int64_t column) {
        detail::weigh_pointed<A, Rows, Vectors>(count, values, column, weights + r * ld, ld,
                                                to + r * ldt, ldt, factor + r,
                                                r + column == 0 ? ahead : RowsAhead<A>{});
      });
    });
  }
}

}  // namespace weft::attention

#pragma once

// Products of few rows with vectors of keys that may lie anywhere, as the lists of a selection name
// them. A key vector is simd::kLanes<A> neighbouring keys, one in each lane.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/prefetch.h"
#include "kernels/simd.h"

namespace weft::attention {

/// Rows that are computed together: with four vectors of keys or columns they fill the registers
/// with sums and read one operand for every two products.
inline constexpr int64_t kLaneRows = 4;

template <class A>
struct KeyVector {
  const A* k_columns;  ///< [dim][kLanes]
  const A* v_columns;  ///< [value dim][kLanes], for gradients
  const A* rows;       ///< [kLanes][stride], values or, for gradients, keys
  int64_t first_key;
  int64_t count;  ///< lanes from the first on that some row of the tile sees
  int64_t index;  ///< among the vectors that share a buffer of gradients
};

namespace detail {

/// Calls body.template operator()<N>() for N = count in [1, Max].
template <int Max, class Body>
inline void with_constant(int64_t count, Body&& body) {
  if constexpr (Max > 1) {
    if (count < Max) return with_constant<Max - 1>(count, body);
  }
  body.template operator()<Max>();
}

template <class T, int Stride, class Op, size_t... I>
inline simd::Vec<T> fold(simd::Vec<T> v, Op op, std::index_sequence<I...> lanes) {
  v = op(v, __builtin_shufflevector(v, v, static_cast<int>(I ^ Stride)...));
  if constexpr (Stride > 1) return fold<T, Stride / 2>(v, op, lanes);
  return v;
}

/// Asks for line `at` of a piece of memory that is needed soon.
template <class A>
inline void ask(const A* memory, int64_t at) {
  __builtin_prefetch(memory + at, 0, 3);
}

/// `ahead`: for each vector of keys a piece of memory of the same size, which is asked for.
template <class A, int Rows, int Vectors, bool Ahead>
inline void score(int64_t depth, const A* a, int64_t lda, const KeyVector<A>* keys,
                  const A* const* ahead, A* scores, int64_t ld) {
  using V = simd::Vec<A>;
  constexpr int kLanes = simd::kLanes<A>;
  const A* columns[Vectors];
  const A* next[Vectors];
  for (int v = 0; v < Vectors; ++v) {
    columns[v] = keys[v].k_columns;
    next[v] = Ahead ? ahead[v] : nullptr;
  }
  V sum[Rows][Vectors] = {};
  for (int64_t d = 0; d < depth; ++d) {
    V column[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      column[v] = simd::load(columns[v] + d * kLanes);
      if constexpr (Ahead) ask(next[v], d * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const A element = a[r * lda + d];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] += column[v] * element;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) simd::store(scores + r * ld + v * kLanes, sum[r][v]);
  }
}

/// score() of q over the keys and of dout over the values side by side: alone, the few sums of one
/// would wait for each other.
template <class A, int Rows, int Vectors>
inline void score_both(int64_t dim, const A* q, int64_t ldq, int64_t value_dim, const A* dout,
                       int64_t ldo, const KeyVector<A>* keys, A* s, A* dp, int64_t ld) {
  using V = simd::Vec<A>;
  constexpr int kLanes = simd::kLanes<A>;
  const A* k[Vectors];
  const A* v[Vectors];
  for (int i = 0; i < Vectors; ++i) {
    k[i] = keys[i].k_columns;
    v[i] = keys[i].v_columns;
  }
  V s_sum[Rows][Vectors] = {}, dp_sum[Rows][Vectors] = {};
  const auto add = [](V(&sum)[Rows][Vectors], const A* const(&columns)[Vectors], const A* a,
                      int64_t lda, int64_t d) __attribute__((always_inline)) {
    V column[Vectors];
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i) column[i] = simd::load(columns[i] + d * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const A element = a[r * lda + d];
#pragma GCC unroll 8
      for (int i = 0; i < Vectors; ++i) sum[r][i] += column[i] * element;
    }
  };
  const int64_t both = std::min(dim, value_dim);
  for (int64_t d = 0; d < both; ++d) {
    add(s_sum, k, q, ldq, d);
    add(dp_sum, v, dout, ldo, d);
  }
  for (int64_t d = both; d < dim; ++d) add(s_sum, k, q, ldq, d);
  for (int64_t d = both; d < value_dim; ++d) add(dp_sum, v, dout, ldo, d);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i) {
      simd::store(s + r * ld + i * kLanes, s_sum[r][i]);
      simd::store(dp + r * ld + i * kLanes, dp_sum[r][i]);
    }
  }
}

template <class A, int Rows, int Vectors, bool Ahead>
inline void weigh(int64_t count, const KeyVector<A>* keys, int64_t stride, int64_t column,
                  const A* weights, int64_t ld, A* to, int64_t ldt, const A* factor,
                  const A* const* ahead) {
  using V = simd::Vec<A>;
  constexpr int kLanes = simd::kLanes<A>;
  V sum[Rows][Vectors] = {};
  if (factor != nullptr) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v)
        sum[r][v] = simd::load(to + r * ldt + column + v * kLanes) * factor[r];
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const A* const rows = keys[i].rows + column;
    const A* const weight = weights + i * kLanes;
    const int64_t seen = keys[i].count;
    for (int64_t j = 0; j < seen; ++j) {
      V row[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        row[v] = simd::load(rows + j * stride + v * kLanes);
        if constexpr (Ahead) ask(ahead[i], column + j * stride + v * kLanes);
      }
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const A element = weight[r * ld + j];
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[r][v] += row[v] * element;
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) simd::store(to + r * ldt + column + v * kLanes, sum[r][v]);
  }
}

template <class A, int Rows, int Vectors>
inline void spread(int64_t count, const KeyVector<A>* keys, const A* weights, int64_t ld,
                   const A* x, int64_t ldx, int64_t column, A* to, int64_t stride,
                   PrefetchQueue* prefetch) {
  using V = simd::Vec<A>;
  constexpr int kLanes = simd::kLanes<A>;
  V row[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) row[r][v] = simd::load(x + r * ldx + column + v * kLanes);
  }
  for (int64_t i = 0; i < count; ++i) {
    A* const target = to + keys[i].index * kLanes * stride + column;
    const A* const weight = weights + i * kLanes;
    const int64_t seen = keys[i].count;
    for (int64_t j = 0; j < seen; ++j) {
      V sum[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[v] = simd::load(target + j * stride + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const A element = weight[r * ld + j];
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[v] += row[r][v] * element;
      }
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) simd::store(target + j * stride + v * kLanes, sum[v]);
    }
    if (prefetch != nullptr) prefetch->step();
  }
}

// Vectors that leave registers for the rest of a product of kLaneRows rows.
inline constexpr int kLaneVectors = simd::kRegisters >= 32 ? 4 : 2;

/// Calls body.template operator()<Vectors>(column) for strips of whole vectors of [0, width).
template <class A, class Body>
inline void for_each_strip(int64_t width, Body&& body) {
  constexpr int kLanes = simd::kLanes<A>;
  for (int64_t column = 0; column < width;) {
    const int64_t vectors = std::min<int64_t>((width - column) / kLanes, kLaneVectors);
    with_constant<kLaneVectors>(vectors,
                                [&]<int Vectors>() { body.template operator()<Vectors>(column); });
    column += vectors * kLanes;
  }
}

}  // namespace detail

/// The largest lane, and the sum of all lanes.
template <class A>
inline A largest_lane(simd::Vec<A> v) {
  return detail::fold<A, simd::kLanes<A> / 2>(
      v, [](simd::Vec<A> a, simd::Vec<A> b) { return simd::max<A>(a, b); },
      std::make_index_sequence<simd::kLanes<A>>())[0];
}
template <class A>
inline A sum_of_lanes(simd::Vec<A> v) {
  return detail::fold<A, simd::kLanes<A> / 2>(
      v, [](simd::Vec<A> a, simd::Vec<A> b) { return a + b; },
      std::make_index_sequence<simd::kLanes<A>>())[0];
}

/// scores[r][i] = <a_r, key i> for up to kLaneRows rows and all lanes of `count` key vectors. Each
/// score is one chain of fused multiply-adds over the dims. `ahead`, unless null, points to memory
/// that is needed next, as many pieces as there are vectors.
template <class A>
void score_keys(int64_t rows, int64_t count, int64_t dim, const A* a, int64_t lda,
                const KeyVector<A>* keys, A* scores, int64_t ld, const A* const* ahead = nullptr) {
  detail::with_constant<kLaneRows>(rows, [&]<int Rows>() {
    for (int64_t i = 0; i < count;) {
      const int64_t vectors = std::min<int64_t>(count - i, detail::kLaneVectors);
      A* const to = scores + i * simd::kLanes<A>;
      detail::with_constant<detail::kLaneVectors>(vectors, [&]<int Vectors>() {
        if (ahead != nullptr) {
          detail::score<A, Rows, Vectors, true>(dim, a, lda, keys + i, ahead + i, to, ld);
        } else {
          detail::score<A, Rows, Vectors, false>(dim, a, lda, keys + i, nullptr, to, ld);
        }
      });
      i += vectors;
    }
  });
}

/// s[r][i] = <q_r, key i> and dp[r][i] = <dout_r, value i>. `prefetch` makes a step now and then.
template <class A>
void score_keys_and_values(int64_t rows, int64_t count, int64_t dim, const A* q, int64_t ldq,
                           int64_t value_dim, const A* dout, int64_t ldo, const KeyVector<A>* keys,
                           A* s, A* dp, int64_t ld, PrefetchQueue* prefetch = nullptr) {
  constexpr int kVectors = detail::kLaneVectors / 2;
  detail::with_constant<kLaneRows>(rows, [&]<int Rows>() {
    for (int64_t i = 0; i < count;) {
      const int64_t vectors = std::min<int64_t>(count - i, kVectors);
      const int64_t at = i * simd::kLanes<A>;
      detail::with_constant<kVectors>(vectors, [&]<int Vectors>() {
        detail::score_both<A, Rows, Vectors>(dim, q, ldq, value_dim, dout, ldo, keys + i, s + at,
                                             dp + at, ld);
      });
      i += vectors;
      if (prefetch != nullptr) prefetch->step();
    }
  });
}

/// to[r] = factor[r] to[r] + sum over the counted keys of weights[r][key] * row of the key, for
/// columns [0, width) in whole vectors. Without `factor`, `to` is overwritten. `ahead` as above.
template <class A>
void weigh_rows(int64_t rows, int64_t count, const KeyVector<A>* keys, int64_t stride,
                int64_t width, const A* weights, int64_t ld, A* to, int64_t ldt, const A* factor,
                const A* const* ahead = nullptr) {
  detail::with_constant<kLaneRows>(rows, [&]<int Rows>() {
    detail::for_each_strip<A>(width, [&]<int Vectors>(int64_t column) {
      if (ahead != nullptr) {
        detail::weigh<A, Rows, Vectors, true>(count, keys, stride, column, weights, ld, to, ldt,
                                              factor, ahead);
      } else {
        detail::weigh<A, Rows, Vectors, false>(count, keys, stride, column, weights, ld, to, ldt,
                                               factor, nullptr);
      }
    });
  });
}

/// to[key] += sum over rows of weights[r][key] x[r], for the counted keys; `to` is
/// [index][kLanes][stride].
template <class A>
void spread_rows(int64_t rows, int64_t count, const KeyVector<A>* keys, const A* weights,
                 int64_t ld, const A* x, int64_t ldx, int64_t width, A* to, int64_t stride,
                 PrefetchQueue* prefetch = nullptr) {
  detail::with_constant<kLaneRows>(rows, [&]<int Rows>() {
    detail::for_each_strip<A>(width, [&]<int Vectors>(int64_t column) {
      detail::spread<A, Rows, Vectors>(count, keys, weights, ld, x, ldx, column, to, stride,
                                       prefetch);
    });
  });
}

}  // namespace weft::attention

#pragma once

#include <cstdint>
#include <limits>

#include "kernels/lane_product.h"
#include "kernels/simd.h"

namespace weft::attention {

/// Turns `vectors` vectors of scores of one row into 2^(c (s - m)), brings the row's largest score
/// m and its sum up to date, and gives what the sums so far are to be multiplied by. Hidden scores
/// are -inf, as is m before the first.
template <class A>
inline A soften(A* scores, int64_t vectors, A c, A& largest, A& sum) {
  using V = simd::Vec<A>;
  constexpr int64_t kLanes = simd::kLanes<A>;
  V lanes = simd::broadcast(largest);
  for (int64_t i = 0; i < vectors; ++i)
    lanes = simd::max<A>(simd::load(scores + i * kLanes), lanes);
  const A m = largest_lane<A>(lanes);
  // A row that has seen no key yet must not compute inf - inf.
  const A shift = m == -std::numeric_limits<A>::infinity() ? A(0) : m * c;
  const A factor = simd::exp2(simd::broadcast(largest * c - shift))[0];
  V total{};
  for (int64_t i = 0; i < vectors; ++i) {
    const V p = simd::exp2(simd::load(scores + i * kLanes) * c - shift);
    total += p;
    simd::store(scores + i * kLanes, p);
  }
  sum = sum * factor + sum_of_lanes<A>(total);
  largest = m;
  return factor;
}

}  // namespace weft::attention

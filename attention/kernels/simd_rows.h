#pragma once

// What row kernels of every storage type need beside simd.h.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "weft/tensor/dtype.h"

#include "kernels/simd.h"

namespace weft::attention::simd {

/// Stores the first `count` lanes (all, where there are no more) as elements of T.
template <class T>
inline void store_converted(T* to, Vec<accumulator_t<T>> value, int64_t count) {
  using A = accumulator_t<T>;
  if constexpr (std::is_same_v<T, A>) {
    if (count >= kLanes<A>) {
      store(to, value);
      return;
    }
  }
  alignas(kVectorBytes) A lanes[kLanes<A>];
  store(lanes, value);
  if (count >= kLanes<A>) {
    for (int i = 0; i < kLanes<A>; ++i) to[i] = T(lanes[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = T(lanes[i]);
  }
}

template <class T>
inline T sum(Vec<T> v) {
  T total = 0;
  for (int i = 0; i < kLanes<T>; ++i) total += v[i];
  return total;
}

}  // namespace weft::attention::simd

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace weft::optim {

/// Sum of squares in f64. Lanes of partial sums have a fixed order, so that the compiler can keep
/// them in vector registers and the bits depend on the values and the count alone.
template <class T>
double sum_of_squares(const T* values, int64_t count) {
  constexpr int64_t kLanes = 32;
  std::array<double, kLanes> lanes{};
  // A single stream of reads leaves the memory idle without this.
  constexpr uintptr_t kAhead = 2048;  // bytes; may lie beyond the end
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto ahead = reinterpret_cast<uintptr_t>(values + i) + kAhead;
    for (size_t byte = 0; byte < kLanes * sizeof(T); byte += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(ahead + byte));  // NOLINT: may be no object
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = static_cast<double>(values[i + lane]);
      lanes[static_cast<size_t>(lane)] += value * value;
    }
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) {
    const double value = static_cast<double>(values[i]);
    lanes[static_cast<size_t>(lane)] += value * value;
  }
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

}  // namespace weft::optim

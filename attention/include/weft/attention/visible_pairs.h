#pragma once

#include <algorithm>
#include <cstdint>

namespace weft::attention {

/// Rows that a cache of `tokens` tokens keeps with a window (0: all).
inline int64_t rows_kept(int64_t tokens, int64_t window) {
  return window == 0 ? tokens : std::min(tokens, window);
}

/// Pairs of a query and a key that it sees, per head, over `tokens` tokens with a window (0: all).
inline double visible_pairs(int64_t tokens, int64_t window) {
  const auto t = static_cast<double>(tokens);
  const auto w = static_cast<double>(rows_kept(tokens, window));
  return w * t - w * (w - 1) / 2;
}

}  // namespace weft::attention

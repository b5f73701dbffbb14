#pragma once

// The index arithmetic of elementwise kernels. Plain C++ that the host runs as well, where tests
// check it.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "weft/tensor/shape.h"

#include "ops/strided.h"

namespace weft::cuda {

/// Division by a number that is known before the kernel starts, as a multiplication and a shift:
/// for numerators below 2^31.
struct FastDivisor {
  uint32_t divisor = 1;
  uint32_t multiplier = 1;
  uint32_t shift = 0;

  FastDivisor() = default;
  /// 1 <= divisor < 2^31.
  explicit constexpr FastDivisor(uint32_t d) : divisor(d) {
    while ((uint64_t{1} << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>((((uint64_t{1} << shift) - d) << 32) / d + 1);
  }
  constexpr uint32_t quotient(uint32_t n) const {
    const auto high = static_cast<uint32_t>((uint64_t{n} * multiplier) >> 32);
    return (high + n) >> shift;
  }
};

/// Where the operands of a position lie: a mixed-radix number whose digits are multiplied by
/// strides. Axes count from the innermost.
template <int N>
struct IndexMap {
  int rank = 1;
  FastDivisor sizes[kMaxRank];
  int64_t strides[N][kMaxRank] = {};

  struct Offsets {
    int64_t of[N];
  };
  constexpr Offsets offsets(uint32_t position) const {
    Offsets result{};
    uint32_t rest = position;
    for (int axis = 0; axis < kMaxRank; ++axis) {
      // The last axis needs no division.
      const uint32_t above = axis == rank - 1 ? 0 : sizes[axis].quotient(rest);
      const uint32_t digit = rest - above * sizes[axis].divisor;
      for (int i = 0; i < N; ++i) result.of[i] += static_cast<int64_t>(digit) * strides[i][axis];
      if (axis == rank - 1) break;
      rest = above;
    }
    return result;
  }
};

/// Positions of a piece: kernels count in 32 bits and divide numbers below 2^31.
inline constexpr int64_t kPieceLimit = int64_t{1} << 30;

/// Cuts a loop into pieces of at most `limit` positions and calls body(piece, offsets, first) for
/// each: element offsets of the piece in every operand, and its first position in row-major order.
/// `limit` is a power of two.
template <int N, class Body>
void for_each_piece(const StridedLoop<N>& loop, int64_t limit, const Body& body,
                    std::array<int64_t, N> offsets = {}, int64_t first = 0) {
  if (loop.shape.numel() <= limit) {
    body(loop, offsets, first);
    return;
  }
  Shape inner = loop.shape;
  inner[0] = 1;
  const int64_t row = inner.numel();
  // Rows that fit into a piece; a row that does not fit is cut in turn.
  const int64_t rows = std::max<int64_t>(1, limit / row);
  for (int64_t begin = 0; begin < loop.shape[0]; begin += rows) {
    Shape shape = loop.shape;
    shape[0] = std::min(rows, loop.shape[0] - begin);
    std::array<int64_t, N> at = offsets;
    for (int i = 0; i < N; ++i) at[i] += begin * loop.strides[i][0];
    for_each_piece<N>(StridedLoop<N>(shape, loop.strides), limit, body, at, first + begin * row);
  }
}

/// The loop with its axes in the order in which the first operand lies in memory, for kernels that
/// do not need the positions.
template <int N>
StridedLoop<N> loop_in_memory_order(const Shape& shape, const std::array<Strides, N>& strides) {
  std::array<int, kMaxRank> order;
  const int rank = shape.rank();
  for (int axis = 0; axis < rank; ++axis) order[static_cast<size_t>(axis)] = axis;
  std::stable_sort(order.begin(), order.begin() + rank,
                   [&](int a, int b) { return strides[0][a] > strides[0][b]; });
  Shape sorted_shape;
  std::array<Strides, N> sorted;
  for (int i = 0; i < rank; ++i) {
    const int axis = order[static_cast<size_t>(i)];
    sorted_shape.push_back(shape[axis]);
    for (size_t k = 0; k < N; ++k) sorted[k].push_back(strides[k][axis]);
  }
  return {sorted_shape, sorted};
}

/// Whether kernels may go through the loop `vector` elements at a time: every operand is dense
/// along the innermost axis or repeats one element, and what is dense starts each vector at a
/// multiple of its size. `addresses` are of the first elements, `sizes` of elements in bytes.
template <int N>
bool is_vectorizable(const StridedLoop<N>& loop, int vector,
                     const std::array<uint64_t, N>& addresses,
                     const std::array<uint64_t, N>& sizes) {
  const int last = loop.shape.rank() - 1;
  if (last > 0 && loop.shape[last] % vector != 0) return false;  // a single axis may have a tail
  for (size_t i = 0; i < N; ++i) {
    const Strides& strides = loop.strides[i];
    if (strides[last] == 0 && i > 0) continue;
    if (strides[last] != 1 || addresses[i] % (static_cast<uint64_t>(vector) * sizes[i]) != 0)
      return false;
    for (int axis = 0; axis < last; ++axis) {
      if (strides[axis] % vector != 0) return false;
    }
  }
  return true;
}

/// The map from positions, `vector` elements apart, to offsets in elements. A tail of a single axis
/// is not counted.
template <int N>
IndexMap<N> index_map(const StridedLoop<N>& loop, int vector) {
  IndexMap<N> map;
  map.rank = loop.shape.rank();
  for (int axis = 0; axis < map.rank; ++axis) {
    const int from = map.rank - 1 - axis;
    const int64_t step = axis == 0 ? vector : 1;
    map.sizes[axis] =
        FastDivisor(static_cast<uint32_t>(std::max<int64_t>(1, loop.shape[from] / step)));
    for (size_t i = 0; i < N; ++i) map.strides[i][axis] = loop.strides[i][from] * step;
  }
  return map;
}

}  // namespace weft::cuda

#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels/simd.h"

namespace weft::attention {

/// Finds the largest values of kLanes lists at once, list i in lane i of vectors, or of one list
/// that lies along the lanes. Halves the range of the smallest value that is taken until it counts
/// right: the time depends on the values little and on the number taken not at all, and there is no
/// branch to mispredict. Values are not negative (nor NaN); one that must not be taken is -1.
template <class A>
class LargestValues {
  using V = simd::Vec<A>;
  using Int = decltype(V{} < V{});  // of as many bits as A
  using Bits = std::remove_cvref_t<decltype(Int{}[0])>;

 public:
  static constexpr int64_t kLanes = simd::kLanes<A>;

  enum class Lists { one_per_lane, along_lanes };

  /// values [vectors][kLanes]; list i has at least wanted[i] values that may be taken (one list:
  /// wanted[0]). A list of which none is wanted may hold anything, and is not to be written.
  void find(Lists lists, const A* values, int64_t vectors, const int64_t* wanted) {
    const bool along = lists == Lists::along_lanes;
    Int want{};
    for (int i = 0; i < kLanes; ++i) want[i] = static_cast<Bits>(wanted[along ? 0 : i]);
    // Not negative, values are ordered as their bits are. From `low` on there are enough, from
    // `high` on too few.
    V smallest = simd::broadcast(std::numeric_limits<A>::infinity()), largest{};
    for (int64_t j = 0; j < vectors; ++j) {
      const V value = simd::load(values + j * kLanes);
      smallest = value < smallest ? value : smallest;
      largest = value > largest ? value : largest;
    }
    smallest = smallest < A(0) ? V{} : smallest;
    Int low = std::bit_cast<Int>(smallest), high = std::bit_cast<Int>(largest) + 1;
    if (along) {
      Bits least = low[0], most = high[0];
      for (int i = 1; i < kLanes; ++i) {
        least = std::min<Bits>(least, low[i]);
        most = std::max<Bits>(most, high[i]);
      }
      low = Int{} + least;
      high = Int{} + most;
    }
    Int above{};            // values from `high` on
    Int exact = want == 0;  // mask of the lists with as many values from `low` on as are wanted
    for (;;) {
      const Int open = (high - low > 1) & ~exact;
      if (!any(open)) break;
      const Int middle = low + ((high - low) >> 1);
      Int count{};
      for (int64_t j = 0; j < vectors; ++j) {
        const Int value = std::bit_cast<Int>(simd::load(values + j * kLanes));
        count = value >= middle ? count + 1 : count;
      }
      if (along) {
        Bits sum = 0;
        for (int i = 0; i < kLanes; ++i) sum += count[i];
        count = Int{} + sum;
      }
      const Int up = open & (count >= want), down = open & (count < want);
      low = up ? middle : low;
      exact |= up & (count == want);
      high = down ? middle : high;
      above = down ? count : above;
    }
    for (int i = 0; i < kLanes; ++i) {
      least_[i] = low[i];
      equal_[i] = exact[i] != 0 ? std::numeric_limits<int64_t>::max() : want[i] - above[i];
    }
  }

  /// Writes first + j for every value j that list `lane` takes, in ascending order: all above the
  /// smallest, and as many equal to it as are wanted, the first ones. values [count].
  int32_t* write(int lane, const A* values, int64_t count, int64_t first, int32_t* to) {
    int64_t j = 0;
    const V least = std::bit_cast<V>(Int{} + static_cast<Bits>(least_[lane]));
    for (; j + kLanes <= count; j += kLanes) {
      const Int taken = std::bit_cast<Int>(simd::load(values + j)) >= std::bit_cast<Int>(least);
      if (!any(taken)) continue;  // as most of them are
      for (int64_t i = j; i < j + kLanes; ++i) to = write_one(lane, values[i], first + i, to);
    }
    for (; j < count; ++j) to = write_one(lane, values[j], first + j, to);
    return to;
  }

  /// The same for each of the lists: cursors[lane] is where the next goes, and null for lists to
  /// leave out. values [count][kLanes].
  void write_lanes(const A* values, int64_t count, int64_t first, int32_t** cursors) {
    constexpr int64_t kBatch = 32;  // one bit a value
    Int least;
    for (int i = 0; i < kLanes; ++i) least[i] = static_cast<Bits>(least_[i]);
    for (int64_t begin = 0; begin < count; begin += kBatch) {
      Int taken{};
      Int bit = Int{} + 1;
      for (int64_t j = 0; j < std::min(kBatch, count - begin); ++j, bit <<= 1) {
        const Int value = std::bit_cast<Int>(simd::load(values + (begin + j) * kLanes));
        taken |= (value >= least) & bit;
      }
      for (int i = 0; i < kLanes; ++i) {
        if (cursors[i] == nullptr) continue;
        for (auto bits = static_cast<uint32_t>(taken[i]); bits != 0; bits &= bits - 1) {
          const int64_t j = begin + std::countr_zero(bits);
          cursors[i] = write_one(i, values[j * kLanes + i], first + j, cursors[i]);
        }
      }
    }
  }

 private:
  static bool any(Int mask) {
    const auto words = std::bit_cast<std::array<uint64_t, sizeof(Int) / 8>>(mask);
    uint64_t all = 0;
    for (const uint64_t word : words) all |= word;
    return all != 0;
  }

  int32_t* write_one(int lane, A value, int64_t index, int32_t* to) {
    const auto bits = std::bit_cast<Bits>(value);
    if (bits < least_[lane] || (bits == least_[lane] && equal_[lane]-- <= 0)) return to;
    *to = static_cast<int32_t>(index);
    return to + 1;
  }

  int64_t least_[kLanes];
  int64_t equal_[kLanes];  // values equal to the smallest that are still to be taken
};

}  // namespace weft::attention

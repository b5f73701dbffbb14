#pragma once

// Few elements of floating rows: every thread finds its largest element; k of these bound the k-th
// from below, and what is as large is collected and ranked.
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

/// A number that is the larger, the earlier an element comes: NaN, then from the largest on. Equal
/// elements have equal keys.
template <class T>
struct KeyOf {
  using Key = std::conditional_t<(sizeof(T) > 4), unsigned long long, uint32_t>;
  static constexpr int kBits = 8 * sizeof(T);

  static __device__ __forceinline__ Key of(T element) {
    constexpr Key kSign = Key{1} << (kBits - 1);
    constexpr Key kAll = static_cast<Key>(~0ull >> (64 - kBits));
    if constexpr (std::is_same_v<T, uint8_t>) {
      return element;
    } else if constexpr (std::is_integral_v<T>) {
      return static_cast<Key>(element) ^ kSign;
    } else {
      const auto value = widen(element);
      if (value != value) return kAll;
      if (value == 0) return kSign;  // both zeros
      Key bits;
      if constexpr (std::is_same_v<T, double>) {
        bits = static_cast<Key>(__double_as_longlong(element));
      } else if constexpr (std::is_same_v<T, float>) {
        bits = __float_as_uint(element);
      } else {
        bits = element.bits;
      }
      return (bits & kSign) != 0 ? ~bits & kAll : bits | kSign;
    }
  }
};

template <class Key>
__device__ __forceinline__ bool goes_before(Key key, uint32_t index, Key other,
                                            uint32_t other_index) {
  return key > other || (key == other && index < other_index);
}

struct KeepSmaller {
  /// NaN counts as larger than any number.
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return (b < a || a != a) ? b : a;
  }
};

/// Elements of a row that may be among the first k; the threads of the row share it.
template <class T, class Shape>
struct Candidates {
  static constexpr uint32_t kMost = Shape::kThreads == 32 ? 128 : 1024;
  typename KeyOf<T>::Key keys[kMost];
  uint32_t places[kMost];
  uint32_t count;

  static __device__ __forceinline__ void synchronize() {
    if constexpr (Shape::kThreads == 32) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  /// Takes the elements of which wanted(value, place) holds; `count` may get larger than kMost.
  template <class Reader, class Wanted>
  __device__ __forceinline__ void collect(const Reader& reader, Wanted&& wanted) {
    using A = accumulator_t<T>;
    synchronize();
    if (Shape::thread() == 0) count = 0;
    synchronize();
    reader.for_each([&](int64_t i, const A(&values)[1][Shape::kWidth]) {
      bool any = false;
#pragma unroll
      for (int k = 0; k < Shape::kWidth; ++k) {
        any = any || wanted(values[0][k], static_cast<uint32_t>(i + k));
      }
      if (!any) return;
#pragma unroll
      for (int k = 0; k < Shape::kWidth; ++k) {
        const auto place = static_cast<uint32_t>(i + k);
        if (!wanted(values[0][k], place)) continue;
        const uint32_t slot = atomicAdd(&count, 1u);
        if (slot >= kMost) continue;
        keys[slot] = KeyOf<T>::of(narrow<T>(values[0][k]));
        places[slot] = place;
      }
    });
    synchronize();
  }
};

/// A lower bound of the k-th element: so many threads have an element that is as large.
template <class T, class Shape>
__device__ __forceinline__ accumulator_t<T> lower_bound(accumulator_t<T> largest, int k) {
  constexpr int kWarps = Shape::kThreads / 32;
  const auto key = KeyOf<T>::of(narrow<T>(largest));
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int rank = 0;
#pragma unroll
  for (int other = 0; other < 32; ++other) {
    const auto other_key = __shfl_sync(0xffffffffu, key, other);
    rank += other_key > key || (other_key == key && other < lane);
  }
  const uint32_t found = __ballot_sync(0xffffffffu, rank == (k + kWarps - 1) / kWarps - 1);
  auto bound = __shfl_sync(0xffffffffu, largest, __ffs(static_cast<int>(found)) - 1);
  if constexpr (kWarps > 1) bound = combine_over<Shape::kThreads>(bound, KeepSmaller());
  return bound;
}

/// Collects k elements to kMost where too many are as large as the bound. The row is read again for
/// every bit of the key of the last of them, and then of its place, until few enough are left.
template <class T, class Shape>
__device__ __noinline__ void collect_exactly(Candidates<T, Shape>& candidates, const T* from,
                                             int64_t length, uint32_t k) {
  using A = accumulator_t<T>;
  using Key = typename KeyOf<T>::Key;
  constexpr int kWidth = Shape::kWidth;
  const RowReader<T, RowShape<Shape::kThreads, kWidth, 0>, 1> reader({from}, length);
  Key key = 0;
  uint32_t below = 0xffffffffu;
  const auto goes_first = [](A value, uint32_t place, Key least, uint32_t end) {
    const Key other = KeyOf<T>::of(narrow<T>(value));
    return other > least || (other == least && place < end);
  };
  const auto count = [&](Key least, uint32_t end) {
    uint32_t sum = 0;
    reader.for_each([&](int64_t i, const A(&values)[1][kWidth]) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        sum += goes_first(values[0][j], static_cast<uint32_t>(i + j), least, end);
      }
    });
    return sum_over<Shape::kThreads>(sum);
  };
  uint32_t found = 0xffffffffu;
  for (int bit = KeyOf<T>::kBits - 1; bit >= 0 && found > candidates.kMost; --bit) {
    const Key higher = key | Key{1} << bit;
    const uint32_t larger = count(higher, below);
    if (larger < k) continue;
    key = higher;
    found = larger;
  }
  if (found > candidates.kMost) {
    below = 0;
    for (int bit = 31 - __clz(static_cast<int>(length)); bit >= 0; --bit) {
      const uint32_t later = below | 1u << bit;
      if (count(key, later) < k) below = later;
    }
    ++below;
  }
  candidates.collect(reader,
                     [&](A value, uint32_t place) { return goes_first(value, place, key, below); });
}

/// The ranks of the first k of what was collected decide where in the results they go.
template <class T, class Shape>
__device__ __forceinline__ void write_by_rank(const Candidates<T, Shape>& candidates, const T* from,
                                              int k, T* values, int64_t* indices) {
  const uint32_t count = candidates.count;
  for (uint32_t i = Shape::thread(); i < count; i += Shape::kThreads) {
    const auto key = candidates.keys[i];
    const uint32_t place = candidates.places[i];
    int rank = 0;
    for (uint32_t other = 0; other < count; ++other) {
      rank += goes_before(candidates.keys[other], candidates.places[other], key, place);
    }
    if (rank >= k) continue;
    values[rank] = from[place];
    indices[rank] = place;
  }
}

}  // namespace weft::cuda

#pragma once

// What the kernels of reduce_rows_cuda.cuh and reduce_columns_cuda.cuh share. A reducer of elements
// T has
//   using Total = ...;   // what it keeps, trivially copyable
//   using Result = ...;  // what it writes
//   void start(const T* x);  // before the first element of an output, which lies at x
//   Total identity() const;
//   void take(Total& total, const Values& values, int64_t first) const;
//   Total combine(Total a, Total b) const;  // commutative
//   Result finish(Total total, int64_t count) const;
// take() gets elements that are in registers: values[n] for n < Values::kCount, a power of two that
// is known when compiled, at positions first + Values::offset(n), which grow with n. One call for
// many elements lets loads overtake arithmetic, and a reducer work in short independent chains.
#include <algorithm>

#include "ops/loaded_cuda.cuh"
#include "ops/reduce_driver.h"
#include "ops/reduce_kernels.h"

namespace weft::cuda {

struct ReduceAxes {
  int rank;
  int64_t sizes[kMaxRank];
  int64_t strides[kMaxRank];
  double inverses[kMaxRank];  // of the sizes

  explicit ReduceAxes(const reduction::AxisGroup& group) : rank(group.shape.rank()) {
    for (int axis = 0; axis < rank; ++axis) {
      sizes[axis] = group.shape[axis];
      strides[axis] = group.strides[axis];
      inverses[axis] = 1 / static_cast<double>(std::max<int64_t>(1, sizes[axis]));
    }
  }
  __device__ __forceinline__ int64_t offset(int64_t position) const {
    int64_t result = 0;
#pragma unroll 1
    for (int axis = rank - 1; axis > 0; --axis) {
      // Division of integers would be a call, which costs registers. Below 2^52 this quotient is
      // off by one at most.
      auto above = static_cast<int64_t>(static_cast<double>(position) * inverses[axis]);
      int64_t digit = position - above * sizes[axis];
      const int64_t miss = digit < 0 ? -1 : digit >= sizes[axis] ? 1 : 0;
      above += miss;
      digit -= miss * sizes[axis];
      result += digit * strides[axis];
      position = above;
    }
    return rank == 0 ? 0 : result + position * strides[0];
  }
};

template <class T>
struct ReduceWalk {
  const T* x;
  ReduceAxes kept, reduced;
  int64_t outputs, count;
  int64_t piece;  // elements of an output that one group of threads takes
};

/// The elements of kPacks packs along a row, kStep elements from one pack to the next.
template <class T, int kWidth, int kPacks, int kStep>
struct PackValues {
  static constexpr int kCount = kWidth * kPacks;
  const Loaded<T, kWidth>* packs;

  __device__ __forceinline__ computed_t<T> operator[](int n) const {
    return packs[n / kWidth][n % kWidth];
  }
  static __device__ __forceinline__ int offset(int n) { return n / kWidth * kStep + n % kWidth; }
};

/// The elements of one of kWidth columns in kRows rows, one below another.
template <class T, int kWidth, int kRows>
struct ColumnValues {
  static constexpr int kCount = kRows;
  const Loaded<T, kWidth>* rows;
  int column;

  __device__ __forceinline__ computed_t<T> operator[](int n) const { return rows[n][column]; }
  static __device__ __forceinline__ int offset(int n) { return n; }
};

/// Combines value(0) to value(kCount - 1) in four chains, so that few wait for others.
template <int kCount, class Value, class Combine>
__device__ __forceinline__ auto fold(Value&& value, Combine&& combine) {
  constexpr int kChains = kCount < 4 ? kCount : 4;
  static_assert(kCount % kChains == 0);
  decltype(combine(value(0), value(0))) chains[kChains];
#pragma unroll
  for (int n = 0; n < kChains; ++n) chains[n] = value(n);
#pragma unroll
  for (int n = kChains; n < kCount; ++n) {
    chains[n % kChains] = combine(chains[n % kChains], value(n));
  }
#pragma unroll
  for (int half = kChains / 2; half > 0; half /= 2) {
#pragma unroll
    for (int n = 0; n < half; ++n) chains[n] = combine(chains[n], chains[n + half]);
  }
  return chains[0];
}

}  // namespace weft::cuda

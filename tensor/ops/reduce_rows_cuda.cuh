#pragma once

// Reductions of one output by a group of threads, each of which has several loads on their way
// before it uses the first: memory answers after about a microsecond, in which a multiprocessor
// should have some 40 KB under way.
#include "ops/reduce_walk_cuda.cuh"

namespace weft::cuda {

/// kGroup threads, a block, a warp, a part of one or a single one, take an output, kPacks packs of
/// kElements each at a time, and kOutputs neighbouring ones together where these are short. With
/// kRuns, elements of an output lie side by side; else they may lie along any axes.
template <int kElements, int kGroupThreads, int kLoads, int kOutputs, bool kRuns>
struct ReduceShape {
  static constexpr int kWidth = kElements;
  static constexpr int kGroup = kGroupThreads;
  static constexpr int kPacks = kLoads;
  static constexpr int kRows = kOutputs;
  static constexpr bool kIsRun = kRuns;
  static constexpr int kThreads = kGroup > 32 ? kGroup : 128;
  static constexpr int kRowsPerBlock = kThreads / kGroup * kRows;
  static constexpr int kStep = kGroup * kWidth;  // elements from one pack to the next
  static constexpr int64_t kBatch = int64_t{kStep} * kPacks;
  static_assert(kRows == 1 || (kRows <= kGroup && kGroup <= 32 && kRuns));
};

/// Threads on a multiprocessor for which there must be registers: with 128 bytes of each on their
/// way they ask for enough.
template <class Reducer, class Shape>
inline constexpr int kRowThreads = Shape::kRows * sizeof(typename Reducer::Total) > 64 ? 512
                                   : Shape::kThreads == 128                            ? 640
                                                                                       : 768;

/// Combines each of kRows values over the kGroup threads of a part of a warp. In every step the
/// threads of a pair give each other half of what they have, and end with the value number
/// lane % kRows.
template <int kGroup, int kRows, class V, class Combine>
__device__ __forceinline__ V combine_each(V (&values)[kRows], Combine&& combine) {
#pragma unroll
  for (int half = kRows / 2; half > 0; half /= 2) {
    const bool upper = (threadIdx.x & static_cast<unsigned>(half)) != 0;
#pragma unroll
    for (int r = 0; r < half; ++r) {
      const V given = upper ? values[r] : values[r + half];
      const V kept = upper ? values[r + half] : values[r];
      values[r] = combine(kept, shuffle_xor(given, half));
    }
  }
  V value = values[0];
#pragma unroll
  for (int mask = kRows; mask < kGroup; mask *= 2) {
    value = combine(value, shuffle_xor(value, mask));
  }
  return value;
}

/// Groups take piece blockIdx.y of their outputs. The totals go to `totals` [pieces, outputs], or,
/// where there is one piece, their results to `out`.
template <class T, class Reducer, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, kRowThreads<Reducer, Shape> / Shape::kThreads)
    reduce_rows_kernel(const ReduceWalk<T> walk, const Reducer reducer,
                       typename Reducer::Total* totals, typename Reducer::Result* out) {
  constexpr int kWidth = Shape::kWidth, kGroup = Shape::kGroup, kPacks = Shape::kPacks,
                kRows = Shape::kRows, kStep = Shape::kStep;
  constexpr int kTaken = kPacks < 4 ? kPacks : 4;  // together: their elements are all in registers
  using Total = typename Reducer::Total;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Shape::kRowsPerBlock +
                        static_cast<int>(threadIdx.x) / kGroup * kRows;
  const T* rows[kRows];
  Reducer reducers[kRows];
  Total total[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    // Groups without an output go along with the others of their warp.
    const int64_t output = first + r < walk.outputs ? first + r : walk.outputs - 1;
    rows[r] = walk.x + (kRows == 1 ? walk.kept.offset(output) : output * walk.kept.strides[0]);
    reducers[r] = reducer;
    if (walk.count > 0) reducers[r].start(rows[r]);
    total[r] = reducers[r].identity();
  }
  const int64_t begin = blockIdx.y * walk.piece;
  const int64_t end = begin + walk.piece < walk.count ? begin + walk.piece : walk.count;
  const bool one_axis = Shape::kIsRun || walk.reduced.rank == 1;
  const int64_t stride = Shape::kIsRun ? 1 : walk.reduced.strides[0];
  for (int64_t i = begin + lane * kWidth; i < end; i += Shape::kBatch) {
    const int left = end - i < Shape::kBatch ? static_cast<int>(end - i) : int{Shape::kBatch};
    Loaded<T, kWidth> batch[kRows][kPacks];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        if (p * kStep < left) {
          const int64_t position = i + p * kStep;
          batch[r][p].load(rows[r] +
                           (one_axis ? position * stride : walk.reduced.offset(position)));
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int p = 0; p < kPacks; p += kTaken) {
        if ((p + kTaken - 1) * kStep < left) {
          const PackValues<T, kWidth, kTaken, kStep> values{batch[r] + p};
          reducers[r].take(total[r], values, i + p * kStep);
        } else {
#pragma unroll
          for (int q = p; q + 1 < p + kTaken; ++q) {
            if (q * kStep < left) {
              const PackValues<T, kWidth, 1, kStep> values{batch[r] + q};
              reducers[r].take(total[r], values, i + q * kStep);
            }
          }
        }
      }
    }
  }
  const auto combine = [&](const Total& a, const Total& b) { return reducer.combine(a, b); };
  Total whole = total[0];
  if constexpr (kRows > 1) {
    whole = combine_each<kGroup>(total, combine);
  } else if constexpr (kGroup > 1) {
    whole = combine_over<kGroup>(whole, combine);
  }
  const int64_t output = first + lane;
  if (lane >= kRows || output >= walk.outputs) return;
  if (totals != nullptr) {
    totals[blockIdx.y * walk.outputs + output] = whole;
  } else {
    out[output] = reducer.finish(whole, walk.count);
  }
}

}  // namespace weft::cuda

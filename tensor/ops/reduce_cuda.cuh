#pragma once

// The walk of the reducers of reduce_*_cuda.cu. A reducer of elements T has
//   using Total = ...;   // what it keeps, trivially copyable
//   using Result = ...;  // what it writes
//   void start(const T* x);  // before the first element of an output, which lies at x
//   Total identity() const;
//   void take(Total& total, const A (&values)[kWidth], int64_t first) const;  // first: position
//   Total combine(Total a, Total b) const;  // commutative
//   Result finish(Total total, int64_t count) const;
// Work is cut into pieces by shape alone, and every total is combined in a fixed pattern.
#include <algorithm>
#include <bit>

#include "ops/reduce_driver.h"
#include "ops/reduce_kernels.h"
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

inline constexpr int kReduceThreads = 256;
/// Blocks on a multiprocessor that registers must allow, for bytes enough on their way.
inline constexpr int kReduceBlocks = 4;
/// Threads of very short rows and of short ones: few enough to have several loads each.
inline constexpr int kPairThreads = 2;
inline constexpr int kFewThreads = 8;
/// Elements of a column that a thread takes together.
inline constexpr int kColumnBatch = 4;

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

/// kGroup threads, the block, a warp or a part of one, or a single one, take piece blockIdx.y of an
/// output. The totals go to `totals` [pieces, outputs], or, where there is one piece, their results
/// to `out`.
template <class T, class Reducer, int kGroup, int kWidth>
__global__ void __launch_bounds__(kReduceThreads, kReduceBlocks)
    reduce_kernel(const ReduceWalk<T> walk, Reducer reducer, typename Reducer::Total* totals,
                  typename Reducer::Result* out) {
  constexpr int kBatch = 4;
  using A = computed_t<T>;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kReduceThreads / kGroup) +
                        static_cast<int>(threadIdx.x) / kGroup;
  // Groups without an output go along with the others of their warp.
  const int64_t output = group < walk.outputs ? group : walk.outputs - 1;
  const T* const x = walk.x + walk.kept.offset(output);
  const int64_t begin = blockIdx.y * walk.piece;
  const int64_t end = begin + walk.piece < walk.count ? begin + walk.piece : walk.count;
  if (walk.count > 0) reducer.start(x);
  typename Reducer::Total total = reducer.identity();
  constexpr int64_t kStep = int64_t{kGroup} * kWidth;
  const bool one_axis = walk.reduced.rank == 1;
  const int64_t stride = walk.reduced.strides[0];
  for (int64_t i = begin + static_cast<int>(threadIdx.x) % kGroup * kWidth; i < end;
       i += kBatch * kStep) {
    Pack<T, kWidth> batch[kBatch];
#pragma unroll
    for (int p = 0; p < kBatch; ++p) {
      const int64_t position = i + p * kStep;
      if (position < end) {
        batch[p] =
            load_pack<kWidth>(x + (one_axis ? position * stride : walk.reduced.offset(position)));
      }
    }
#pragma unroll
    for (int p = 0; p < kBatch; ++p) {
      if (i + p * kStep < end) {
        A values[kWidth];
        widen_pack(batch[p], values);
        reducer.take(total, values, i + p * kStep);
      }
    }
  }
  if constexpr (kGroup > 1) {
    total = combine_over<kGroup>(
        total, [&](const auto& a, const auto& b) { return reducer.combine(a, b); });
    if (threadIdx.x % kGroup != 0) return;
  }
  if (group >= walk.outputs) return;
  if (totals != nullptr) {
    totals[blockIdx.y * walk.outputs + output] = total;
  } else {
    out[output] = reducer.finish(total, walk.count);
  }
}

/// Combines the totals of the block's threads that have the same threadIdx.x % across, kWidth each,
/// in a fixed order, and calls body(x, k, total) once for every x < across and k < kWidth.
template <int kWidth, class Reducer, class Total, class Body>
__device__ __forceinline__ void combine_across(const Reducer& reducer, int across,
                                               const Total (&total)[kWidth], Body&& body) {
  __shared__ alignas(16) unsigned char memory[kReduceThreads * kWidth * sizeof(Total)];
  Total* const shared = reinterpret_cast<Total*>(memory);  // [lanes, kWidth, across]
  const int x = static_cast<int>(threadIdx.x) % across;
  const int lane = static_cast<int>(threadIdx.x) / across;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) shared[(lane * kWidth + k) * across + x] = total[k];
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < across * kWidth; c += kReduceThreads) {
    Total sum = shared[c];
    for (int other = 1; other < kReduceThreads / across; ++other) {
      sum = reducer.combine(sum, shared[other * across * kWidth + c]);
    }
    body(c % across, c / across, sum);
  }
}

/// Neighbouring outputs that lie side by side: `across` neighbours of the block's threads take
/// kWidth of them each, so that loads are of 16 bytes; its other threads take other elements of
/// these outputs. The totals go to `totals` [pieces, outputs].
template <class T, class Reducer, int kWidth>
__global__ void __launch_bounds__(kReduceThreads,
                                  sizeof(typename Reducer::Total) > 8 ? 2 : kReduceBlocks)
    reduce_columns_kernel(const ReduceWalk<T> walk, const Reducer reducer, int across,
                          typename Reducer::Total* totals) {
  constexpr int kBatch = kColumnBatch;
  using A = computed_t<T>;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * across * kWidth;
  const int64_t output = first + static_cast<int>(threadIdx.x) % across * kWidth;
  const int64_t begin = blockIdx.y * walk.piece;
  const int64_t end = begin + walk.piece < walk.count ? begin + walk.piece : walk.count;
  const int64_t step = int64_t{kBatch} * (kReduceThreads / across);
  Reducer reducers[kWidth];
  typename Reducer::Total total[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    reducers[k] = reducer;
    total[k] = reducer.identity();
  }
  if (output < walk.outputs) {
    const T* const x = walk.x + walk.kept.offset(output);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      reducers[k].start(x + k);
      total[k] = reducers[k].identity();
    }
    const bool one_axis = walk.reduced.rank == 1;
    const int64_t stride = walk.reduced.strides[0];
    for (int64_t i = begin + static_cast<int>(threadIdx.x) / across * kBatch; i < end; i += step) {
      Pack<T, kWidth> batch[kBatch];
#pragma unroll
      for (int p = 0; p < kBatch; ++p) {
        if (i + p < end) {
          batch[p] =
              load_pack<kWidth>(x + (one_axis ? (i + p) * stride : walk.reduced.offset(i + p)));
        }
      }
      if (i + kBatch <= end) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          A values[kBatch];
#pragma unroll
          for (int p = 0; p < kBatch; ++p) values[p] = widen(batch[p].values[k]);
          reducers[k].take(total[k], values, i);
        }
      } else {
#pragma unroll
        for (int p = 0; p < kBatch; ++p) {
          if (i + p < end) {
#pragma unroll
            for (int k = 0; k < kWidth; ++k) {
              const A value[1] = {widen(batch[p].values[k])};
              reducers[k].take(total[k], value, i + p);
            }
          }
        }
      }
    }
  }
  combine_across(reducer, across, total, [&](int x, int k, const auto& sum) {
    const int64_t to = first + x * kWidth + k;
    if (to < walk.outputs) totals[blockIdx.y * walk.outputs + to] = sum;
  });
}

/// 32 neighbours take an output each, and share its pieces with the block's other warps.
template <class T, class Reducer>
__global__ void __launch_bounds__(kReduceThreads)
    finish_columns_kernel(const typename Reducer::Total* __restrict__ totals, int64_t pieces,
                          const ReduceWalk<T> walk, Reducer reducer,
                          typename Reducer::Result* out) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 32;
  const int64_t output = first + threadIdx.x % 32;
  typename Reducer::Total total[1] = {reducer.identity()};
  if (output < walk.outputs) {
    reducer.start(walk.x + walk.kept.offset(output));
    total[0] = reducer.identity();
#pragma unroll 4
    for (int64_t piece = threadIdx.x / 32; piece < pieces; piece += kReduceThreads / 32) {
      total[0] = reducer.combine(total[0], totals[piece * walk.outputs + output]);
    }
  }
  combine_across(reducer, 32, total, [&](int, int, const auto& sum) {
    if (output < walk.outputs) out[output] = reducer.finish(sum, walk.count);
  });
}

/// A warp combines the pieces of an output.
template <class T, class Reducer>
__global__ void __launch_bounds__(kReduceThreads)
    finish_kernel(const typename Reducer::Total* __restrict__ totals, int64_t pieces,
                  const ReduceWalk<T> walk, Reducer reducer, typename Reducer::Result* out) {
  const int64_t output =
      static_cast<int64_t>(blockIdx.x) * (kReduceThreads / 32) + threadIdx.x / 32;
  if (output >= walk.outputs) return;
  if (walk.count > 0) reducer.start(walk.x + walk.kept.offset(output));
  typename Reducer::Total total = reducer.identity();
  for (int64_t piece = threadIdx.x % 32; piece < pieces; piece += 32) {
    total = reducer.combine(total, totals[piece * walk.outputs + output]);
  }
  total =
      combine_over<32>(total, [&](const auto& a, const auto& b) { return reducer.combine(a, b); });
  if (threadIdx.x % 32 == 0) out[output] = reducer.finish(total, walk.count);
}

/// Reduces x into `out`, which is of Reducer::Result.
template <class T, class Reducer>
void run_reduction(const ReduceParams& params, const Reducer& reducer, const Tensor& x, Tensor& out,
                   Stream stream) {
  using Total = typename Reducer::Total;
  const reduction::ReduceLayout layout(x, params.mask);
  const Shape& sizes = layout.reduced.shape;
  const Strides& strides = layout.reduced.strides;
  const int last = sizes.rank() - 1;
  ReduceWalk<T> walk{.x = x.data<T>(),
                     .kept = ReduceAxes(layout.kept),
                     .reduced = ReduceAxes(layout.reduced),
                     .outputs = layout.kept.shape.numel(),
                     .count = sizes.numel(),
                     .piece = 0};
  constexpr int kWidth = kPackWidth<T>;
  bool packs = strides[last] == 1 && sizes[last] % kWidth == 0 && is_aligned(walk.x, 0);
  for (int axis = 0; axis < last; ++axis) packs = packs && strides[axis] % kWidth == 0;
  for (const int64_t stride : layout.kept.strides) packs = packs && stride % kWidth == 0;
  // Neighbouring outputs that lie side by side are read together by neighbouring threads.
  const bool columns =
      layout.kept.strides.rank() > 0 && layout.kept.strides.back() == 1 && strides[last] != 1;

  Tensor memory;
  const auto make_totals = [&](int64_t pieces) {
    const auto bytes = pieces * walk.outputs * static_cast<int64_t>(sizeof(Total));
    memory = empty({bytes}, DType::u8, x.device());
    return static_cast<Total*>(memory.raw_data());
  };
  auto* const to = out.data<typename Reducer::Result>();
  // Pieces enough to fill the largest GPUs, each with several steps to make.
  const auto cut = [&](int64_t threads, int64_t step) {
    constexpr int64_t kMostThreads = int64_t{3} << 16;
    const int64_t wanted = kMostThreads / std::max<int64_t>(1, threads);
    const int64_t most = std::min<int64_t>(walk.count / (16 * step), 32768);
    const int64_t pieces = std::max<int64_t>(1, std::min(wanted, most));
    walk.piece = ceil_div(ceil_div(walk.count, pieces), step) * step;
    return walk.count == 0 ? 1 : ceil_div(walk.count, walk.piece);
  };
  const auto finish = [&](const Total* totals, int64_t pieces) {
    launch(params.name, stream, {blocks_for(walk.outputs, kReduceThreads / 32), kReduceThreads},
           finish_kernel<T, Reducer>, totals, pieces, walk, reducer, to);
  };
  const auto run = [&]<int kGroup, int kElements>() {
    const int64_t pieces = cut(walk.outputs * kGroup, int64_t{kGroup} * kElements);
    Total* const totals = pieces > 1 ? make_totals(pieces) : nullptr;
    const LaunchShape shape{
        dim3(blocks_for(walk.outputs, kReduceThreads / kGroup), static_cast<unsigned>(pieces)),
        kReduceThreads};
    launch(params.name, stream, shape, reduce_kernel<T, Reducer, kGroup, kElements>, walk, reducer,
           totals, to);
    if (pieces > 1) finish(totals, pieces);
  };
  constexpr bool kIsFloating = !std::is_integral_v<T>;  // the others go in fewer kernels
  if constexpr (kIsFloating && kWidth > 1) {
    bool wide = columns && layout.kept.shape.back() % kWidth == 0 && is_aligned(walk.x, 0) &&
                walk.count >= 16;
    for (const int64_t other : strides) wide = wide && other % kWidth == 0;
    for (int axis = 0; axis + 1 < layout.kept.strides.rank(); ++axis) {
      wide = wide && layout.kept.strides[axis] % kWidth == 0;
    }
    if (wide) {
      const int64_t packs = walk.outputs / kWidth;
      const int across = packs >= 32 ? 32 : static_cast<int>(std::bit_ceil(uint64_t(packs)));
      const unsigned blocks = blocks_for(packs, across);
      const int64_t pieces =
          cut(int64_t{blocks} * kReduceThreads, int64_t{kColumnBatch} * kReduceThreads / across);
      Total* const totals = make_totals(pieces);
      launch(params.name, stream, {dim3(blocks, static_cast<unsigned>(pieces)), kReduceThreads},
             reduce_columns_kernel<T, Reducer, kWidth>, walk, reducer, across, totals);
      launch(params.name, stream, {blocks_for(walk.outputs, 32), kReduceThreads},
             finish_columns_kernel<T, Reducer>, totals, pieces, walk, reducer, to);
      return;
    }
  }
  if (columns || walk.count < 16) return run.template operator()<1, 1>();
  if constexpr (kIsFloating) {
    if (packs && walk.count <= 4 * kPairThreads * kWidth) {
      return run.template operator()<kPairThreads, kWidth>();
    }
    if (packs && walk.count <= 4 * kFewThreads * kWidth) {
      return run.template operator()<kFewThreads, kWidth>();
    }
    // Rows enough to give every warp of a GPU one.
    if (packs && (walk.outputs >= 4096 || walk.count < kReduceThreads * kWidth)) {
      return run.template operator()<32, kWidth>();
    }
  }
  if (packs && walk.count >= kReduceThreads * kWidth) {
    run.template operator()<kReduceThreads, kWidth>();
  } else {
    run.template operator()<32, 1>();
  }
}

// The kinds of reductions, each in a file of its own for the sake of build times.
void reduce_sum_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);
void reduce_truth_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);
void reduce_extremum_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);
void reduce_arg_extremum_cuda(const ReduceParams& params, const Tensor& x, Tensor& out,
                              Stream stream);
void reduce_floating_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);

}  // namespace weft::cuda

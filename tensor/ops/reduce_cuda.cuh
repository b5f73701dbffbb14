#pragma once

// How the reducers of reduce_*_cuda.cu walk a tensor: which kernel, and how the work is cut into
// pieces. Shapes alone decide both, and every total is combined in a fixed pattern.
#include <bit>

#include "ops/reduce_columns_cuda.cuh"
#include "ops/reduce_rows_cuda.cuh"

namespace weft::cuda {

/// Blocks that keep the largest GPUs busy: several for every place on a multiprocessor, so that
/// the last ones to end are few beside all.
inline constexpr int64_t kReduceBlocks = 2048;
inline constexpr int64_t kColumnsBlocks = 1024;

/// Reduces x into `out`, which is of Reducer::Result. With kIsQuick, in the kernels for layouts
/// that are read in packs, which take their time to compile.
template <class T, bool kIsQuick = true, class Reducer>
void run_reduction(const ReduceParams& params, const Reducer& reducer, const Tensor& x, Tensor& out,
                   Stream stream) {
  using Total = typename Reducer::Total;
  const reduction::ReduceLayout layout(x, params.mask);
  const Shape& sizes = layout.reduced.shape;
  const Strides& strides = layout.reduced.strides;
  const Strides& kept = layout.kept.strides;
  const int last = sizes.rank() - 1;
  ReduceWalk<T> walk{.x = x.data<T>(),
                     .kept = ReduceAxes(layout.kept),
                     .reduced = ReduceAxes(layout.reduced),
                     .outputs = layout.kept.shape.numel(),
                     .count = sizes.numel(),
                     .piece = std::max<int64_t>(1, sizes.numel())};
  constexpr int kWidth = kPackWidth<T>;
  bool packs = strides[last] == 1 && sizes[last] % kWidth == 0 && is_aligned(walk.x, 0);
  for (int axis = 0; axis < last; ++axis) packs = packs && strides[axis] % kWidth == 0;
  for (const int64_t stride : kept) packs = packs && stride % kWidth == 0;
  // Neighbouring outputs that lie side by side are read together by neighbouring threads.
  const bool columns = kept.rank() > 0 && kept.back() == 1 && strides[last] != 1;

  auto* const to = out.data<typename Reducer::Result>();
  // Cuts outputs into about `wanted` pieces of whole steps, and launches `run` for them.
  const auto in_pieces = [&](int64_t wanted, int64_t step, auto&& run) {
    walk.piece = ceil_div(ceil_div(std::max<int64_t>(1, walk.count), wanted), step) * step;
    const int64_t pieces = std::max<int64_t>(1, ceil_div(walk.count, walk.piece));
    if (pieces == 1) return run(1u, static_cast<Total*>(nullptr));
    const auto bytes = pieces * walk.outputs * static_cast<int64_t>(sizeof(Total));
    const Tensor memory = empty({bytes}, DType::u8, x.device());
    auto* const totals = static_cast<Total*>(memory.raw_data());
    run(static_cast<unsigned>(pieces), totals);
    // Every thread of the second kernel has all that it reads on its way at once, if it can.
    constexpr int64_t kAhead = 8;
    int across = 32;
    while (across > 1 && kColumnsThreads / across * kAhead < pieces) across /= 2;
    launch(params.name, stream, {blocks_for(walk.outputs, across), kColumnsThreads},
           finish_pieces_kernel<Reducer>, totals, pieces, walk.outputs, walk.count, reducer, across,
           to);
  };
  const auto run_rows = [&]<class Shape>(int64_t wanted) {
    in_pieces(wanted, Shape::kBatch, [&](unsigned pieces, Total* totals) {
      const LaunchShape shape{dim3(blocks_for(walk.outputs, Shape::kRowsPerBlock), pieces),
                              Shape::kThreads};
      launch(params.name, stream, shape, reduce_rows_kernel<T, Reducer, Shape>, walk, reducer,
             totals, to);
    });
  };
  // Of a block for each output.
  const auto run_blocks = [&]<class Shape>() {
    const int64_t blocks = walk.outputs >= kReduceBlocks / 2 ? 1 : kReduceBlocks / walk.outputs;
    run_rows.template operator()<Shape>(blocks);
  };
  // Of elements one by one.
  const auto run_singles = [&]<int kGroup>() {
    using Single = ReduceShape<1, kGroup, 4, 1, false>;
    constexpr int64_t kMostThreads = int64_t{3} << 16;
    const int64_t wanted = kMostThreads / (walk.outputs * kGroup);
    const int64_t most = std::min<int64_t>(walk.count / (4 * Single::kBatch), 32768);
    run_rows.template operator()<Single>(std::max<int64_t>(1, std::min(wanted, most)));
  };

  constexpr bool kInColumns = kIsQuick && !std::is_integral_v<T>;
  if constexpr (kInColumns) {
    bool wide = columns && layout.kept.shape.back() % kWidth == 0 && is_aligned(walk.x, 0) &&
                walk.count >= 16;
    for (const int64_t other : strides) wide = wide && other % kWidth == 0;
    for (int axis = 0; axis + 1 < kept.rank(); ++axis) wide = wide && kept[axis] % kWidth == 0;
    if (wide) {
      const int64_t across_all = walk.outputs / kWidth;
      // Rows of a block are of 256 bytes: wider ones would leave more pieces to combine.
      int64_t across = std::min<int64_t>(16, std::bit_ceil(static_cast<uint64_t>(across_all)));
      // Where columns are many, narrower blocks do better than pieces. Where rows are few, wider
      // ones have something to do for every thread.
      const auto blocks = [&] { return ceil_div(across_all, across); };
      if (blocks() >= kColumnsBlocks / 4) {
        while (across > 8 && blocks() < kColumnsBlocks) across /= 2;
        while (across < kColumnsThreads && kColumnsThreads / across * kColumnsRows > walk.count) {
          across *= 2;
        }
      }
      const int64_t step = kColumnsThreads / across * kColumnsRows;
      const int64_t wanted =
          std::max<int64_t>(1, std::min(kColumnsBlocks / blocks(), walk.count / (2 * step)));
      return in_pieces(wanted, step, [&](unsigned pieces, Total* totals) {
        const LaunchShape shape{dim3(static_cast<unsigned>(blocks()), pieces), kColumnsThreads};
        launch(params.name, stream, shape, reduce_columns_kernel<T, Reducer, kWidth>, walk, reducer,
               static_cast<int>(across), totals, to);
      });
    }
  }
  if (columns || walk.count < 16) return run_singles.template operator()<1>();
  if constexpr (kIsQuick) {
    if constexpr (!std::is_integral_v<T> && sizeof(T) <= 4) {
      if (packs && layout.reduced.shape.rank() == 1) {
        const int64_t of_row = walk.count / kWidth;
        if (kept.rank() == 1) {
          using Shortest = ReduceShape<kWidth, 8, 1, 8, true>;
          using Shorter = ReduceShape<kWidth, 32, 1, 8, true>;
          using Short = ReduceShape<kWidth, 32, 4, 2, true>;
          if (of_row <= 8) return run_rows.template operator()<Shortest>(1);
          if (of_row <= 32) return run_rows.template operator()<Shorter>(1);
          if (of_row <= 128) return run_rows.template operator()<Short>(1);
        }
        // Rows enough to give every warp of a GPU one.
        if (of_row < 256 || (of_row <= 512 && walk.outputs >= 2048)) {
          return run_rows.template operator()<ReduceShape<kWidth, 32, 8, 1, true>>(1);
        }
        return run_blocks.template operator()<ReduceShape<kWidth, 256, 8, 1, true>>();
      }
    }
    if (packs && walk.count >= 256 * kWidth) {
      return run_blocks.template operator()<ReduceShape<kWidth, 256, 4, 1, false>>();
    }
  }
  run_singles.template operator()<32>();
}

// The kinds of reductions, each in a file of its own for the sake of build times.
void reduce_sum_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);
void reduce_truth_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);
void reduce_extremum_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);
void reduce_arg_extremum_cuda(const ReduceParams& params, const Tensor& x, Tensor& out,
                              Stream stream);
void reduce_floating_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);

}  // namespace weft::cuda

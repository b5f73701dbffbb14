#pragma once

// y = x w^T for few rows x of half types, on tensor cores: not for their speed, but because reading
// w is then nearly all that the other units have to do. A block has eight rows of w at a time, of
// which each warp multiplies every eighth run of 32 columns, and adds up what its warps found.
//
// Products do not mind the order of columns, so a lane takes 16 bytes of one row of w and of x and
// calls them the columns that the instruction wants of it: rows of w are the columns of its second
// operand, rows of x the rows of the first, the upper eight of which stay zero.
//
// Sums depend on K alone: each warp adds in order, then warps are added in order.
#include "cuda/few_rows_mma.cuh"
#include "ops/few_rows_cuda.cuh"

namespace weft::cuda {

/// Rows of w that a block has at a time.
inline constexpr int kMmaColumns = 8;
/// Columns of w, that is terms of the sums, of one step of a warp.
inline constexpr int kMmaTerms = 32;
/// Elements between rows of x in shared memory beyond their length, so that the rows that a quarter
/// of a warp reads lie in different banks.
inline constexpr int kMmaPadding = 32;

/// Blocks of a multiprocessor that registers are enough for.
template <int kRows, int kSteps, bool kGated>
inline constexpr int kMmaResident = (kSteps * (kGated ? 2 : 1) <= 4   ? 4
                                     : kSteps * (kGated ? 2 : 1) <= 8 ? 3
                                                                      : 2) -
                                    (kRows > 1 && kSteps <= 8 ? 1 : 0);

/// A warp has kSteps steps, of each matrix, in flight.
template <class T, int kRows, int kSteps, bool kGated>
__global__ void __launch_bounds__(kFewRowsThreads, kMmaResident<kRows, kSteps, kGated>)
    few_rows_mma_kernel(const FewRows<T> p) {
  static_assert(sizeof(T) == 2);
  constexpr int kWeights = kGated ? 2 : 1;
  constexpr int kResults = kRows * kMmaColumns;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ float parts[2][kFewRowsWarps][kWeights][kResults];
  T* const rows = reinterpret_cast<T*>(memory);
  const int row_stride = p.length + kMmaPadding;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int row = lane / 4;        // of x, and of the block's rows of w
  const int terms = lane % 4 * 8;  // of a step
  const int tiles = (p.columns + kMmaColumns - 1) / kMmaColumns;
  const int steps = (p.length + kMmaTerms - 1) / kMmaTerms;
  const int grid = static_cast<int>(gridDim.x);

  uint4 weights[kWeights][kSteps];
  // Loads steps first, first + 8, ... of this warp; zeros past the end.
  const auto load = [&](int tile, int first) {
    const int column = tile * kMmaColumns + row;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int at = (first + s * kFewRowsWarps) * kMmaTerms + terms;
      const bool is_inside = column < p.columns && at < p.length;
#pragma unroll
      for (int w = 0; w < kWeights; ++w) {
        const T* const from =
            w == 0 ? p.weight + column * p.weight_stride : p.up + column * p.up_stride;
        weights[w][s] = is_inside ? load_once(from + at) : uint4{};
      }
    }
  };

  let_next_kernel_start();
  int tile = static_cast<int>(blockIdx.x);
  if (tile < tiles) load(tile, warp);
  gather_rows<kRows>(p, rows, row_stride);

  int turn = 0;
  for (; tile < tiles; tile += grid, turn ^= 1) {
    float sums[kWeights][4] = {};
    for (int first = warp; first < steps; first += kSteps * kFewRowsWarps) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int at = (first + s * kFewRowsWarps) * kMmaTerms + terms;
        uint4 x{};
        if (row < kRows && at < p.length)
          x = *reinterpret_cast<const uint4*>(rows + row * row_stride + at);
#pragma unroll
        for (int w = 0; w < kWeights; ++w) {
          const uint4& b = weights[w][s];
          multiply_add<T>(sums[w], x.x, x.y, b.x, b.y);
          multiply_add<T>(sums[w], x.z, x.w, b.z, b.w);
        }
      }
      const int next = first + kSteps * kFewRowsWarps;
      if (next < steps) load(tile, next);
    }
    if (tile + grid < tiles) load(tile + grid, warp);
    if (row < kRows) {
#pragma unroll
      for (int w = 0; w < kWeights; ++w) {
        float* const out = &parts[turn][warp][w][row * kMmaColumns + lane % 4 * 2];
        out[0] = sums[w][0];
        out[1] = sums[w][1];
      }
    }
    // The parts of the turn before may be written again once all threads have come here.
    __syncthreads();
    const int m = thread / kMmaColumns;
    const int column = tile * kMmaColumns + thread % kMmaColumns;
    if (thread < kResults && m < p.rows && column < p.columns) {
      float totals[kWeights] = {};
#pragma unroll
      for (int w = 0; w < kWeights; ++w) {
#pragma unroll
        for (int of = 0; of < kFewRowsWarps; ++of) totals[w] += parts[turn][of][w][thread];
      }
      float result = totals[0];
      if constexpr (kGated) {
        result = gated<T>(result, totals[1]);
      } else if (p.bias != nullptr) {
        result += p.bias[column];
      }
      p.y[m * p.y_stride + column] = narrow<T>(result);
    }
  }
}

/// Puts the product on the stream; false where the rows of x do not fit into shared memory.
template <class T>
bool run_few_rows_mma(const FewRows<T>& p, bool settled, Stream stream) {
  const DeviceContext& context = device_context(stream.device());
  bool fits = false;
  const auto run = [&]<int kRows, int kSteps, bool kGated>() {
    constexpr size_t kPlainBytes = size_t{48} << 10;
    constexpr size_t kOwnBytes =
        sizeof(float) * 2 * kFewRowsWarps * (kGated ? 2 : 1) * kRows * kMmaColumns + 1024;
    size_t shared_bytes = sizeof(T) * kRows * static_cast<size_t>(p.length + kMmaPadding);
    // With what the kernel has by itself this would be more than it gets without asking.
    if (shared_bytes <= kPlainBytes && shared_bytes + kOwnBytes > kPlainBytes)
      shared_bytes = kPlainBytes + 16;
    fits = shared_bytes + kOwnBytes <= context.properties().sharedMemPerBlockOptin;
    if (!fits) return;
    const auto tiles = static_cast<unsigned>(ceil_div(p.columns, kMmaColumns));
    const auto resident =
        static_cast<unsigned>(context.multiprocessors() * kMmaResident<kRows, kSteps, kGated>);
    launch_overlapped("few_rows_product", stream,
                      {tiles < resident ? tiles : resident, kFewRowsThreads, shared_bytes}, settled,
                      few_rows_mma_kernel<T, kRows, kSteps, kGated>, p);
  };
  const int64_t per_warp = ceil_div(p.length, kMmaTerms * kFewRowsWarps);
  const auto run_rows = [&]<int kRows>() {
    if (p.up != nullptr) return run.template operator()<kRows, 4, true>();
    if (per_warp <= 4) return run.template operator()<kRows, 4, false>();
    if (per_warp <= 8 || per_warp > 12) return run.template operator()<kRows, 8, false>();
    return run.template operator()<kRows, 12, false>();
  };
  if (p.rows == 1) {
    run_rows.template operator()<1>();
  } else if (p.rows <= 4) {
    run_rows.template operator()<4>();
  } else {
    run_rows.template operator()<8>();
  }
  return fits;
}

}  // namespace weft::cuda

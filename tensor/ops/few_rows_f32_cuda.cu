// y = x w^T for few rows x of f32: a warp has a row of w at a time, with kPacks copies of 16 bytes
// a lane in flight to shared memory.
//
// Sums depend on K alone: lanes add up their elements in order, and lanes are added as a tree.
#include "cuda/async_copy.cuh"
#include "ops/few_rows_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

/// Blocks of a multiprocessor.
template <int kRows, int kPacks, bool kGated>
inline constexpr int kFewRowsResident = kPacks <= 4 && kRows <= 4 ? 3 : 2;

/// Blocks that registers would be enough for.
template <int kRows>
inline constexpr int kFewRowsAtMost = kRows == 1   ? 5
                                      : kRows == 4 ? 4
                                                   : 3;

/// Shared memory: the rows of x, then what the lanes of each warp copy.
template <class T, int kRows, int kPacks, bool kGated>
struct FewRowsMemory {
  size_t copies_at, bytes;

  __host__ __device__ explicit FewRowsMemory(int length)
      : copies_at(sizeof(T) * kRows * static_cast<size_t>(length)),
        bytes(copies_at + sizeof(uint4) * kFewRowsThreads * kPacks * (kGated ? 2 : 1)) {}
};

template <class T, int kRows, int kPacks, bool kGated>
__global__ void __launch_bounds__(kFewRowsThreads, kFewRowsAtMost<kRows>)
    few_rows_kernel(const FewRows<T> p) {
  using A = accumulator_t<T>;
  constexpr int kWidth = kPackWidth<T>;
  constexpr int kWeights = kGated ? 2 : 1;
  constexpr int kChunk = 32 * kPacks;  // packs of a row that a warp has in flight
  extern __shared__ __align__(16) unsigned char memory[];
  T* const rows = reinterpret_cast<T*>(memory);
  const FewRowsMemory<T, kRows, kPacks, kGated> lies(p.length);
  // A lane reads what it has copied itself: nobody waits for another.
  uint4* const copied = reinterpret_cast<uint4*>(memory + lies.copies_at) + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int packs = p.length / kWidth;
  const int step = static_cast<int>(gridDim.x) * kFewRowsWarps;
  int column = static_cast<int>(blockIdx.x) * kFewRowsWarps + static_cast<int>(threadIdx.x) / 32;

  const auto copy = [&](int of_column, int first, int u) {
    const int at = first + u * 32 + lane;
    if (of_column < p.columns && at < packs) {
      copy_pack_async(copied + u * kWeights * kFewRowsThreads,
                      p.weight + of_column * p.weight_stride + at * kWidth);
      if constexpr (kGated) {
        copy_pack_async(copied + (u * kWeights + 1) * kFewRowsThreads,
                        p.up + of_column * p.up_stride + at * kWidth);
      }
    }
    end_copy_group();  // also of none, so that groups can be counted
  };
  let_next_kernel_start();
#pragma unroll
  for (int u = 0; u < kPacks; ++u) copy(column, 0, u);
  gather_rows<kRows>(p, rows, p.length);

  for (; column < p.columns; column += step) {
    A sums[kWeights][kRows] = {};
    for (int first = 0; first < packs; first += kChunk) {
      const bool is_last = first + kChunk >= packs;
      const int next_column = is_last ? column + step : column;
      const int next_first = is_last ? 0 : first + kChunk;
#pragma unroll
      for (int u = 0; u < kPacks; ++u) {
        const int at = first + u * 32 + lane;
        wait_for_copy_groups<kPacks - 1>();
        if (at < packs) {
          A weights[kWeights][kWidth];
#pragma unroll
          for (int w = 0; w < kWeights; ++w)
            widen_bits<T>(copied[(u * kWeights + w) * kFewRowsThreads], weights[w]);
#pragma unroll
          for (int m = 0; m < kRows; ++m) {
            A values[kWidth];
            widen_pack(load_pack<kWidth>(rows + m * p.length + at * kWidth), values);
#pragma unroll
            for (int w = 0; w < kWeights; ++w) {
#pragma unroll
              for (int k = 0; k < kWidth; ++k) sums[w][m] += weights[w][k] * values[k];
            }
          }
        }
        copy(next_column, next_first, u);
      }
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
#pragma unroll
      for (int w = 0; w < kWeights; ++w) sums[w][m] = sum_over<32>(sums[w][m]);
      if (lane == m && m < p.rows) {
        A result = sums[0][m];
        if constexpr (kGated) {
          result = gated<T>(result, sums[1][m]);
        } else if (p.bias != nullptr) {
          result += p.bias[column];
        }
        p.y[m * p.y_stride + column] = narrow<T>(result);
      }
    }
  }
}

/// Copies in flight for a row of so many packs a lane, where `columns` rows are to be read.
inline int packs_in_flight(int per_lane, int64_t columns) {
  if (per_lane <= 4 || columns >= 8192) return 4;
  const auto padded = [&](int packs) { return (per_lane + packs - 1) / packs * packs; };
  return padded(12) <= padded(8) ? 12 : 8;
}

}  // namespace

template <>
bool run_few_rows<float>(const FewRowsParams& params, Stream stream) {
  const FewRows<float> p = few_rows_of<float>(params);
  const bool is_gated = params.up.defined();
  const int per_lane = static_cast<int>(ceil_div(p.length, 32 * kPackWidth<float>));
  const DeviceContext& context = device_context(stream.device());
  const int multiprocessors = context.multiprocessors();
  // What a block may have besides what it has by itself.
  const size_t most_shared_bytes = context.properties().sharedMemPerBlockOptin - 1024;
  bool fits = false;
  const auto run = [&]<int kRows, int kPacks, bool kGated>() {
    size_t shared_bytes = FewRowsMemory<float, kRows, kPacks, kGated>(p.length).bytes;
    // With what the kernel has by itself this would be more than it gets without asking.
    constexpr size_t kPlainBytes = size_t{48} << 10;
    if (shared_bytes <= kPlainBytes && shared_bytes + 1024 > kPlainBytes)
      shared_bytes = kPlainBytes + 16;
    fits = shared_bytes <= most_shared_bytes;
    if (!fits) return;
    const auto resident =
        static_cast<unsigned>(multiprocessors * kFewRowsResident<kRows, kPacks, kGated>);
    const auto blocks = static_cast<unsigned>(ceil_div(p.columns, kFewRowsWarps));
    launch_overlapped("few_rows_product", stream,
                      {blocks < resident ? blocks : resident, kFewRowsThreads, shared_bytes},
                      params.settled, few_rows_kernel<float, kRows, kPacks, kGated>, p);
  };
  const auto run_rows = [&]<int kRows>() {
    if (is_gated) return run.template operator()<kRows, 4, true>();
    switch (packs_in_flight(per_lane, p.columns)) {
      case 4:
        return run.template operator()<kRows, 4, false>();
      case 8:
        return run.template operator()<kRows, 8, false>();
      default:
        return run.template operator()<kRows, 12, false>();
    }
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

}  // namespace weft

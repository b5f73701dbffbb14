// Lists as a matrix of bits, a row of bits for every column: setting bits needs no order, and
// reading them gives the rows of every column in ascending order. Matrices are taken a few at a
// time, so that the bits stay small.
#include "weft/tensor/tensor.h"

#include "kernels/cuda_types.cuh"
#include "kernels/transpose_lists_kernels.h"

namespace weft::attention {
namespace {

using namespace gpu;
using weft::cuda::native;

constexpr const char* kOp = "transposed";
constexpr int64_t kMostWords = int64_t{1} << 24;  // 64 MiB
constexpr int kThreads = 256;

/// Which part of the matrices a launch is for: bits [matrices, columns, words].
struct Slice {
  int64_t first, matrices;
  int64_t words;
  uint32_t* bits;
};

/// One warp sets the bits of one row.
__global__ void set_bits_kernel(const TransposeListsParams p, const Slice slice) {
  const int64_t index = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) / 32;
  if (index >= slice.matrices * p.rows) return;
  const int64_t matrix = index / p.rows, row = index % p.rows;
  const int64_t list = slice.first * p.rows + index;
  uint32_t* const bits = slice.bits + matrix * p.columns * slice.words + row / 32;
  for (int64_t i = p.offsets[list] + threadIdx.x % 32; i < p.offsets[list + 1]; i += 32)
    atomicOr(bits + p.items[i] * slice.words, 1u << (row % 32));
}

/// One warp counts the rows of one column; the count goes where the column will end.
__global__ void count_kernel(const TransposeListsParams p, const Slice slice) {
  const int64_t index = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) / 32;
  if (index >= slice.matrices * p.columns) return;
  const uint32_t* const bits = slice.bits + index * slice.words;
  int count = 0;
  for (int64_t word = threadIdx.x % 32; word < slice.words; word += 32) count += __popc(bits[word]);
  count = warp_sum(count);
  if (threadIdx.x % 32 == 0) p.column_offsets[slice.first * p.columns + index + 1] = count;
}

/// One block of threads turns the counts of one matrix into where its columns end.
__global__ void scan_kernel(const TransposeListsParams p, const Slice slice) {
  __shared__ int64_t totals[kThreads];
  const int64_t matrix = slice.first + blockIdx.x;
  int64_t* const ends = p.column_offsets + matrix * p.columns + 1;
  if (matrix == 0 && threadIdx.x == 0) p.column_offsets[0] = 0;
  int64_t sum = p.offsets[matrix * p.rows];
  for (int64_t begin = 0; begin < p.columns; begin += kThreads) {
    const int64_t column = begin + threadIdx.x;
    totals[threadIdx.x] = column < p.columns ? ends[column] : 0;
    __syncthreads();
    for (int step = 1; step < kThreads; step *= 2) {
      const int64_t before = threadIdx.x >= step ? totals[threadIdx.x - step] : 0;
      __syncthreads();
      totals[threadIdx.x] += before;
      __syncthreads();
    }
    if (column < p.columns) ends[column] = sum + totals[threadIdx.x];
    sum += totals[kThreads - 1];
    __syncthreads();
  }
}

/// One warp writes the rows of one column.
__global__ void write_kernel(const TransposeListsParams p, const Slice slice) {
  const int64_t index = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) / 32;
  if (index >= slice.matrices * p.columns) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint32_t* const bits = slice.bits + index * slice.words;
  const int64_t column = slice.first * p.columns + index;
  // The entries of the first column of a matrix begin where those of the matrix do, whether or not
  // the matrix before it is known yet.
  int64_t to =
      column % p.columns == 0 ? p.offsets[column / p.columns * p.rows] : p.column_offsets[column];
  for (int64_t begin = 0; begin < slice.words; begin += 32) {
    uint32_t word = begin + lane < slice.words ? bits[begin + lane] : 0;
    int before = __popc(word);
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, step);
      if (lane >= step) before += other;
    }
    const int all = __shfl_sync(0xffffffffu, before, 31);
    int64_t at = to + before - __popc(word);
    for (; word != 0; word &= word - 1)
      p.column_items[at++] = static_cast<int32_t>((begin + lane) * 32 + __ffs(word) - 1);
    to += all;
  }
}

}  // namespace

void transpose_lists_cuda(const TransposeListsParams& p, Stream stream) {
  const weft::cuda::DeviceGuard guard(stream.device().index);
  if (p.matrices == 0 || p.columns == 0) {
    WEFT_CUDA_CHECK(cudaMemsetAsync(p.column_offsets, 0, sizeof(int64_t), native(stream)));
    return;
  }
  const int64_t words = ceil_div(p.rows, 32), per_matrix = p.columns * words;
  const int64_t most = per_matrix == 0 || per_matrix * p.matrices <= kMostWords ? p.matrices
                       : per_matrix > kMostWords                                ? 1
                                                 : kMostWords / per_matrix;
  Tensor bits = empty({most * per_matrix}, DType::i32, stream.device());
  const auto warps = [](int64_t count) { return grid_size(kOp, ceil_div(count * 32, kThreads)); };
  for (int64_t first = 0; first < p.matrices; first += most) {
    const Slice slice{.first = first,
                      .matrices = most < p.matrices - first ? most : p.matrices - first,
                      .words = words,
                      .bits = static_cast<uint32_t*>(bits.raw_data())};
    if (per_matrix > 0) {
      WEFT_CUDA_CHECK(cudaMemsetAsync(
          slice.bits, 0, static_cast<size_t>(slice.matrices * per_matrix) * 4, native(stream)));
      launch(kOp, stream, {warps(slice.matrices * p.rows), kThreads}, set_bits_kernel, p, slice);
    }
    launch(kOp, stream, {warps(slice.matrices * p.columns), kThreads}, count_kernel, p, slice);
    launch(kOp, stream, {grid_size(kOp, slice.matrices), kThreads}, scan_kernel, p, slice);
    launch(kOp, stream, {warps(slice.matrices * p.columns), kThreads}, write_kernel, p, slice);
  }
}

}  // namespace weft::attention

#include <cstdint>

#include "cuda/element.cuh"
#include "cuda/index_math.h"
#include "cuda/launch.cuh"
#include "ops/copy_transposed.h"

namespace weft {
namespace {

/// A matrix of which the source is dense along the rows' axis and the destination along the
/// columns', once for each position of the other axes.
struct TransposeShape {
  int64_t rows, columns;
  int64_t from_column_stride, to_row_stride;
  // Blocks take 2^group_shift tiles of rows before they go on to the next columns, so that what
  // runs at a time reads more than a tile's width of a line as well.
  uint32_t group_shift;
  cuda::FastDivisor row_groups, column_tiles;
  cuda::IndexMap<2> others;  // the destination's offsets first

  struct Tile {
    int64_t row, column;  // the first ones
    int64_t from, to;     // offsets of the matrix
  };
  __device__ __forceinline__ Tile tile(uint32_t block, int size) const {
    const uint32_t unit = block >> group_shift;
    const uint32_t group_and_batch = column_tiles.quotient(unit);
    const uint32_t column_tile = unit - group_and_batch * column_tiles.divisor;
    const uint32_t batch = row_groups.quotient(group_and_batch);
    const uint32_t group = group_and_batch - batch * row_groups.divisor;
    const uint32_t row_tile = (group << group_shift) + (block - (unit << group_shift));
    const auto offsets = others.offsets(batch);
    return {int64_t{row_tile} * size, int64_t{column_tile} * size, offsets.of[1], offsets.of[0]};
  }
};

/// Tiles of rows of 128 bytes, which warps read and write 16 bytes a thread, 8 threads a row.
template <class Bits>
struct PackTile {
  static constexpr int kSize = 128 / static_cast<int>(sizeof(Bits));
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(Bits));
  static constexpr int kPacks = kSize * 8;
  static constexpr int kThreads = kPacks < 256 ? kPacks : 256;
};

template <class Bits>
__global__ void __launch_bounds__(PackTile<Bits>::kThreads)
    transpose_packs(const Bits* __restrict__ from, Bits* __restrict__ to,
                    const TransposeShape shape) {
  using Tile = PackTile<Bits>;
  using Pack = cuda::Pack<Bits, Tile::kWidth>;
  constexpr int kWidth = Tile::kWidth;
  constexpr int kRounds = Tile::kPacks / Tile::kThreads;
  // Pack `part` of the line of a column lies at part ^ (column / kWidth): the packs that 8 threads
  // write, and the elements of 8 columns kWidth apart that they read, are in different banks.
  __shared__ Pack lines[Tile::kSize][8];
  const auto tile = shape.tile(blockIdx.x, Tile::kSize);
  const int part = static_cast<int>(threadIdx.x) % 8;
  const int line = static_cast<int>(threadIdx.x) / 8;
  constexpr int kStep = Tile::kThreads / 8;
  {
    const int64_t row = tile.row + part * kWidth;
    const Bits* const source = from + tile.from + tile.column * shape.from_column_stride + row;
    Pack packs[kRounds];
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int column = line + round * kStep;
      if (tile.column + column >= shape.columns) continue;
      const Bits* const at = source + column * shape.from_column_stride;
      if (row + kWidth <= shape.rows) {
        packs[round] = cuda::load_pack<Bits, kWidth>(at);
      } else {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) packs[round].values[k] = row + k < shape.rows ? at[k] : 0;
      }
    }
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int column = line + round * kStep;
      lines[column][part ^ (column / kWidth)] = packs[round];
    }
  }
  __syncthreads();
  const int64_t column = tile.column + part * kWidth;
  Bits* const destination = to + tile.to + tile.row * shape.to_row_stride + column;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int row = line + round * kStep;
    if (tile.row + row >= shape.rows) continue;
    Pack pack;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      pack.values[k] = lines[part * kWidth + k][(row / kWidth) ^ part].values[row % kWidth];
    }
    Bits* const at = destination + row * shape.to_row_stride;
    if (column + kWidth <= shape.columns) {
      cuda::store_pack(at, pack);
    } else {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        if (column + k < shape.columns) at[k] = pack.values[k];
      }
    }
  }
}

// Where lines are not aligned to packs.
constexpr int kTile = 32;
constexpr int kThreadRows = 8;

template <class Bits>
__global__ void __launch_bounds__(kTile* kThreadRows)
    transpose_elements(const Bits* __restrict__ from, Bits* __restrict__ to,
                       const TransposeShape shape) {
  __shared__ Bits lines[kTile][kTile + 1];  // one more, so that a column lies in all banks
  const auto tile = shape.tile(blockIdx.x, kTile);
  const int x = threadIdx.x;
  for (int y = threadIdx.y; y < kTile; y += kThreadRows) {
    const int64_t row = tile.row + x;
    const int64_t column = tile.column + y;
    if (row < shape.rows && column < shape.columns)
      lines[y][x] = from[tile.from + column * shape.from_column_stride + row];
  }
  __syncthreads();
  for (int y = threadIdx.y; y < kTile; y += kThreadRows) {
    const int64_t row = tile.row + y;
    const int64_t column = tile.column + x;
    if (row < shape.rows && column < shape.columns)
      to[tile.to + row * shape.to_row_stride + column] = lines[x][y];
  }
}

/// The axis along which the source alone is dense, if it and the destination's are long; else -1.
int dense_axis_of_source(const StridedLoop<2>& loop) {
  constexpr int64_t kLong = 8;
  const int last = loop.shape.rank() - 1;
  if (loop.strides[0][last] != 1 || loop.strides[1][last] <= 1 || loop.shape[last] < kLong)
    return -1;
  for (int axis = 0; axis < last; ++axis) {
    if (loop.strides[1][axis] == 1 && loop.shape[axis] >= kLong) return axis;
  }
  return -1;
}

/// False where there are too many tiles.
template <class Bits>
bool transpose(const Tensor& source, Tensor& destination, TransposeShape shape,
               const StridedLoop<2>& others, Stream stream) {
  const auto* const from = static_cast<const Bits*>(source.raw_data());
  auto* const to = static_cast<Bits*>(destination.raw_data());
  auto in_packs = reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to);
  const auto take_stride = [&](int64_t stride) {
    in_packs |= static_cast<uintptr_t>(stride) * sizeof(Bits);
  };
  take_stride(shape.from_column_stride);
  take_stride(shape.to_row_stride);
  for (int axis = 0; axis < others.shape.rank(); ++axis) {
    if (others.shape[axis] == 1) continue;
    take_stride(others.strides[0][axis]);
    take_stride(others.strides[1][axis]);
  }
  using Tile = PackTile<Bits>;
  const bool aligned = in_packs % 16 == 0;
  const int64_t size = aligned ? Tile::kSize : kTile;
  const int64_t row_tiles = (shape.rows + size - 1) / size;
  const int64_t column_tiles = (shape.columns + size - 1) / size;
  const int64_t tiles = row_tiles * column_tiles * others.shape.numel();
  if (tiles >= int64_t{1} << 31) return false;
  constexpr uint32_t kMostShift = 3;
  shape.group_shift = 0;
  while (shape.group_shift < kMostShift && (row_tiles >> shape.group_shift) % 2 == 0) {
    ++shape.group_shift;
  }
  shape.row_groups = cuda::FastDivisor(static_cast<uint32_t>(row_tiles >> shape.group_shift));
  shape.column_tiles = cuda::FastDivisor(static_cast<uint32_t>(column_tiles));
  shape.others = cuda::index_map(others, 1);
  const auto blocks = static_cast<unsigned>(tiles);
  if (aligned) {
    cuda::launch("copy_", stream, {blocks, Tile::kThreads}, &transpose_packs<Bits>, from, to,
                 shape);
  } else {
    cuda::launch("copy_", stream, {blocks, dim3(kTile, kThreadRows)}, &transpose_elements<Bits>,
                 from, to, shape);
  }
  return true;
}

}  // namespace

bool copy_transposed_cuda(const Tensor& source, Tensor& destination, Stream stream) {
  const auto loop =
      cuda::loop_in_memory_order<2>(destination.shape(), {destination.strides(), source.strides()});
  const int axis = dense_axis_of_source(loop);
  if (axis < 0) return false;
  const int last = loop.shape.rank() - 1;
  TransposeShape shape{};
  shape.rows = loop.shape[axis];
  shape.columns = loop.shape[last];
  shape.to_row_stride = loop.strides[0][axis];
  shape.from_column_stride = loop.strides[1][last];
  Shape others;
  std::array<Strides, 2> strides;
  for (int other = 0; other < last; ++other) {
    if (other == axis) continue;
    others.push_back(loop.shape[other]);
    for (size_t i = 0; i < 2; ++i) strides[i].push_back(loop.strides[i][other]);
  }
  const StridedLoop<2> rest(others, strides);
  switch (size_of(source.dtype())) {
    case 1:
      return transpose<uint8_t>(source, destination, shape, rest, stream);
    case 2:
      return transpose<uint16_t>(source, destination, shape, rest, stream);
    case 4:
      return transpose<uint32_t>(source, destination, shape, rest, stream);
    default:
      return transpose<uint64_t>(source, destination, shape, rest, stream);
  }
}

}  // namespace weft

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
  cuda::FastDivisor row_tiles, column_tiles;
  cuda::IndexMap<2> others;  // the destination's offsets first

  struct Tile {
    int64_t row, column;  // the first ones
    int64_t from, to;     // offsets of the matrix
  };
  __device__ __forceinline__ Tile tile(uint32_t block, int size) const {
    const uint32_t row_and_batch = column_tiles.quotient(block);
    const uint32_t column_tile = block - row_and_batch * column_tiles.divisor;
    const uint32_t batch = row_tiles.quotient(row_and_batch);
    const uint32_t row_tile = row_and_batch - batch * row_tiles.divisor;
    const auto offsets = others.offsets(batch);
    return {int64_t{row_tile} * size, int64_t{column_tile} * size, offsets.of[1], offsets.of[0]};
  }
};

/// Tiles with rows of 256 bytes, of single bytes 128: shorter ones leave memory with pieces of
/// lines that are too short, wider ones multiprocessors with too few blocks. 8 threads beside each
/// other read and write 128 bytes.
template <class Bits>
struct PackTile {
  static constexpr int kSize = sizeof(Bits) == 1 ? 128 : 256 / static_cast<int>(sizeof(Bits));
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(Bits));
  static constexpr int kPacks = kSize / kWidth;  // of a row
  static constexpr int kThreads = 256;
  static constexpr int kLines = kThreads / 8;  // at a time
  static_assert(kSize % kLines == 0 && kPacks % 8 == 0);
};

template <class Bits>
__global__ void __launch_bounds__(PackTile<Bits>::kThreads)
    transpose_packs(const Bits* __restrict__ from, Bits* __restrict__ to,
                    const TransposeShape shape) {
  using Tile = PackTile<Bits>;
  constexpr int kWidth = Tile::kWidth;
  using Pack = cuda::Pack<Bits, kWidth>;
  constexpr int kHalves = Tile::kPacks / 8;
  constexpr int kRounds = Tile::kSize / Tile::kLines;
  // Pack `part` of the line of a column lies at part ^ (column / kWidth): the packs that 8 threads
  // write, and the elements of 8 columns kWidth apart that they read, are in different banks.
  __shared__ Pack lines[Tile::kSize][Tile::kPacks];
  const auto tile = shape.tile(blockIdx.x, Tile::kSize);
  const int thread = static_cast<int>(threadIdx.x);
  const int line = thread / 8;
  {
    Pack packs[kRounds][kHalves];
    const Bits* source =
        from + tile.from + (tile.column + line) * shape.from_column_stride + tile.row;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const bool is_inside = tile.column + line + round * Tile::kLines < shape.columns;
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int first = (half * 8 + thread % 8) * kWidth;
        if (is_inside && tile.row + first + kWidth <= shape.rows) {
          packs[round][half] = cuda::load_pack<Bits, kWidth>(source + first);
        } else if (is_inside) {
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            packs[round][half].values[k] =
                tile.row + first + k < shape.rows ? source[first + k] : Bits{0};
          }
        }
      }
      source += Tile::kLines * shape.from_column_stride;
    }
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int column = line + round * Tile::kLines;
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        lines[column][(half * 8 + thread % 8) ^ (column / kWidth)] = packs[round][half];
      }
    }
  }
  __syncthreads();
  Bits* destination = to + tile.to + (tile.row + line) * shape.to_row_stride + tile.column;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int row = line + round * Tile::kLines;
    if (tile.row + row >= shape.rows) break;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const int part = half * 8 + thread % 8;
      const int first = part * kWidth;
      Pack pack;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        pack.values[k] = lines[first + k][(row / kWidth) ^ part].values[row % kWidth];
      }
      if (tile.column + first + kWidth <= shape.columns) {
        cuda::store_pack(destination + first, pack);
      } else {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          if (tile.column + first + k < shape.columns) destination[first + k] = pack.values[k];
        }
      }
    }
    destination += Tile::kLines * shape.to_row_stride;
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
  shape.row_tiles = cuda::FastDivisor(static_cast<uint32_t>(row_tiles));
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

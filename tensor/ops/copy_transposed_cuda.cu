#include <cstdint>
#include <cstring>

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
  __device__ __forceinline__ Tile tile(uint32_t block, int rows_of_tile,
                                       int columns_of_tile) const {
    const uint32_t row_and_batch = column_tiles.quotient(block);
    const uint32_t column_tile = block - row_and_batch * column_tiles.divisor;
    const uint32_t batch = row_tiles.quotient(row_and_batch);
    const uint32_t row_tile = row_and_batch - batch * row_tiles.divisor;
    const auto offsets = others.offsets(batch);
    return {int64_t{row_tile} * rows_of_tile, int64_t{column_tile} * columns_of_tile, offsets.of[1],
            offsets.of[0]};
  }
};

constexpr int kSquares = 8;  // of a tile, side by side
constexpr int kSquareThreads = kSquares * kSquares;

/// Tiles whose rows and columns are 128 bytes long, of squares that a thread turns in registers: so
/// many elements wide and high as there are in 16 bytes.
template <class Bits>
struct SquareTile {
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(Bits));  // of a square
  static constexpr int kSize = kWidth * kSquares;
};

template <int kWidth, class Bits>
__device__ __forceinline__ void turn_square(const cuda::Pack<Bits, kWidth> (&from)[kWidth],
                                            cuda::Pack<Bits, kWidth> (&to)[kWidth]) {
  if constexpr (sizeof(Bits) == 2) {
    // Halves of words one by one would take the compiler more instructions.
    uint32_t in[kWidth][kWidth / 2];
    uint32_t out[kWidth][kWidth / 2];
    memcpy(in, from, sizeof in);
#pragma unroll
    for (int row = 0; row < kWidth; ++row) {
#pragma unroll
      for (int pair = 0; pair < kWidth / 2; ++pair) {
        out[row][pair] = __byte_perm(in[2 * pair][row / 2], in[2 * pair + 1][row / 2],
                                     row % 2 == 0 ? 0x5410 : 0x7632);
      }
    }
    memcpy(to, out, sizeof out);
  } else {
#pragma unroll
    for (int row = 0; row < kWidth; ++row) {
#pragma unroll
      for (int column = 0; column < kWidth; ++column) {
        to[row].values[column] = from[column].values[row];
      }
    }
  }
}

/// Where rows and columns are of whole squares, aligned to 16 bytes.
template <class Bits>
__global__ void __launch_bounds__(kSquareThreads)
    transpose_squares(const Bits* from, Bits* to, const TransposeShape shape) {
  using Tile = SquareTile<Bits>;
  constexpr int kWidth = Tile::kWidth;
  using Pack = cuda::Pack<Bits, kWidth>;
  // The pack of square `part` of a row lies at part ^ the row's square: both the packs of one part
  // that 8 threads write, and those of one row that they read, are in different banks.
  __shared__ Pack packs[Tile::kSize][kSquares];
  const auto tile = shape.tile(blockIdx.x, Tile::kSize, Tile::kSize);
  const int left = static_cast<int>(threadIdx.x) % kSquares;
  const int right = static_cast<int>(threadIdx.x) / kSquares;
  {
    const int64_t row = tile.row + left * kWidth;
    const int64_t column = tile.column + right * kWidth;
    if (row < shape.rows && column < shape.columns) {
      const Bits* const source = from + tile.from + column * shape.from_column_stride + row;
      Pack in[kWidth];
      Pack out[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        in[i] = cuda::load_pack<Bits, kWidth>(source + i * shape.from_column_stride);
      }
      turn_square(in, out);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) packs[left * kWidth + i][right ^ left] = out[i];
    }
  }
  __syncthreads();
  const int64_t column = tile.column + left * kWidth;
  if (column >= shape.columns) return;
  Bits* const destination = to + tile.to + tile.row * shape.to_row_stride + column;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const int row = i * kSquares + right;
    if (tile.row + row >= shape.rows) break;
    cuda::store_pack(destination + row * shape.to_row_stride, packs[row][left ^ (row / kWidth)]);
  }
}

// Where rows and columns are not.
constexpr int kTile = 32;
constexpr int kThreadRows = 8;

template <class Bits>
__global__ void __launch_bounds__(kTile* kThreadRows)
    transpose_elements(const Bits* from, Bits* to, const TransposeShape shape) {
  __shared__ Bits lines[kTile][kTile + 1];  // one more, so that a column lies in all banks
  const auto tile = shape.tile(blockIdx.x, kTile, kTile);
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

/// Whether both matrices are of whole squares at multiples of 16 bytes.
template <class Bits>
bool is_of_squares(const Bits* from, const Bits* to, const TransposeShape& shape,
                   const StridedLoop<2>& others) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(Bits));
  auto bytes =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to)) |
      shape.rows * kBytes | shape.columns * kBytes | shape.from_column_stride * kBytes |
      shape.to_row_stride * kBytes;
  for (int axis = 0; axis < others.shape.rank(); ++axis) {
    if (others.shape[axis] == 1) continue;
    bytes |= others.strides[0][axis] * kBytes | others.strides[1][axis] * kBytes;
  }
  return bytes % 16 == 0;
}

/// False where there are too many tiles.
template <class Bits>
bool transpose(const Tensor& source, Tensor& destination, TransposeShape shape,
               const StridedLoop<2>& others, Stream stream) {
  const auto* const from = static_cast<const Bits*>(source.raw_data());
  auto* const to = static_cast<Bits*>(destination.raw_data());
  // Squares of single bytes would not fit into registers.
  const bool of_squares = sizeof(Bits) > 1 && is_of_squares(from, to, shape, others);
  const int64_t size = of_squares ? SquareTile<Bits>::kSize : kTile;
  const int64_t row_tiles = (shape.rows + size - 1) / size;
  const int64_t column_tiles = (shape.columns + size - 1) / size;
  const int64_t tiles = row_tiles * column_tiles * others.shape.numel();
  if (tiles >= int64_t{1} << 31) return false;
  shape.row_tiles = cuda::FastDivisor(static_cast<uint32_t>(row_tiles));
  shape.column_tiles = cuda::FastDivisor(static_cast<uint32_t>(column_tiles));
  shape.others = cuda::index_map(others, 1);
  const auto blocks = static_cast<unsigned>(tiles);
  if constexpr (sizeof(Bits) > 1) {
    if (of_squares) {
      cuda::launch("copy_", stream, {blocks, kSquareThreads}, &transpose_squares<Bits>, from, to,
                   shape);
      return true;
    }
  }
  cuda::launch("copy_", stream, {blocks, dim3(kTile, kThreadRows)}, &transpose_elements<Bits>, from,
               to, shape);
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

#include <cstdint>

#include "cuda/index_math.h"
#include "cuda/launch.cuh"
#include "ops/copy_transposed.h"

namespace weft {
namespace {

constexpr int kTile = 32;
constexpr int kThreadRows = 8;

/// A matrix of which the source is dense along the rows' axis and the destination along the
/// columns', once for each position of the other axes.
struct TransposeShape {
  int64_t rows, columns;
  int64_t from_column_stride, to_row_stride;
  cuda::FastDivisor row_tiles, column_tiles;
  cuda::IndexMap<2> others;  // the destination's offsets first
};

template <class Bits>
__global__ void __launch_bounds__(kTile* kThreadRows)
    transpose_kernel(const Bits* from, Bits* to, const TransposeShape shape) {
  __shared__ Bits tile[kTile][kTile + 1];  // one more, so that a column lies in all banks
  const uint32_t row_and_batch = shape.column_tiles.quotient(blockIdx.x);
  const uint32_t column_tile = blockIdx.x - row_and_batch * shape.column_tiles.divisor;
  const uint32_t batch = shape.row_tiles.quotient(row_and_batch);
  const uint32_t row_tile = row_and_batch - batch * shape.row_tiles.divisor;
  const auto offsets = shape.others.offsets(batch);
  const int64_t first_row = static_cast<int64_t>(row_tile) * kTile;
  const int64_t first_column = static_cast<int64_t>(column_tile) * kTile;
  const int x = threadIdx.x;
  for (int y = threadIdx.y; y < kTile; y += kThreadRows) {
    const int64_t row = first_row + x;
    const int64_t column = first_column + y;
    if (row < shape.rows && column < shape.columns)
      tile[y][x] = from[offsets.of[1] + column * shape.from_column_stride + row];
  }
  __syncthreads();
  for (int y = threadIdx.y; y < kTile; y += kThreadRows) {
    const int64_t row = first_row + y;
    const int64_t column = first_column + x;
    if (row < shape.rows && column < shape.columns)
      to[offsets.of[0] + row * shape.to_row_stride + column] = tile[x][y];
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

template <class Bits>
void transpose(const Tensor& source, Tensor& destination, int64_t tiles,
               const TransposeShape& shape, Stream stream) {
  cuda::launch("copy_", stream, {dim3(static_cast<unsigned>(tiles)), dim3(kTile, kThreadRows)},
               &transpose_kernel<Bits>, static_cast<const Bits*>(source.raw_data()),
               static_cast<Bits*>(destination.raw_data()), shape);
}

}  // namespace

bool copy_transposed_cuda(const Tensor& source, Tensor& destination, Stream stream) {
  const auto loop =
      cuda::loop_in_memory_order<2>(destination.shape(), {destination.strides(), source.strides()});
  const int axis = dense_axis_of_source(loop);
  if (axis < 0) return false;
  const int last = loop.shape.rank() - 1;
  TransposeShape shape;
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
  const int64_t row_tiles = (shape.rows + kTile - 1) / kTile;
  const int64_t column_tiles = (shape.columns + kTile - 1) / kTile;
  const int64_t tiles = row_tiles * column_tiles * others.numel();
  if (tiles >= int64_t{1} << 31) return false;
  shape.row_tiles = cuda::FastDivisor(static_cast<uint32_t>(row_tiles));
  shape.column_tiles = cuda::FastDivisor(static_cast<uint32_t>(column_tiles));
  shape.others = cuda::index_map(StridedLoop<2>(others, strides), 1);
  switch (size_of(source.dtype())) {
    case 1:
      transpose<uint8_t>(source, destination, tiles, shape, stream);
      break;
    case 2:
      transpose<uint16_t>(source, destination, tiles, shape, stream);
      break;
    case 4:
      transpose<uint32_t>(source, destination, tiles, shape, stream);
      break;
    default:
      transpose<uint64_t>(source, destination, tiles, shape, stream);
  }
  return true;
}

}  // namespace weft

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include "weft/tensor/dispatch.h"

#include "ops/convert.h"
#include "ops/copy.h"
#include "ops/strided.h"

namespace weft {
namespace {

/// Copies `count` elements of one type to another; strides are in elements.
using CopyRun = void (*)(const void* from, int64_t from_stride, void* to, int64_t to_stride,
                         int64_t count);

template <class To, class From>
void copy_run(const void* source, int64_t from_stride, void* destination, int64_t to_stride,
              int64_t count) {
  const From* const from = static_cast<const From*>(source);
  To* const to = static_cast<To*>(destination);
  if (from_stride == 1 && to_stride == 1) {
    convert_run(from, to, count);
  } else if (from_stride == 0 && to_stride == 1) {
    std::fill_n(to, count, convert<To>(*from));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * to_stride] = convert<To>(from[i * from_stride]);
  }
}

CopyRun copy_run_between(DType to, DType from) {
  return dispatch_all(to, "copy_", [&]<class To>() {
    return dispatch_all(from, "copy_", [&]<class From>() -> CopyRun {
      if constexpr (std::is_same_v<To, From>) {
        // Equal types move as bits.
        using Bits = std::conditional_t<
            sizeof(To) == 1, uint8_t,
            std::conditional_t<sizeof(To) == 2, uint16_t,
                               std::conditional_t<sizeof(To) == 4, uint32_t, uint64_t>>>;
        return &copy_run<Bits, Bits>;
      } else {
        return &copy_run<To, From>;
      }
    });
  });
}

/// The elements of a copy in the order in which they lie in the destination: the axes sorted by its
/// strides. Operand 0 is the destination, 1 the source.
StridedLoop<2> in_destination_order(const Tensor& source, const Tensor& destination) {
  std::array<int, kMaxRank> order;
  const int rank = destination.rank();
  for (int axis = 0; axis < rank; ++axis) order[static_cast<size_t>(axis)] = axis;
  std::stable_sort(order.begin(), order.begin() + rank, [&](int a, int b) {
    return destination.strides()[a] > destination.strides()[b];
  });
  Shape shape;
  std::array<Strides, 2> strides;
  for (int i = 0; i < rank; ++i) {
    const int axis = order[static_cast<size_t>(i)];
    shape.push_back(destination.shape()[axis]);
    strides[0].push_back(destination.strides()[axis]);
    strides[1].push_back(source.strides()[axis]);
  }
  return {shape, strides};
}

/// Side of the square tiles of a transposing copy, in elements.
constexpr int64_t kTile = 64;

/// The axis along which the source is dense, if that is not the last one and tiles pay off; -1
/// otherwise.
int transposed_axis(const StridedLoop<2>& loop) {
  const int last = loop.shape.rank() - 1;
  if (loop.strides[1][last] == 1 || loop.strides[1][last] == 0 || loop.shape[last] < 8) return -1;
  for (int axis = 0; axis < last; ++axis) {
    if (loop.strides[1][axis] == 1 && loop.shape[axis] >= 8) return axis;
  }
  return -1;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define WEFT_HAVE_SHUFFLE
#endif
#endif

/// Transposes an 8 x 8 block: three rounds of interleaving row i with row i + 4. Row distances are
/// in elements.
template <class T>
void transpose_block(const T* from, int64_t from_row, T* to, int64_t to_row) {
#ifdef WEFT_HAVE_SHUFFLE
  typedef T Row __attribute__((vector_size(8 * sizeof(T))));
  Row rows[8], mixed[8];
  for (int i = 0; i < 8; ++i) std::memcpy(&rows[i], from + i * from_row, sizeof(Row));
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 4; ++i) {
      mixed[2 * i] = __builtin_shufflevector(rows[i], rows[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
      mixed[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    std::copy(mixed, mixed + 8, rows);
  }
  for (int i = 0; i < 8; ++i) std::memcpy(to + i * to_row, &rows[i], sizeof(Row));
#else
  for (int i = 0; i < 8; ++i) {
    for (int k = 0; k < 8; ++k) to[i * to_row + k] = from[k * from_row + i];
  }
#endif
}

/// Transposes a tile of `columns` rows of `rows` elements into one of `rows` rows of `columns`.
template <class T>
void transpose_tile(const T* from, int64_t from_row, T* to, int64_t to_row, int64_t rows,
                    int64_t columns) {
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    int64_t c = 0;
    for (; c + 8 <= columns; c += 8)
      transpose_block(from + c * from_row + r, from_row, to + r * to_row + c, to_row);
    for (; c < columns; ++c) {
      for (int64_t i = r; i < r + 8; ++i) to[i * to_row + c] = from[c * from_row + i];
    }
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[r * to_row + c] = from[c * from_row + r];
  }
}

/// The same for elements of `size` bytes.
void transpose_tile(const char* from, int64_t from_row, char* to, int64_t to_row, int64_t rows,
                    int64_t columns, size_t size) {
  const auto as = [&]<class T>(T) {
    transpose_tile(reinterpret_cast<const T*>(from), from_row, reinterpret_cast<T*>(to), to_row,
                   rows, columns);
  };
  if (size == 1) as(uint8_t{});
  if (size == 2) as(uint16_t{});
  if (size == 4) as(uint32_t{});
  if (size == 8) as(uint64_t{});
}

/// Copies in tiles over the destination's and the source's dense axes: each tile is read along the
/// one into a buffer and written along the other, so that every cache line is fetched once.
void copy_transposed(const StridedLoop<2>& loop, int dense_axis, const char* from, size_t from_size,
                     char* to, size_t to_size, bool same_type, CopyRun run) {
  const int last = loop.shape.rank() - 1;
  Shape tiles = loop.shape;
  tiles[dense_axis] = (tiles[dense_axis] + kTile - 1) / kTile;
  tiles[last] = (tiles[last] + kTile - 1) / kTile;
  const int64_t grain =
      std::max<int64_t>(1, kElementwiseGrain * tiles.numel() / loop.shape.numel());
  // A line more than the tile: rows of a power of two would fall into the same cache sets.
  const size_t row = kTile * from_size + 64;
  parallel_for(0, tiles.numel(), grain, [&](int64_t begin, int64_t end) {
    alignas(64) char buffer[kTile * (kTile * sizeof(double) + 64)];
    for (int64_t tile = begin; tile < end; ++tile) {
      int64_t rest = tile;
      int64_t to_offset = 0;
      int64_t from_offset = 0;
      int64_t rows = 0;
      int64_t columns = 0;
      for (int axis = last; axis >= 0; --axis) {
        int64_t index = rest % tiles[axis];
        rest /= tiles[axis];
        if (axis == last || axis == dense_axis) {
          index *= kTile;
          (axis == last ? columns : rows) = std::min(kTile, loop.shape[axis] - index);
        }
        to_offset += index * loop.strides[0][axis];
        from_offset += index * loop.strides[1][axis];
      }
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t line = from_offset + c * loop.strides[1][last];
        std::memcpy(buffer + static_cast<size_t>(c) * row,
                    from + line * static_cast<int64_t>(from_size),
                    static_cast<size_t>(rows) * from_size);
      }
      if (same_type && loop.strides[0][last] == 1) {
        transpose_tile(buffer, static_cast<int64_t>(row / from_size),
                       to + to_offset * static_cast<int64_t>(to_size), loop.strides[0][dense_axis],
                       rows, columns, to_size);
        continue;
      }
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t line = to_offset + r * loop.strides[0][dense_axis];
        run(buffer + static_cast<size_t>(r) * from_size, static_cast<int64_t>(row / from_size),
            to + line * static_cast<int64_t>(to_size), loop.strides[0][last], columns);
      }
    }
  });
}

}  // namespace

void copy_cpu(const Tensor& source, Tensor& destination, Stream /*stream*/) {
  const StridedLoop<2> loop = in_destination_order(source, destination);
  const CopyRun run = copy_run_between(destination.dtype(), source.dtype());
  const size_t from_size = size_of(source.dtype());
  const size_t to_size = size_of(destination.dtype());
  const char* const from = static_cast<const char*>(source.raw_data());
  char* const to = static_cast<char*>(destination.raw_data());
  if (const int axis = transposed_axis(loop); axis >= 0) {
    copy_transposed(loop, axis, from, from_size, to, to_size, source.dtype() == destination.dtype(),
                    run);
    return;
  }
  loop.for_each_run(kElementwiseGrain,
                    [&](const auto& offsets, const auto& strides, int64_t count) {
                      run(from + offsets[1] * static_cast<int64_t>(from_size), strides[1],
                          to + offsets[0] * static_cast<int64_t>(to_size), strides[0], count);
                    });
}

void fill_cpu(Tensor& destination, double value, Stream /*stream*/) {
  const StridedLoop<2> loop = in_destination_order(destination, destination);
  dispatch_all(destination.dtype(), "fill_", [&]<class T>() {
    T* const to = destination.data<T>();
    const T converted = convert<T>(value);
    loop.for_each_run(kElementwiseGrain,
                      [&](const auto& offsets, const auto& strides, int64_t count) {
                        T* const out = to + offsets[0];
                        if (strides[0] == 1) {
                          std::fill_n(out, count, converted);
                        } else {
                          for (int64_t i = 0; i < count; ++i) out[i * strides[0]] = converted;
                        }
                      });
  });
}

}  // namespace weft

#include "weft/tensor/error.h"

#include "ops/add_rows_cuda.h"
#include "ops/rows_cuda.cuh"
#include "ops/sort_ids_cuda.h"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
/// Sorted positions of a chunk, which is what a block adds up.
constexpr int kChunk = 32;
/// Rows read ahead.
constexpr int kAhead = 4;

template <class T>
using sum_t = computed_t<T>;

/// The positions of `count` rows in the order of their keys.
struct SortedRows {
  const uint32_t* keys;
  const uint32_t* positions;
  int64_t count;
  uint32_t size;  // keys from here on name no row

  __device__ __forceinline__ int64_t end_of(int64_t begin) const {
    return begin + kChunk < count ? begin + kChunk : count;
  }
  /// Where the keys larger than this one, which position `at` has, begin.
  __device__ __forceinline__ int64_t end_of_run(uint32_t key, int64_t at) const {
    int64_t beyond = count;
    while (beyond - at > 1) {
      const int64_t middle = (at + beyond) / 2;
      (keys[middle] == key ? at : beyond) = middle;
    }
    return beyond;
  }
  /// The key at a position, or one that there is not.
  __device__ __forceinline__ uint32_t key_at(int64_t at) const {
    return at >= 0 && at < count ? keys[at] : 0xffffffffu;
  }
};

/// Writes in packs of at most 16 bytes, to which rows are aligned.
template <class To, int kWidth>
__device__ __forceinline__ void write_row(To* to, const sum_t<To> (&total)[kWidth],
                                          bool overwrite) {
  constexpr int kStep = kWidth < kPackWidth<To> ? kWidth : kPackWidth<To>;
#pragma unroll
  for (int first = 0; first < kWidth; first += kStep) {
    sum_t<To> result[kStep];
#pragma unroll
    for (int k = 0; k < kStep; ++k) result[k] = total[first + k];
    if (!overwrite) {
      const auto before = load_pack<kStep>(to + first);
#pragma unroll
      for (int k = 0; k < kStep; ++k) result[k] += widen(before.values[k]);
    }
    store_values(to + first, result);
  }
}

/// Adds up the runs of equal keys of chunk blockIdx.x in columns of blockIdx.y. The chunk in which
/// a run begins takes all of it where it ends within the next one. Of longer runs every chunk takes
/// its own part: the sum of one that comes from the chunk before goes to parts[chunk][0], that of
/// one that only goes on into the next to parts[chunk][1].
template <class T, class To, int kWidth>
__global__ void __launch_bounds__(kThreads)
    add_chunks(const T* __restrict__ source, int64_t stride, const SortedRows rows,
               To* __restrict__ to, int64_t to_stride, sum_t<T>* __restrict__ parts, int64_t length,
               bool overwrite) {
  using A = sum_t<T>;
  static_assert(2 * kChunk <= kThreads);
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kWidth;
  const int64_t chunk = blockIdx.x;
  const int64_t begin = chunk * kChunk;
  const auto count = static_cast<int>(rows.end_of(begin) - begin);
  const auto with_next = static_cast<int>(rows.end_of(rows.end_of(begin)) - begin);
  // Read at once, so that rows need not wait for their positions one by one.
  __shared__ uint32_t keys[2 * kChunk];
  __shared__ uint32_t positions[2 * kChunk];
  const auto lane = static_cast<int>(threadIdx.x);
  if (lane < with_next) {
    keys[lane] = rows.keys[begin + lane];
    positions[lane] = rows.positions[begin + lane];
  }
  const uint32_t before = rows.key_at(begin - 1);
  const uint32_t chunk_before = rows.key_at(begin - kChunk);
  const uint32_t before_that = rows.key_at(begin - kChunk - 1);
  const uint32_t after = rows.key_at(begin + with_next);
  __syncthreads();
  if (column >= length) return;
  const uint32_t first = keys[0];
  const uint32_t last = keys[count - 1];
  bool comes_from_before = before == first;
  bool goes_on = count < with_next && keys[count] == last;
  int i = 0;
  int end = count;
  const bool begins_in_chunk_before =
      comes_from_before && (chunk_before != first || before_that != first);
  const bool begins_here = last != first || !comes_from_before;
  if (begins_in_chunk_before && (last != first || !goes_on)) {
    while (i < count && keys[i] == first) ++i;
    if (i == count) return;
    comes_from_before = false;
  }
  if (goes_on && begins_here && (keys[with_next - 1] != last || after != last)) {
    while (end < with_next && keys[end] == last) ++end;
    goes_on = false;
  }
  uint32_t key = keys[i];
  A total[kWidth] = {};
  const auto finish_run = [&](bool to_be_continued) {
    if (key < rows.size) {
      if (comes_from_before || to_be_continued) {
        A* const part = parts + (2 * chunk + (comes_from_before ? 0 : 1)) * length + column;
        write_row(part, total, /*overwrite=*/true);
      } else {
        write_row(to + static_cast<int64_t>(key) * to_stride + column, total, overwrite);
      }
    }
    comes_from_before = false;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) total[k] = 0;
  };
  for (; i < end; i += kAhead) {
    Pack<T, kWidth> ahead[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j < end) ahead[j] = load_pack<kWidth>(source + positions[i + j] * stride + column);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j < end) {
        if (keys[i + j] != key) {
          finish_run(/*to_be_continued=*/false);
          key = keys[i + j];
        }
#pragma unroll
        for (int k = 0; k < kWidth; ++k) total[k] += widen(ahead[j].values[k]);
      }
    }
  }
  finish_run(goes_on);
}

/// Adds up the parts of the runs that begin in one of the chunks from blockIdx.x * kThreads on, in
/// columns of blockIdx.y.
template <class To, int kWidth>
__global__ void __launch_bounds__(kThreads)
    join_chunks(const SortedRows rows, To* __restrict__ to, int64_t to_stride,
                const sum_t<To>* __restrict__ parts, int64_t length, bool overwrite) {
  using A = sum_t<To>;
  // Each thread looks at one chunk.
  __shared__ int64_t found[kThreads];
  __shared__ int found_count;
  if (threadIdx.x == 0) found_count = 0;
  __syncthreads();
  {
    const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kChunk;
    const int64_t end = begin + kChunk;
    if (end + kChunk < rows.count) {
      const uint32_t key = rows.keys[end - 1];
      const bool begins_here = rows.keys[begin] != key || rows.key_at(begin - 1) != key;
      if (key < rows.size && begins_here && rows.keys[end + kChunk] == key) {
        found[atomicAdd(&found_count, 1)] = begin / kChunk;
      }
    }
  }
  __syncthreads();
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kWidth;
  if (column >= length) return;
  for (int i = 0; i < found_count; ++i) {
    const int64_t chunk = found[i];
    const uint32_t key = rows.keys[(chunk + 1) * kChunk - 1];
    const int64_t last = (rows.end_of_run(key, (chunk + 2) * kChunk) - 1) / kChunk;
    const A* part = parts + (2 * chunk + 1) * length + column;
    A total[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) total[k] = part[k];
    part += length;
#pragma unroll 4
    for (int64_t next = chunk + 1; next <= last; ++next, part += 2 * length) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) total[k] += part[k];
    }
    write_row(to + static_cast<int64_t>(key) * to_stride + column, total, overwrite);
  }
}

template <class T, class To, int kWidth>
void add_sorted(const Tensor& source, const SortedRows& rows, Tensor& to, bool overwrite,
                Stream stream) {
  using A = sum_t<T>;
  const int64_t length = source.size(1);
  const int64_t chunks = ceil_div(rows.count, kChunk);
  Tensor parts = empty({chunks, 2, length}, dtype_of<A>, source.device());
  const dim3 grid(static_cast<unsigned>(chunks),
                  static_cast<unsigned>(ceil_div(length, kThreads * kWidth)));
  const int64_t to_stride = to.strides()[0];
  launch("add_rows", stream, {grid, kThreads}, add_chunks<T, To, kWidth>, source.data<T>(),
         source.strides()[0], rows, to.data<To>(), to_stride, parts.data<A>(), length, overwrite);
  const dim3 join_grid(blocks_for(chunks, kThreads), grid.y);
  launch("add_rows", stream, {join_grid, kThreads}, join_chunks<To, kWidth>, rows, to.data<To>(),
         to_stride, parts.data<A>(), length, overwrite);
}

}  // namespace

void add_rows_cuda(const char* op, const Tensor& source, const Tensor& ids, Tensor& to,
                   bool overwrite, Stream stream) {
  const int64_t count = source.size(0);
  const int64_t size = to.size(0);
  if (count == 0 || source.size(1) == 0) return;
  constexpr int64_t kMost = 0x7fffffff;
  if (count > kMost || size >= kMost) {
    throw ShapeError("add_rows: takes at most 2^31 - 1 ids and rows");
  }

  const SortedIds sorted = sort_ids_cuda(op, ids, size, stream);
  if (size == 0) return;
  const SortedRows rows{sorted.keys, sorted.positions, count, static_cast<uint32_t>(size)};
  const bool aligned = rows_are_aligned(source, to);
  const auto run_into = [&]<class T, class To>() {
    if (aligned) {
      add_sorted<T, To, kPackWidth<T>>(source, rows, to, overwrite, stream);
    } else {
      add_sorted<T, To, 1>(source, rows, to, overwrite, stream);
    }
  };
  const auto run = [&]<class T>() {
    if (to.dtype() == source.dtype()) return run_into.template operator()<T, T>();
    if constexpr (sizeof(T) == 2) run_into.template operator()<T, float>();
  };
  if (source.dtype() == DType::i64) {
    run.operator()<int64_t>();
  } else if (source.dtype() == DType::i32) {
    run.operator()<int32_t>();
  } else {
    dispatch_floating(source.dtype(), "add_rows", run);
  }
}

}  // namespace weft

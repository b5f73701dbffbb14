#include "weft/tensor/error.h"

#include "ops/add_rows_cuda.h"
#include "ops/rows_cuda.cuh"
#include "ops/sort_ids_cuda.h"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
/// Sorted positions that one block adds up.
constexpr int64_t kChunk = 64;
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
  /// Whether the row before this one in the order has the same key.
  __device__ __forceinline__ bool continues(int64_t at) const {
    return at > 0 && at < count && keys[at - 1] == keys[at];
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

/// Adds up the runs of equal keys of chunk blockIdx.x in columns of blockIdx.y. A run that lies
/// within the chunk is done then; the sum of one that comes from the chunk before goes to
/// parts[chunk][0], that of one that only goes on into the next to parts[chunk][1].
template <class T, class To, int kWidth>
__global__ void __launch_bounds__(kThreads)
    add_chunks(const T* __restrict__ source, int64_t stride, const SortedRows rows,
               To* __restrict__ to, int64_t to_stride, sum_t<T>* __restrict__ parts, int64_t length,
               bool overwrite) {
  using A = sum_t<T>;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kWidth;
  const int64_t chunk = blockIdx.x;
  const int64_t begin = chunk * kChunk;
  const int64_t end = rows.end_of(begin);
  // Read at once, so that rows need not wait for their positions one by one.
  __shared__ uint32_t chunk_keys[kChunk];
  __shared__ uint32_t chunk_positions[kChunk];
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(end - begin); i += kThreads) {
    chunk_keys[i] = rows.keys[begin + i];
    chunk_positions[i] = rows.positions[begin + i];
  }
  __syncthreads();
  if (column >= length) return;
  const bool goes_on = rows.continues(end);
  bool comes_from_before = rows.continues(begin);
  uint32_t key = chunk_keys[0];
  A total[kWidth] = {};
  const auto finish_run = [&](bool to_be_continued) {
    if (key < rows.size) {
      if (comes_from_before || to_be_continued) {
        A* const part = parts + (2 * chunk + (comes_from_before ? 0 : 1)) * length + column;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) part[k] = total[k];
      } else {
        write_row(to + static_cast<int64_t>(key) * to_stride + column, total, overwrite);
      }
    }
    comes_from_before = false;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) total[k] = 0;
  };
  for (int64_t i = begin; i < end; i += kAhead) {
    Pack<T, kWidth> ahead[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j < end) {
        ahead[j] = load_pack<kWidth>(source + chunk_positions[i + j - begin] * stride + column);
      }
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j < end) {
        if (chunk_keys[i + j - begin] != key) {
          finish_run(/*to_be_continued=*/false);
          key = chunk_keys[i + j - begin];
        }
#pragma unroll
        for (int k = 0; k < kWidth; ++k) total[k] += widen(ahead[j].values[k]);
      }
    }
  }
  finish_run(goes_on);
}

/// Adds up the parts of the run that begins in chunk blockIdx.x and goes on into the next, if there
/// is one.
template <class To, int kWidth>
__global__ void __launch_bounds__(kThreads)
    join_chunks(const SortedRows rows, To* __restrict__ to, int64_t to_stride,
                const sum_t<To>* __restrict__ parts, int64_t length, bool overwrite) {
  using A = sum_t<To>;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kWidth;
  if (column >= length) return;
  int64_t chunk = blockIdx.x;
  const int64_t begin = chunk * kChunk;
  int64_t end = rows.end_of(begin);
  if (!rows.continues(end)) return;
  const uint32_t key = rows.keys[end - 1];
  if (key >= rows.size) return;
  if (rows.keys[begin] == key && rows.continues(begin)) return;  // begun in a chunk before
  const A* part = parts + (2 * chunk + 1) * length + column;
  A total[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) total[k] = part[k];
  while (end < rows.count && rows.keys[end] == key) {
    ++chunk;
    part = parts + 2 * chunk * length + column;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) total[k] += part[k];
    end = rows.end_of(chunk * kChunk);
    if (rows.keys[end - 1] != key) break;
  }
  write_row(to + static_cast<int64_t>(key) * to_stride + column, total, overwrite);
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
  launch("add_rows", stream, {grid, kThreads}, join_chunks<To, kWidth>, rows, to.data<To>(),
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

// Few elements of floating rows: a warp or a block takes a row. Every thread finds its largest
// element; k of these bound the k-th from below, and what is as large is collected and ranked.
//
// Others: a block takes a row. Elements become unsigned keys of their order; the key of the k-th is
// found digit by digit with histograms, the elements before it are collected and sorted.
//
// Equal elements are taken from the front of the row, so that results do not depend on how threads
// are scheduled.
#include <algorithm>
#include <bit>

#include "cuda/shared_memory.cuh"
#include "ops/staged_row_cuda.cuh"
#include "ops/topk_few_cuda.cuh"
#include "ops/topk_halves_cuda.h"
#include "ops/topk_kernels.h"
#include "ops/topk_short_cuda.h"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kDigits = 256;  // values of a digit of 8 bits
/// Rows of at most this length are sorted as they are.
constexpr int64_t kShortRow = 256;
constexpr int64_t kSharedBytes = 48 * 1024 - 4096;
constexpr int64_t kMostBlocks = 1024;

/// Sorts `count` pairs, a power of two, into their order, by the whole block.
template <class Key>
__device__ void sort_pairs(Key* keys, uint32_t* indices, int64_t count) {
  for (int64_t size = 2; size <= count; size *= 2) {
    for (int64_t distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int64_t i = threadIdx.x; i < count / 2; i += kThreads) {
        const int64_t low = 2 * distance * (i / distance) + i % distance;
        const int64_t high = low + distance;
        const bool forward = (low & size) == 0;
        if (goes_before(keys[high], indices[high], keys[low], indices[low]) == forward) {
          const Key key = keys[low];
          keys[low] = keys[high];
          keys[high] = key;
          const uint32_t index = indices[low];
          indices[low] = indices[high];
          indices[high] = index;
        }
      }
    }
  }
  __syncthreads();
}

/// The key of the k-th element, how many with that key are among the first k, and how many there
/// are.
template <class Key>
struct Threshold {
  Key key;
  uint32_t take, have;
};

template <class T>
__device__ Threshold<typename KeyOf<T>::Key> find_threshold(const T* row, int64_t length,
                                                            int64_t k) {
  using Key = typename KeyOf<T>::Key;
  __shared__ uint32_t histogram[kDigits];
  __shared__ uint32_t at_least[kDigits + 1];  // elements whose digit is this or larger
  __shared__ uint32_t found;
  Threshold<Key> threshold{0, static_cast<uint32_t>(k), 0};
  Key mask = 0;
  for (int shift = KeyOf<T>::kBits - 8; shift >= 0; shift -= 8) {
    __syncthreads();
    histogram[threadIdx.x] = 0;
    if (threadIdx.x == 0) at_least[kDigits] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < length; i += kThreads) {
      const Key key = KeyOf<T>::of(row[i]);
      if ((key & mask) == threshold.key) atomicAdd(&histogram[(key >> shift) & 255], 1u);
    }
    __syncthreads();
    at_least[threadIdx.x] = histogram[threadIdx.x];
    for (int distance = 1; distance < kDigits; distance *= 2) {
      __syncthreads();
      const uint32_t more = threadIdx.x + distance < kDigits ? at_least[threadIdx.x + distance] : 0;
      __syncthreads();
      at_least[threadIdx.x] += more;
    }
    __syncthreads();
    // Exactly one digit is that of the k-th.
    if (at_least[threadIdx.x] >= threshold.take && at_least[threadIdx.x + 1] < threshold.take) {
      found = threadIdx.x;
    }
    __syncthreads();
    threshold.key |= static_cast<Key>(found) << shift;
    mask |= Key{255} << shift;
    threshold.take -= at_least[found + 1];
    threshold.have = histogram[found];
  }
  return threshold;
}

/// Writes the keys and indices of the first k elements, in any order.
template <class T, class Key>
__device__ void collect(const T* row, int64_t length, const Threshold<Key>& threshold, Key* keys,
                        uint32_t* indices) {
  __shared__ uint32_t filled;
  __shared__ uint32_t of_warp[kThreads / 32];
  if (threadIdx.x == 0) filled = 0;
  __syncthreads();
  const bool all_equals = threshold.take == threshold.have;
  uint32_t equals = 0;  // met so far
  const int64_t rounds = ceil_div(length, kThreads);
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t i = round * kThreads + threadIdx.x;
    const Key key = i < length ? KeyOf<T>::of(row[i]) : 0;
    bool take = i < length && (key > threshold.key || (all_equals && key == threshold.key));
    if (!all_equals && equals < threshold.take) {  // all threads agree
      const bool equal = i < length && key == threshold.key;
      const uint32_t ballot = __ballot_sync(0xffffffffu, equal);
      const unsigned warp = threadIdx.x / 32;
      if (threadIdx.x % 32 == 0) of_warp[warp] = static_cast<uint32_t>(__popc(ballot));
      __syncthreads();
      uint32_t place =
          equals + static_cast<uint32_t>(__popc(ballot & ((1u << (threadIdx.x % 32)) - 1)));
#pragma unroll
      for (unsigned other = 0; other < kThreads / 32; ++other) {
        if (other < warp) place += of_warp[other];
        equals += of_warp[other];
      }
      __syncthreads();
      take = take || (equal && place < threshold.take);
    }
    if (take) {
      const uint32_t slot = atomicAdd(&filled, 1u);
      keys[slot] = key;
      indices[slot] = static_cast<uint32_t>(i);
    }
  }
  __syncthreads();
}

/// `scratch` holds `padded` pairs for each block, or is null where they fit into shared memory.
template <class T>
__global__ void __launch_bounds__(kThreads)
    topk_kernel(const T* __restrict__ x, int64_t stride, int64_t rows, int64_t length, int64_t k,
                int64_t padded, bool whole, unsigned char* scratch, T* __restrict__ values,
                int64_t* __restrict__ indices) {
  using Key = typename KeyOf<T>::Key;
  extern __shared__ __align__(16) unsigned char shared[];
  unsigned char* const memory =
      scratch == nullptr
          ? shared
          : scratch + blockIdx.x * padded * static_cast<int64_t>(sizeof(Key) + sizeof(uint32_t));
  auto* const keys = reinterpret_cast<Key*>(memory);
  auto* const places = reinterpret_cast<uint32_t*>(keys + padded);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* const from = x + row * stride;
    const int64_t listed = whole ? length : k;
    __syncthreads();
    if (whole) {
      for (int64_t i = threadIdx.x; i < length; i += kThreads) {
        keys[i] = KeyOf<T>::of(from[i]);
        places[i] = static_cast<uint32_t>(i);
      }
    } else {
      const Threshold<Key> threshold = find_threshold(from, length, k);
      collect(from, length, threshold, keys, places);
    }
    for (int64_t i = listed + threadIdx.x; i < padded; i += kThreads) {
      keys[i] = 0;
      places[i] = 0xffffffffu;
    }
    sort_pairs(keys, places, padded);
    for (int64_t i = threadIdx.x; i < k; i += kThreads) {
      values[row * k + i] = from[places[i]];
      indices[row * k + i] = places[i];
    }
  }
}

/// How few_of_rows walks its rows: from registers or, where Shape keeps none, from memory.
template <class T, class Shape>
struct Plain : RowReader<T, Shape, 1> {
  __device__ Plain(const T* row, int64_t length, unsigned char*)
      : RowReader<T, Shape, 1>({row}, length) {}
  __device__ void wait() const {}
};

template <class T, class Shape, class Reader>
__global__ void __launch_bounds__(Shape::kBlockThreads)
    few_of_rows(const T* __restrict__ x, int64_t stride, int64_t rows, int64_t length, int k,
                T* __restrict__ values, int64_t* __restrict__ indices) {
  using A = accumulator_t<T>;
  constexpr int kWidth = Shape::kWidth;
  __shared__ Candidates<T, Shape> shared[Shape::kRowsPerBlock];
  const int64_t row = Shape::row();
  if (row >= rows) return;
  auto& candidates = shared[threadIdx.x / Shape::kThreads];
  const T* const from = x + row * stride;
  extern __shared__ __align__(16) unsigned char staged[];
  const Reader reader(from, length, staged);
  reader.wait();
  A largest = kMinusInfinity<A>;
  reader.for_each([&](int64_t, const A(&elements)[1][kWidth]) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) largest = KeepLarger()(largest, elements[0][j]);
  });
  const A bound = lower_bound<T, Shape>(largest, k);
  candidates.collect(reader, [&](A value, uint32_t) { return !(value < bound); });
  if (candidates.count > candidates.kMost) {
    collect_exactly<T, Shape>(candidates, from, length, static_cast<uint32_t>(k));
  }
  write_by_rank(candidates, from, k, values + row * k, indices + row * k);
}

/// Whether it was done by few_of_rows.
template <class T>
bool take_few(const Tensor& x, Tensor& values, Tensor& indices, Stream stream) {
  if constexpr (std::is_integral_v<T>) {
    return false;
  } else {
    constexpr int kWidth = kPackWidth<T>;
    const int64_t length = x.size(1);
    const int64_t k = values.size(1);
    const auto run = [&]<class Shape, class Reader>(int64_t shared_bytes) {
      const auto kernel = &few_of_rows<T, Shape, Reader>;
      allow_shared_bytes(kernel, static_cast<size_t>(shared_bytes), stream);
      launch("topk", stream,
             {Shape::blocks(x.size(0)), Shape::kBlockThreads, static_cast<size_t>(shared_bytes)},
             kernel, x.data<T>(), x.strides()[0], x.size(0), length, static_cast<int>(k),
             values.data<T>(), indices.data<int64_t>());
      return true;
    };
    if (!rows_are_aligned(x) || length >= int64_t{1} << 31) return false;
    if (k <= 32 && length <= 256 * kWidth) {
      using Shape = RowShape<32, kWidth, 8>;
      return run.template operator()<Shape, Plain<T, Shape>>(0);
    }
    // Every thread must have an element for the bound to be near.
    if (k > 128 || length < 256 * kWidth) return false;
    using Shape = RowShape<256, kWidth, 0>;
    if constexpr (sizeof(T) == 2) {
      using Reader = StagedRow<T, Shape>;
      constexpr auto kCandidates = static_cast<int64_t>(sizeof(Candidates<T, Shape>));
      if (staged_row_fits(length + kCandidates / 2, stream)) {
        return run.template operator()<Shape, Reader>(Reader::bytes(length));
      }
    }
    return run.template operator()<Shape, Plain<T, Shape>>(0);
  }
}

}  // namespace

void topk_cuda(const Tensor& x, Tensor& values, Tensor& indices, Stream stream) {
  const int64_t rows = x.size(0);
  const int64_t length = x.size(1);
  const int64_t k = values.size(1);
  const auto power = [](int64_t count) {
    return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count)));
  };
  if (topk_short_cuda(x, values, indices, stream)) return;
  if (topk_halves_cuda(x, values, indices, stream)) return;
  dispatch_numeric(x.dtype(), "topk", [&]<class T>() {
    if (take_few<T>(x, values, indices, stream)) return;
    using Key = typename KeyOf<T>::Key;
    const bool whole = length <= kShortRow || power(length) == power(k);
    const int64_t padded = power(whole ? length : k);
    const int64_t bytes = padded * static_cast<int64_t>(sizeof(Key) + sizeof(uint32_t));
    const bool fits = bytes <= kSharedBytes;
    const int64_t blocks = fits ? std::min<int64_t>(rows, 1 << 20) : std::min(rows, kMostBlocks);
    Tensor scratch;
    if (!fits) scratch = empty({blocks * bytes}, DType::u8, x.device());
    const LaunchShape shape{static_cast<unsigned>(blocks), kThreads,
                            fits ? static_cast<size_t>(bytes) : 0};
    launch("topk", stream, shape, topk_kernel<T>, x.data<T>(), x.strides()[0], rows, length, k,
           padded, whole, fits ? nullptr : static_cast<unsigned char*>(scratch.raw_data()),
           values.data<T>(), indices.data<int64_t>());
  });
}

}  // namespace weft

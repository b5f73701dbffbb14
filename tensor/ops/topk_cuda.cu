// A block takes a row. Elements become unsigned keys of their order; the key of the k-th is found
// digit by digit with histograms, the elements before it are collected and sorted. Equal elements
// are taken from the front of the row, so that results do not depend on how threads are scheduled.
#include <algorithm>
#include <bit>

#include "ops/rows_cuda.cuh"
#include "ops/topk_kernels.h"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kDigits = 256;  // values of a digit of 8 bits
/// Rows of at most this length are sorted as they are.
constexpr int64_t kShortRow = 256;
constexpr int64_t kSharedBytes = 48 * 1024 - 4096;
constexpr int64_t kMostBlocks = 1024;

/// A number that is the larger, the earlier an element comes: NaN, then from the largest on. Equal
/// elements have equal keys.
template <class T>
struct KeyOf {
  using Key = std::conditional_t<(sizeof(T) > 4), unsigned long long, uint32_t>;
  static constexpr int kBits = 8 * sizeof(T);

  static __device__ __forceinline__ Key of(T element) {
    constexpr Key kSign = Key{1} << (kBits - 1);
    constexpr Key kAll = static_cast<Key>(~0ull >> (64 - kBits));
    if constexpr (std::is_same_v<T, uint8_t>) {
      return element;
    } else if constexpr (std::is_integral_v<T>) {
      return static_cast<Key>(element) ^ kSign;
    } else {
      const auto value = widen(element);
      if (value != value) return kAll;
      if (value == 0) return kSign;  // both zeros
      Key bits;
      if constexpr (std::is_same_v<T, double>) {
        bits = static_cast<Key>(__double_as_longlong(element));
      } else if constexpr (std::is_same_v<T, float>) {
        bits = __float_as_uint(element);
      } else {
        bits = element.bits;
      }
      return (bits & kSign) != 0 ? ~bits & kAll : bits | kSign;
    }
  }
};

template <class Key>
__device__ __forceinline__ bool goes_before(Key key, uint32_t index, Key other,
                                            uint32_t other_index) {
  return key > other || (key == other && index < other_index);
}

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

}  // namespace

void topk_cuda(const Tensor& x, Tensor& values, Tensor& indices, Stream stream) {
  const int64_t rows = x.size(0);
  const int64_t length = x.size(1);
  const int64_t k = values.size(1);
  const auto power = [](int64_t count) {
    return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count)));
  };
  dispatch_numeric(x.dtype(), "topk", [&]<class T>() {
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

// Few elements of short floating rows: a thread takes a row, or a few lanes share one. Rows come
// through shared memory. A thread keeps the first kTop elements that it has met in order, in
// registers; it sorts the next kTop by a network and merges the two, without a branch.
#include <algorithm>
#include <bit>

#include "cuda/async_copy.cuh"
#include "cuda/index_math.h"
#include "ops/rows_cuda.cuh"
#include "ops/topk_short_cuda.h"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
/// Packs of 16 bytes of a lane, at most; and lanes of a row.
constexpr int kMostPacks = 8;
constexpr int kMostLanes = 8;

/// Elements of a pack as numbers that are the larger, the earlier an element comes in the result:
/// above their order, below how many elements of the row come after them.
template <class T>
struct Keys {
  using Key = int32_t;
  static constexpr Key kNone = INT32_MIN;
  static constexpr int kWidth = 8;

  static __device__ __forceinline__ void of(const Pack<T, kWidth>& pack, uint32_t after,
                                            Key (&keys)[kWidth]) {
    uint32_t words[kWidth / 2];
    memcpy(words, &pack, sizeof words);
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      // Times one and added to zero, both zeros are the same, and all NaN are the positive one.
      uint32_t same;
      if constexpr (std::is_same_v<T, bf16>) {
        asm("fma.rn.bf16x2 %0, %1, %2, %3;"
            : "=r"(same)
            : "r"(words[i]), "r"(0x3f803f80u), "r"(0u));
      } else {
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(same) : "r"(words[i]), "r"(0x3c003c00u), "r"(0u));
      }
      // All bits of the halves with a sign. __byte_perm() would not do: it drops the upper bit of
      // each selector, which says that a sign is to be repeated.
      uint32_t negative;
      asm("prmt.b32 %0, %1, %2, %3;" : "=r"(negative) : "r"(same), "r"(0u), "r"(0xbb99u));
      const uint32_t ordered = same ^ (negative & 0x7fff7fffu);
      keys[2 * i] = static_cast<Key>((ordered << 16) + (after - 2 * i));
      keys[2 * i + 1] = static_cast<Key>((ordered & 0xffff0000u) | (after - (2 * i + 1)));
    }
  }
  static __device__ __forceinline__ uint32_t after(Key key) {
    return static_cast<uint32_t>(key) & 0xffffu;
  }
};

template <>
struct Keys<float> {
  using Key = unsigned long long;
  static constexpr Key kNone = 0;
  static constexpr int kWidth = 4;

  static __device__ __forceinline__ void of(const Pack<float, kWidth>& pack, uint32_t after,
                                            Key (&keys)[kWidth]) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float value = pack.values[i];
      const uint32_t bits = __float_as_uint(value == 0 ? 0.0f : value);
      uint32_t ordered =
          bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 1u << 31);
      if (value != value) ordered = 0xffffffffu;
      keys[i] = static_cast<Key>(ordered) << 32 | (after - i);
    }
  }
  static __device__ __forceinline__ uint32_t after(Key key) {
    return static_cast<uint32_t>(key);
  }
};

template <class Key>
__device__ __forceinline__ void order(Key& first, Key& second) {
  const Key larger = first > second ? first : second;
  second = first > second ? second : first;
  first = larger;
}

/// Sorts, the largest first, by Batcher's network of odd and even merges: merges what is sorted in
/// groups of kSorted, at kDistance and below.
template <int kSorted = 1, int kDistance = 1, int kCount, class Key>
__device__ __forceinline__ void sort(Key (&keys)[kCount]) {
  if constexpr (kSorted < kCount) {
    constexpr int kFirst = kDistance % kSorted;
#pragma unroll
    for (int i = kFirst; i + kDistance < kCount; ++i) {
      const bool taken =
          (i - kFirst) / kDistance % 2 == 0 && i / (2 * kSorted) == (i + kDistance) / (2 * kSorted);
      if (taken) order(keys[i], keys[i + kDistance]);
    }
    if constexpr (kDistance > 1) {
      sort<kSorted, kDistance / 2>(keys);
    } else {
      sort<2 * kSorted, 2 * kSorted>(keys);
    }
  }
}

/// Makes `first` the largest of two sorted lists, sorted.
template <int kCount, class Key>
__device__ __forceinline__ void merge(Key (&first)[kCount], const Key (&second)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const Key other = second[kCount - 1 - i];
    first[i] = first[i] > other ? first[i] : other;
  }
#pragma unroll
  for (int distance = kCount / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if ((i & distance) == 0) order(first[i], first[i + distance]);
    }
  }
}

template <class T>
struct ShortRows {
  const T* x;
  int64_t stride, rows;
  T* values;
  int64_t* indices;
  int length, k;
  int lanes;       // of a row, a power of two
  bool is_packed;  // rows are of whole packs, and aligned to them
  // Packs of a row, and from row to row in shared memory: an odd multiple of `lanes`, for which
  // what 8 threads read at a time lies in all banks.
  int packs, pitch;
  FastDivisor elements_of_unit;  // that is copied: packs, or elements, of a row
  FastDivisor results;           // k

  int rows_at_once() const { return kThreads / lanes; }
  int place_pitch() const { return rows_at_once() + 4; }
  size_t shared_bytes() const {
    return size_t(rows_at_once()) * pitch * 16 + size_t(k) * place_pitch() * sizeof(uint16_t);
  }
};

/// `kTop` is a power of two, k or more.
template <class T, int kTop>
__global__ void __launch_bounds__(kThreads) topk_of_short_rows(const ShortRows<T> p) {
  using Key = typename Keys<T>::Key;
  constexpr int kWidth = Keys<T>::kWidth;
  constexpr int kPacks = kTop > kWidth ? kTop / kWidth : 1;  // read together
  extern __shared__ __align__(16) unsigned char memory[];
  auto* const packs = reinterpret_cast<Pack<T, kWidth>*>(memory);
  auto* const elements = reinterpret_cast<T*>(memory);
  const int rows_at_once = kThreads / p.lanes;
  auto* const places = reinterpret_cast<uint16_t*>(packs + rows_at_once * p.pitch);
  const int place_pitch = rows_at_once + 4;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * rows_at_once;
  const int64_t left = p.rows - first_row;
  const int rows = left < rows_at_once ? static_cast<int>(left) : rows_at_once;
  const T* const from = p.x + first_row * p.stride;
  if (p.is_packed) {
    for (int i = static_cast<int>(threadIdx.x); i < rows * p.packs; i += kThreads) {
      const int row = static_cast<int>(p.elements_of_unit.quotient(static_cast<uint32_t>(i)));
      const int pack = i - row * p.packs;
      copy_pack_async(packs + row * p.pitch + pack, from + row * p.stride + pack * kWidth);
    }
    end_copy_group();
    wait_for_copy_groups<0>();
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < rows * p.length; i += kThreads) {
      const int row = static_cast<int>(p.elements_of_unit.quotient(static_cast<uint32_t>(i)));
      const int place = i - row * p.length;
      elements[row * p.pitch * kWidth + place] = from[row * p.stride + place];
    }
  }
  __syncthreads();

  const int row = static_cast<int>(threadIdx.x) / p.lanes;
  const int lane = static_cast<int>(threadIdx.x) % p.lanes;
  Key top[kTop];
#pragma unroll
  for (int i = 0; i < kTop; ++i) top[i] = Keys<T>::kNone;
  if (row < rows) {
    for (int pack = lane * kPacks; pack < p.packs; pack += p.lanes * kPacks) {
      Key keys[kPacks * kWidth];
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        Key some[kWidth];
        const int place = (pack + j) * kWidth;
        if (pack + j < p.packs) {
          Keys<T>::of(packs[row * p.pitch + pack + j], static_cast<uint32_t>(p.length - 1 - place),
                      some);
        }
        const bool whole = place + kWidth <= p.length;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          keys[j * kWidth + i] = whole || place + i < p.length ? some[i] : Keys<T>::kNone;
        }
      }
#pragma unroll
      for (int begin = 0; begin < kPacks * kWidth; begin += kTop) {
        Key some[kTop];
#pragma unroll
        for (int i = 0; i < kTop; ++i) some[i] = keys[begin + i];
        sort(some);
        merge(top, some);
      }
    }
  }
  for (int mask = 1; mask < p.lanes; mask *= 2) {
    Key others[kTop];
#pragma unroll
    for (int i = 0; i < kTop; ++i) others[i] = shuffle_xor(top[i], mask);
    merge(top, others);
  }
  if (row < rows && lane == 0) {
#pragma unroll
    for (int i = 0; i < kTop; ++i) {
      if (i < p.k) {
        places[i * place_pitch + row] =
            static_cast<uint16_t>(static_cast<uint32_t>(p.length - 1) - Keys<T>::after(top[i]));
      }
    }
  }
  __syncthreads();
  T* const values = p.values + first_row * p.k;
  int64_t* const indices = p.indices + first_row * p.k;
  for (int i = static_cast<int>(threadIdx.x); i < rows * p.k; i += kThreads) {
    const int of_row = static_cast<int>(p.results.quotient(static_cast<uint32_t>(i)));
    const int place = places[(i - of_row * p.k) * place_pitch + of_row];
    values[i] = elements[of_row * p.pitch * kWidth + place];
    indices[i] = place;
  }
}

template <class T>
bool take_short(const Tensor& x, Tensor& values, Tensor& indices, Stream stream) {
  constexpr int kWidth = Keys<T>::kWidth;
  const int64_t packs = ceil_div(x.size(1), kWidth);
  const int64_t k = values.size(1);
  if (k > 16 || packs > kMostPacks * kMostLanes) return false;
  ShortRows<T> p{};
  p.x = x.data<T>();
  p.stride = x.strides()[0];
  p.rows = x.size(0);
  p.values = values.data<T>();
  p.indices = indices.data<int64_t>();
  p.length = static_cast<int>(x.size(1));
  p.k = static_cast<int>(k);
  p.packs = static_cast<int>(packs);
  p.lanes = static_cast<int>(std::bit_ceil(static_cast<uint32_t>(ceil_div(packs, kMostPacks))));
  p.pitch = p.lanes;
  while (p.pitch < p.packs) p.pitch += 2 * p.lanes;
  p.is_packed = rows_are_aligned(x);
  p.elements_of_unit = FastDivisor(static_cast<uint32_t>(p.is_packed ? p.packs : p.length));
  p.results = FastDivisor(static_cast<uint32_t>(k));
  const auto run = [&](auto* kernel) {
    launch("topk", stream, {blocks_for(p.rows, p.rows_at_once()), kThreads, p.shared_bytes()},
           kernel, p);
  };
  if (k <= 2) {
    run(&topk_of_short_rows<T, 2>);
  } else if (k <= 4) {
    run(&topk_of_short_rows<T, 4>);
  } else if (k <= 8) {
    run(&topk_of_short_rows<T, 8>);
  } else {
    run(&topk_of_short_rows<T, 16>);
  }
  return true;
}

}  // namespace

bool topk_short_cuda(const Tensor& x, Tensor& values, Tensor& indices, Stream stream) {
  switch (x.dtype()) {
    case DType::bf16:
      return take_short<bf16>(x, values, indices, stream);
    case DType::f16:
      return take_short<f16>(x, values, indices, stream);
    case DType::f32:
      return take_short<float>(x, values, indices, stream);
    default:
      return false;
  }
}

}  // namespace weft

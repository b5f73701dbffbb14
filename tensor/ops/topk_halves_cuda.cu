// As topk_few_cuda.cuh says, by two elements an instruction: their maxima, and which of them are as
// large as the bound, a bit for each. A warp keeps a row in registers; longer rows come through
// shared memory, where a block has one that it searches and two that are on their way.
#include <algorithm>
#include <limits>

#include "cuda/async_copy.cuh"
#include "cuda/shared_memory.cuh"
#include "ops/topk_few_cuda.cuh"
#include "ops/topk_halves_cuda.h"

namespace weft {
namespace {

using namespace cuda;

constexpr int kWidth = 8;  // elements of a pack
constexpr int kWords = kWidth / 2;
/// Packs of a lane whose bits are in one mask: two words of 32.
constexpr int kMaskPacks = 8;

/// The larger of each of two, or NaN where there is one.
template <class T>
__device__ __forceinline__ uint32_t larger_of_pairs(uint32_t a, uint32_t b) {
  uint32_t result;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
}

/// All bits of each of two that are not smaller than `bound`.
template <class T>
__device__ __forceinline__ uint32_t not_smaller(uint32_t pair, uint32_t bound) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  uint32_t result;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("set.geu.u32.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(pair), "r"(bound));
  } else {
    asm("set.geu.u32.f16x2 %0, %1, %2;" : "=r"(result) : "r"(pair), "r"(bound));
  }
  return result;
#else
  const auto value_of = [](uint32_t bits) {
    T element;
    element.bits = static_cast<uint16_t>(bits);
    return to_float(element);
  };
  const float least = value_of(bound);
  const bool low = !(value_of(pair) < least), high = !(value_of(pair >> 16) < least);
  return (low ? 0xffffu : 0u) | (high ? 0xffff0000u : 0u);
#endif
}

/// An element's order, 16 bits with a sign: NaN is the largest, and both zeros are the same.
template <class T>
__device__ __forceinline__ int32_t order_of(T element) {
  return static_cast<int32_t>(KeyOf<T>::of(element)) - 0x8000;
}

/// Sorts the lanes' numbers, the largest first.
__device__ __forceinline__ int32_t sort_lanes(int32_t value) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int size = 2; size <= 32; size *= 2) {
#pragma unroll
    for (int distance = size / 2; distance > 0; distance /= 2) {
      const int32_t other = __shfl_xor_sync(0xffffffffu, value, distance);
      const bool takes_larger = ((lane & distance) == 0) == ((lane & size) == 0);
      value = takes_larger ? max(value, other) : min(value, other);
    }
  }
  return value;
}

/// The k-th of the lanes' largest elements, for all of them, twice in a word.
template <class T>
__device__ __forceinline__ uint32_t bound_of_warp(T largest, int k) {
  // The bits below the order find the lane again, and with it the element as it is.
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int32_t number = order_of(largest) * 32 + lane;
  const int32_t found = k == 1 ? __reduce_max_sync(0xffffffffu, number)
                               : __shfl_sync(0xffffffffu, sort_lanes(number), k - 1);
  const auto bits = static_cast<uint32_t>(largest.bits);
  return __shfl_sync(0xffffffffu, bits, found & 31) * 0x10001u;
}

/// Which elements of kMaskPacks packs of a lane are not smaller than the bound. Bit i of `halves`
/// word w is the lower element of word w * 16 + i, bit 16 + i the upper one.
struct Mask {
  uint32_t halves[2] = {0, 0};

  template <class T>
  __device__ __forceinline__ void take(int pack, const uint32_t (&words)[kWords], uint32_t bound) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int word = pack * kWords + i;
      halves[word / 16] |= not_smaller<T>(words[i], bound) & (0x10001u << (word % 16));
    }
  }
  __device__ __forceinline__ uint32_t count() const {
    return static_cast<uint32_t>(__popc(halves[0]) + __popc(halves[1]));
  }
  /// Calls body(pack, element of it) for all.
  template <class Body>
  __device__ __forceinline__ void for_each(Body&& body) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      for (uint32_t rest = halves[half]; rest != 0; rest &= rest - 1) {
        const int bit = __ffs(static_cast<int>(rest)) - 1;
        const int word = half * 16 + bit % 16;
        body(word / kWords, word % kWords * 2 + bit / 16);
      }
    }
  }
};

template <class T>
__device__ __forceinline__ T lowest() {
  T value;
  value.bits = std::is_same_v<T, bf16> ? 0xff80 : 0xfc00;  // -infinity
  return value;
}

template <class T>
__device__ __forceinline__ T larger_half(uint32_t pair) {
  const uint32_t turned = __byte_perm(pair, 0, 0x1032);
  T value;
  value.bits = static_cast<uint16_t>(larger_of_pairs<T>(pair, turned));
  return value;
}

/// Where too many elements are as large as the bound for the lanes of a warp.
template <class T, class Shape>
__device__ __noinline__ void rank_many(Candidates<T, Shape>& candidates, const T* from,
                                       int64_t length, uint32_t bound, int k, T* values,
                                       int64_t* indices) {
  T least;
  least.bits = static_cast<uint16_t>(bound);
  const float wanted = to_float(least);
  const RowReader<T, Shape, 1> reader({from}, length);
  candidates.collect(reader, [&](float value, uint32_t) { return !(value < wanted); });
  if (candidates.count > candidates.kMost) {
    collect_exactly<T, Shape>(candidates, from, length, static_cast<uint32_t>(k));
  }
  write_by_rank(candidates, from, k, values, indices);
}

constexpr int kWarpRows = 4;  // of a block
/// Elements of a row that a warp keeps.
constexpr int64_t kMostOfWarp = 32 * kMaskPacks * kWidth;
/// Of more, there would rarely be so few as large as the k-th of 32 maxima that a lane can have
/// one.
constexpr int64_t kMostKOfWarp = 20;

template <class T>
__global__ void __launch_bounds__(32 * kWarpRows)
    few_of_warp_rows(const T* __restrict__ x, int64_t stride, int64_t rows, int length, int k,
                     T* __restrict__ values, int64_t* __restrict__ indices) {
  using Shape = RowShape<32, kWidth, 0>;
  __shared__ Candidates<T, Shape> shared[kWarpRows];
  const int64_t row = Shape::row();
  if (row >= rows) return;
  const int lane = Shape::thread();
  const T* const from = x + row * stride;
  uint32_t words[kMaskPacks][kWords];
  const uint32_t nothing = lowest<T>().bits * 0x10001u;
#pragma unroll
  for (int p = 0; p < kMaskPacks; ++p) {
    const int i = (p * 32 + lane) * kWidth;
    Pack<T, kWidth> pack;
    if (i < length) pack = load_pack<kWidth>(from + i);
    memcpy(words[p], &pack, sizeof pack);
#pragma unroll
    for (uint32_t& word : words[p]) word = i < length ? word : nothing;
  }
  uint32_t larger = nothing;
#pragma unroll
  for (int p = 0; p < kMaskPacks; ++p) {
#pragma unroll
    for (const uint32_t word : words[p]) larger = larger_of_pairs<T>(larger, word);
  }
  const uint32_t bound = bound_of_warp(larger_half<T>(larger), k);
  Mask mask;
#pragma unroll
  for (int p = 0; p < kMaskPacks; ++p) {
    if ((p * 32 + lane) * kWidth < length) mask.take<T>(p, words[p], bound);
  }
  const uint32_t own = mask.count();
  uint32_t sum = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += other;
  }
  const uint32_t count = __shfl_sync(0xffffffffu, sum, 31);
  auto& candidates = shared[threadIdx.x / 32];
  T* const row_values = values + row * k;
  int64_t* const row_indices = indices + row * k;
  if (count > 32) {
    rank_many(candidates, from, length, bound, k, row_values, row_indices);
    return;
  }
  uint32_t slot = sum - own;
  mask.for_each([&](int pack, int element) {
    candidates.places[slot++] = static_cast<uint32_t>((pack * 32 + lane) * kWidth + element);
  });
  __syncwarp();
  // Elements in order, and equal ones in that of their places.
  int32_t number = std::numeric_limits<int32_t>::min();
  if (lane < static_cast<int>(count)) {
    const uint32_t place = candidates.places[lane];
    number = order_of(from[place]) * 0x10000 + static_cast<int32_t>(0xffff - place);
  }
  if (count > 1) number = sort_lanes(number);
  if (lane < k) {
    const int place = 0xffff - (number & 0xffff);
    row_values[lane] = from[place];
    row_indices[lane] = place;
  }
}

constexpr int kBlockThreads = 512;
constexpr int kStages = 3;

/// A block takes rows in turn, kBlockThreads threads a row; every thread reads of a row what it has
/// copied itself. Rows are of whole packs.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    few_of_block_rows(const T* __restrict__ x, int64_t stride, int64_t rows, int length, int k,
                      T* __restrict__ values, int64_t* __restrict__ indices) {
  using Shape = RowShape<kBlockThreads, kWidth, 0>;
  constexpr int kWarps = kBlockThreads / 32;
  constexpr int kStep = kBlockThreads * kWidth;
  __shared__ Candidates<T, Shape> candidates;
  __shared__ float bounds[kWarps];
  extern __shared__ __align__(16) unsigned char memory[];
  const int first = static_cast<int>(threadIdx.x) * kWidth;
  const auto stage_of = [&](int stage) { return reinterpret_cast<T*>(memory) + stage * length; };
  const auto fetch = [&](int64_t row, int stage) {
    if (row < rows) {
      const T* const from = x + row * stride;
      for (int i = first; i < length; i += kStep) copy_pack_async(stage_of(stage) + i, from + i);
    }
    end_copy_group();
  };
  const auto words_at = [&](const T* row, int i, uint32_t(&words)[kWords]) {
    const auto pack = load_pack<kWidth>(row + i);
    memcpy(words, &pack, sizeof pack);
  };
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) {
    fetch(blockIdx.x + int64_t{stage} * gridDim.x, stage);
  }
  int stage = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    // The stage of the row before is free: its last reader was this thread.
    fetch(row + int64_t{kStages - 1} * gridDim.x, (stage + kStages - 1) % kStages);
    wait_for_copy_groups<kStages - 1>();
    const T* const staged = stage_of(stage);
    uint32_t larger = lowest<T>().bits * 0x10001u;
    for (int i = first; i < length; i += kStep) {
      uint32_t words[kWords];
      words_at(staged, i, words);
#pragma unroll
      for (const uint32_t word : words) larger = larger_of_pairs<T>(larger, word);
    }
    // So many of each warp's threads are as large as its bound that k are as large as the least.
    T of_warp;
    of_warp.bits = static_cast<uint16_t>(
        bound_of_warp(larger_half<T>(larger), static_cast<int>(ceil_div(k, kWarps))));
    if (threadIdx.x == 0) candidates.count = 0;
    if (threadIdx.x % 32 == 0) bounds[threadIdx.x / 32] = to_float(of_warp);
    __syncthreads();
    float least = bounds[threadIdx.x % kWarps];
#pragma unroll
    for (int distance = kWarps / 2; distance > 0; distance /= 2) {
      least = KeepSmaller()(least, shuffle_xor(least, distance));
    }
    const uint32_t bound = from_float<T>(least).bits * 0x10001u;
    for (int begin = first; begin < length; begin += kMaskPacks * kStep) {
      Mask mask;
#pragma unroll
      for (int p = 0; p < kMaskPacks; ++p) {
        if (begin + p * kStep < length) {
          uint32_t words[kWords];
          words_at(staged, begin + p * kStep, words);
          mask.take<T>(p, words, bound);
        }
      }
      const uint32_t own = mask.count();
      if (own == 0) continue;
      uint32_t slot = atomicAdd(&candidates.count, own);
      if (slot + own > candidates.kMost) continue;
      mask.for_each([&](int pack, int element) {
        const int place = begin + pack * kStep + element;
        candidates.keys[slot] = KeyOf<T>::of(staged[place]);
        candidates.places[slot++] = static_cast<uint32_t>(place);
      });
    }
    __syncthreads();
    const T* const from = x + row * stride;
    T* const row_values = values + row * k;
    int64_t* const row_indices = indices + row * k;
    if (candidates.count > candidates.kMost) {
      collect_exactly<T, Shape>(candidates, from, length, static_cast<uint32_t>(k));
    }
    write_by_rank(candidates, from, k, row_values, row_indices);
    __syncthreads();
    stage = (stage + 1) % kStages;
  }
}

template <class T>
bool take_halves(const Tensor& x, Tensor& values, Tensor& indices, Stream stream) {
  using Shape = RowShape<kBlockThreads, kWidth, 0>;
  const int64_t rows = x.size(0);
  const int64_t length = x.size(1);
  const int64_t k = values.size(1);
  if (!rows_are_aligned(x)) return false;
  if (length <= kMostOfWarp && k <= kMostKOfWarp) {
    launch("topk", stream, {blocks_for(rows, kWarpRows), 32 * kWarpRows}, few_of_warp_rows<T>,
           x.data<T>(), x.strides()[0], rows, static_cast<int>(length), static_cast<int>(k),
           values.data<T>(), indices.data<int64_t>());
    return true;
  }
  // Every thread must have an element for the bound to be near.
  constexpr int64_t kMostK = 128;
  const auto shared = static_cast<size_t>(kStages * length) * sizeof(T);
  const auto& properties = device_context(stream.device()).properties();
  constexpr size_t kOwn = sizeof(Candidates<T, Shape>) + 1024;
  if (k > kMostK || length < int64_t{kBlockThreads} * kWidth ||
      shared + kOwn > properties.sharedMemPerBlockOptin) {
    return false;
  }
  const auto kernel = &few_of_block_rows<T>;
  allow_shared_bytes(kernel, shared, stream);
  int per_multiprocessor = 0;
  {
    const DeviceGuard guard(stream.device().index);
    WEFT_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &per_multiprocessor, reinterpret_cast<const void*>(kernel), kBlockThreads, shared));
  }
  const int64_t blocks =
      std::min<int64_t>(rows, int64_t{std::max(1, per_multiprocessor)} *
                                  device_context(stream.device()).multiprocessors());
  launch("topk", stream, {static_cast<unsigned>(blocks), kBlockThreads, shared}, kernel,
         x.data<T>(), x.strides()[0], rows, static_cast<int>(length), static_cast<int>(k),
         values.data<T>(), indices.data<int64_t>());
  return true;
}

}  // namespace

bool topk_halves_cuda(const Tensor& x, Tensor& values, Tensor& indices, Stream stream) {
  switch (x.dtype()) {
    case DType::bf16:
      return take_halves<bf16>(x, values, indices, stream);
    case DType::f16:
      return take_halves<f16>(x, values, indices, stream);
    default:
      return false;
  }
}

}  // namespace weft

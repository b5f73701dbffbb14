// As topk_few_cuda.cuh says, by two elements an instruction: their maxima, and which of them are as
// large as the bound, a bit for each. Rows come through shared memory, a later one while a warp or,
// of longer rows, a block searches this one.
#include <algorithm>

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

/// A number that is the larger, the earlier an element comes, of its key and of its place, of 16
/// bits.
template <class T>
__device__ __forceinline__ uint32_t number_of(T element, int place) {
  return KeyOf<T>::of(element) * 0x10000u + static_cast<uint32_t>(0xffff - place);
}
__device__ __forceinline__ int place_of(uint32_t number) {
  return static_cast<int>(0xffff - (number & 0xffff));
}

/// Sorts the lanes' numbers, the largest first.
__device__ __forceinline__ uint32_t sort_lanes(uint32_t value) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int size = 2; size <= 32; size *= 2) {
#pragma unroll
    for (int distance = size / 2; distance > 0; distance /= 2) {
      const uint32_t other = __shfl_xor_sync(0xffffffffu, value, distance);
      const bool takes_larger = ((lane & distance) == 0) == ((lane & size) == 0);
      value = takes_larger ? max(value, other) : min(value, other);
    }
  }
  return value;
}

/// The k-th of the lanes' largest elements, for all of them, twice in a word.
template <class T>
__device__ __forceinline__ uint32_t bound_of_warp(T largest, int k) {
  // The bits below the key find the lane again, and with it the element as it is.
  const uint32_t number = KeyOf<T>::of(largest) * 32 + threadIdx.x % 32;
  const uint32_t found = k == 1 ? __reduce_max_sync(0xffffffffu, number)
                                : __shfl_sync(0xffffffffu, sort_lanes(number), k - 1);
  const auto bits = static_cast<uint32_t>(largest.bits);
  return __shfl_sync(0xffffffffu, bits, static_cast<int>(found & 31)) * 0x10001u;
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

/// Where too many elements are as large as the bound.
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

constexpr int kWarpRows = 4;          // of a block at a time
constexpr int kWarpBlocksAtOnce = 6;  // of a multiprocessor
/// Elements of a row of a warp.
constexpr int64_t kMostOfWarp = 32 * kMaskPacks * kWidth;
/// Of more, there would often be too many as large as the k-th of 32 maxima for a warp to rank.
constexpr int64_t kMostKOfWarp = 28;
/// Rows of a warp in shared memory: one that it searches and one that is on its way.
constexpr int kWarpStages = 2;

/// A warp takes rows in turn. Rows are of whole packs.
template <class T>
__global__ void __launch_bounds__(32 * kWarpRows, kWarpBlocksAtOnce)
    few_of_warp_rows(const T* __restrict__ x, int64_t stride, int64_t rows, int length, int k,
                     T* __restrict__ values, int64_t* __restrict__ indices) {
  using Shape = RowShape<32, kWidth, 0>;
  __shared__ Candidates<T, Shape> shared[kWarpRows];
  extern __shared__ __align__(16) unsigned char memory[];
  const int lane = Shape::thread();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first = lane * kWidth;
  constexpr int kStep = 32 * kWidth;
  T* const own_rows = reinterpret_cast<T*>(memory) + warp * kWarpStages * length;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarpRows;
  const auto fetch = [&](int64_t row, int stage) {
    if (row < rows) {
      const T* const from = x + row * stride;
      T* const to = own_rows + stage * length;
      for (int i = first; i < length; i += kStep) copy_pack_async(to + i, from + i);
    }
    end_copy_group();
  };
  auto& candidates = shared[warp];
  int64_t row = Shape::row();
  fetch(row, 0);
  for (int stage = 0; row < rows; row += step, stage ^= 1) {
    // Lanes are done with the row before this one.
    fetch(row + step, stage ^ 1);
    wait_for_copy_groups<1>();
    __syncwarp();
    const T* const staged = own_rows + stage * length;
    const auto words_at = [&](int p, uint32_t(&words)[kWords]) {
      const auto pack = load_pack<kWidth>(staged + first + p * kStep);
      memcpy(words, &pack, sizeof pack);
    };
    uint32_t larger = lowest<T>().bits * 0x10001u;
#pragma unroll
    for (int p = 0; p < kMaskPacks; ++p) {
      if (first + p * kStep >= length) break;
      uint32_t words[kWords];
      words_at(p, words);
#pragma unroll
      for (const uint32_t word : words) larger = larger_of_pairs<T>(larger, word);
    }
    const uint32_t bound = bound_of_warp(larger_half<T>(larger), k);
    Mask mask;
#pragma unroll
    for (int p = 0; p < kMaskPacks; ++p) {
      if (first + p * kStep >= length) break;
      uint32_t words[kWords];
      words_at(p, words);
      mask.take<T>(p, words, bound);
    }
    const uint32_t own = mask.count();
    uint32_t sum = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint32_t other = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) sum += other;
    }
    const uint32_t count = __shfl_sync(0xffffffffu, sum, 31);
    T* const row_values = values + row * k;
    int64_t* const row_indices = indices + row * k;
    if (count > Candidates<T, Shape>::kMost) {
      rank_many(candidates, x + row * stride, length, bound, k, row_values, row_indices);
    } else {
      uint32_t slot = sum - own;
      mask.for_each([&](int pack, int element) {
        const int place = pack * kStep + first + element;
        candidates.keys[slot++] = number_of(staged[place], place);
      });
      __syncwarp();
      const auto write = [&](int rank, uint32_t number) {
        const int place = place_of(number);
        row_values[rank] = staged[place];
        row_indices[rank] = place;
      };
      if (count <= 32) {
        uint32_t number = lane < static_cast<int>(count) ? candidates.keys[lane] : 0;
        if (count > 1) number = sort_lanes(number);
        if (lane < k) write(lane, number);
      } else {
        for (uint32_t i = lane; i < count; i += 32) {
          const uint32_t number = candidates.keys[i];
          int rank = 0;
#pragma unroll 8
          for (uint32_t other = 0; other < count; ++other) {
            rank += candidates.keys[other] > number;
          }
          if (rank < k) write(rank, number);
        }
      }
    }
    __syncwarp();
  }
}

/// Rows of a block in shared memory, of short rows.
constexpr int kMostStages = 3;
/// Threads that a multiprocessor has at least for blocks with so many rows each.
template <int kStages>
constexpr int kThreadsAtOnce = kStages == 1 ? 768 : 1024;
/// Elements as large as the bound, at most, that a block ranks itself.
constexpr int kMostRanked = 512;
/// Its places have 16 bits.
constexpr int64_t kMostOfBlock = 0x10000;

/// The elements of a row that are as large as its bound, in no order, and their numbers, beyond
/// which there are zeros.
struct Ranked {
  alignas(16) uint32_t numbers[kMostRanked];
  uint16_t elements[kMostRanked];
};

/// Writes the first k by how many numbers are larger, which four lanes count for each.
template <class T, int kThreads>
__device__ __forceinline__ void write_ranked(const Ranked& ranked, int count, int k, T* values,
                                             int64_t* indices) {
  constexpr int kLanes = 4;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  for (int first = 0; first < count; first += kThreads / kLanes) {
    const int own = first + static_cast<int>(threadIdx.x) / kLanes;
    const uint32_t number = ranked.numbers[own];
    int rank = 0;
#pragma unroll 2
    for (int i = lane * 4; i < count; i += kLanes * 4) {
      const uint4 others = *reinterpret_cast<const uint4*>(ranked.numbers + i);
      rank += (others.x > number) + (others.y > number) + (others.z > number) + (others.w > number);
    }
    rank = sum_over<kLanes>(rank);
    if (lane == 0 && own < count && rank < k) {
      T value;
      value.bits = ranked.elements[own];
      values[rank] = value;
      indices[rank] = place_of(number);
    }
  }
}

/// A block takes rows in turn, and a multiprocessor several blocks: what one of them has to wait
/// for, others use. Every thread reads of a row what it has copied itself, and copies a later one
/// there as soon as it has. Rows are of whole packs.
template <class T, int kThreads, int kStages>
__global__ void __launch_bounds__(kThreads, kThreadsAtOnce<kStages> / kThreads)
    few_of_block_rows(const T* __restrict__ x, int64_t stride, int64_t rows, int length, int k,
                      T* __restrict__ values, int64_t* __restrict__ indices) {
  using Shape = RowShape<kThreads, kWidth, 0>;
  constexpr int kWarps = kThreads / 32;
  constexpr int kStep = kThreads * kWidth;
  // Rows take turns with two of these, so that two barriers a row are enough.
  __shared__ union Found {
    Ranked ranked[2];
    Candidates<T, Shape> candidates;  // where there are too many
  } found;
  __shared__ uint32_t counts[2];
  __shared__ float bounds[kWarps];
  extern __shared__ __align__(16) unsigned char memory[];
  const int first = static_cast<int>(threadIdx.x) * kWidth;
  const auto fetch = [&](int64_t row, int stage) {
    if (row < rows) {
      const T* const from = x + row * stride;
      T* const to = reinterpret_cast<T*>(memory) + stage * length;
      for (int i = first; i < length; i += kStep) copy_pack_async(to + i, from + i);
    }
    end_copy_group();
  };
  const auto words_at = [&](const T* row, int i, uint32_t(&words)[kWords]) {
    const auto pack = load_pack<kWidth>(row + i);
    memcpy(words, &pack, sizeof pack);
  };
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    fetch(blockIdx.x + int64_t{stage} * gridDim.x, stage);
  }
  int stage = 0;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    Ranked& ranked = found.ranked[turn];
    // Who read them last has passed a barrier since.
    for (int i = static_cast<int>(threadIdx.x); i < kMostRanked; i += kThreads) {
      ranked.numbers[i] = 0;
    }
    if (threadIdx.x == 0) counts[turn] = 0;
    wait_for_copy_groups<kStages - 1>();
    const T* const staged = reinterpret_cast<const T*>(memory) + stage * length;
    uint32_t larger = lowest<T>().bits * 0x10001u;
#pragma unroll 4
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
      uint32_t slot = atomicAdd(&counts[turn], own);
      if (slot + own > kMostRanked) continue;
      mask.for_each([&](int pack, int element) {
        const int place = begin + pack * kStep + element;
        const T value = staged[place];
        ranked.numbers[slot] = number_of(value, place);
        ranked.elements[slot++] = value.bits;
      });
    }
    fetch(row + int64_t{kStages} * gridDim.x, stage);
    stage = stage == kStages - 1 ? 0 : stage + 1;
    __syncthreads();
    T* const row_values = values + row * k;
    int64_t* const row_indices = indices + row * k;
    const uint32_t count = counts[turn];
    if (count <= kMostRanked) {
      write_ranked<T, kThreads>(ranked, static_cast<int>(count), k, row_values, row_indices);
    } else {
      rank_many(found.candidates, x + row * stride, length, bound, k, row_values, row_indices);
      __syncthreads();
    }
  }
}

/// Blocks of a kernel with so much dynamic shared memory that a multiprocessor runs at a time.
template <class Kernel>
int64_t blocks_at_once(Kernel* kernel, unsigned threads, size_t shared, Stream stream) {
  allow_shared_bytes(kernel, shared, stream);
  const DeviceGuard guard(stream.device().index);
  int blocks = 0;
  WEFT_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &blocks, reinterpret_cast<const void*>(kernel), static_cast<int>(threads), shared));
  return blocks;
}

template <class T>
bool take_halves(const Tensor& x, Tensor& values, Tensor& indices, Stream stream) {
  const int64_t rows = x.size(0);
  const int64_t length = x.size(1);
  const int64_t k = values.size(1);
  if (!rows_are_aligned(x)) return false;
  const int64_t multiprocessors = device_context(stream.device()).multiprocessors();
  const auto run = [&](auto* kernel, int64_t blocks, unsigned threads, size_t shared) {
    launch("topk", stream, {static_cast<unsigned>(blocks), threads, shared}, kernel, x.data<T>(),
           x.strides()[0], rows, static_cast<int>(length), static_cast<int>(k), values.data<T>(),
           indices.data<int64_t>());
  };
  if (length <= kMostOfWarp && k <= kMostKOfWarp) {
    constexpr unsigned kThreads = 32 * kWarpRows;
    const auto kernel = &few_of_warp_rows<T>;
    const auto shared = static_cast<size_t>(kWarpRows * kWarpStages * length) * sizeof(T);
    const int64_t most =
        std::max<int64_t>(1, blocks_at_once(kernel, kThreads, shared, stream)) * multiprocessors;
    run(kernel, std::min(ceil_div(rows, int64_t{kWarpRows}), most), kThreads, shared);
    return true;
  }
  const auto run_blocks = [&]<int kThreads, int kStages>(int64_t least) {
    const auto shared = static_cast<size_t>(kStages * length) * sizeof(T);
    const auto kernel = &few_of_block_rows<T, kThreads, kStages>;
    const auto& properties = device_context(stream.device()).properties();
    cudaFuncAttributes attributes{};
    WEFT_CUDA_CHECK(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)));
    if (shared + attributes.sharedSizeBytes > properties.sharedMemPerBlockOptin) return false;
    const int64_t blocks = blocks_at_once(kernel, kThreads, shared, stream);
    if (blocks < least) return false;
    run(kernel, std::min(rows, blocks * multiprocessors), kThreads, shared);
    return true;
  };
  // A block alone could not hide what it waits for. Of short rows, what each warp does once would
  // take longer than the rest; half of the lanes' maxima have to be smaller than the k-th.
  const auto run_threads = [&]<int kThreads>() {
    if (k > kThreads / 2 || length < 2 * kThreads * kWidth) return false;
    return run_blocks.template operator()<kThreads, kMostStages>(kThreadsAtOnce<kMostStages> /
                                                                 kThreads) ||
           run_blocks.template operator()<kThreads, 1>(2);
  };
  if (length > kMostOfBlock) return false;
  constexpr int64_t kMostOfFewThreads = 8192;
  return (length <= kMostOfFewThreads && run_threads.template operator()<128>()) ||
         run_threads.template operator()<256>();
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

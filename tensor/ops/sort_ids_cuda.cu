// Up to a million ids, as a step of training has, are sorted digit by digit, least significant
// first, by one kernel a digit beside the one that counts the first: CUB's sort gives each block
// some thousand keys, so that few multiprocessors have any, and runs eight kernels and fills for
// two digits. More ids are left to CUB.
#include <utility>

#include <cub/device/device_radix_sort.cuh>

#include "weft/tensor/dispatch.h"

#include "cuda/launch.cuh"
#include "ops/rows_cuda.cuh"
#include "ops/sort_ids_cuda.h"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBits = 8;  // of a digit
constexpr int kDigits = 1 << kBits;
constexpr int64_t kMostBlocks = 128;
constexpr int64_t kMostSorted = int64_t{1} << 20;

/// Neighbouring ids that a block takes, and how many blocks there are.
struct Shares {
  uint32_t count, share, blocks;

  explicit Shares(int64_t ids) {
    const int64_t rounds = ceil_div(ceil_div(ids, kThreads), kMostBlocks);
    count = static_cast<uint32_t>(ids);
    share = static_cast<uint32_t>(rounds * kThreads);
    blocks = static_cast<uint32_t>(ceil_div(ids, share));
  }
  __device__ __forceinline__ uint32_t begin() const { return blockIdx.x * share; }
  __device__ __forceinline__ uint32_t end() const {
    return begin() + share < count ? begin() + share : count;
  }
};

template <class Index>
__device__ __forceinline__ uint32_t key_of(const Index* ids, uint32_t i, int64_t size, Fault* fault,
                                           const char* op) {
  const auto id = static_cast<int64_t>(ids[i]);
  const bool valid = static_cast<uint64_t>(id) < static_cast<uint64_t>(size);
  if (!valid) report_fault(fault, FaultKind::index, op, id, size);
  return static_cast<uint32_t>(valid ? id : size);
}

template <class Index>
__global__ void __launch_bounds__(kThreads)
    make_keys(const Index* __restrict__ ids, uint32_t count, int64_t size,
              uint32_t* __restrict__ keys, uint32_t* __restrict__ positions, Fault* fault,
              const char* op) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  keys[i] = key_of(ids, i, size, fault, op);
  positions[i] = i;
}

/// Makes the keys and counts their first digits: counts [digits' places, blocks, kDigits], of which
/// those of later digits become zero.
template <class Index>
__global__ void __launch_bounds__(kThreads)
    count_first_digits(const Index* __restrict__ ids, const Shares shares, int64_t size,
                       uint32_t* __restrict__ keys, int passes, uint32_t* __restrict__ counts,
                       Fault* fault, const char* op) {
  __shared__ uint32_t count[kDigits];
  if (threadIdx.x < kDigits) count[threadIdx.x] = 0;
  __syncthreads();
  for (uint32_t i = shares.begin() + threadIdx.x; i < shares.end(); i += kThreads) {
    const uint32_t key = key_of(ids, i, size, fault, op);
    keys[i] = key;
    atomicAdd(&count[key % kDigits], 1u);
  }
  __syncthreads();
  if (threadIdx.x >= kDigits) return;
  counts[blockIdx.x * kDigits + threadIdx.x] = count[threadIdx.x];
  for (int pass = 1; pass < passes; ++pass) {
    counts[(pass * gridDim.x + blockIdx.x) * kDigits + threadIdx.x] = 0;
  }
}

/// Where the first of the block's keys with the digit threadIdx.x, below kDigits, goes: behind all
/// keys with lower digits, and those with this one of the blocks before. By the whole block.
__device__ __forceinline__ uint32_t first_place(const uint32_t* __restrict__ counts,
                                                uint32_t blocks) {
  constexpr int kShares = kThreads / kDigits;
  __shared__ uint32_t all[kShares][kDigits];
  __shared__ uint32_t earlier[kShares][kDigits];
  __shared__ uint32_t of_warp[kDigits / 32];
  const uint32_t digit = threadIdx.x % kDigits;
  const uint32_t share = threadIdx.x / kDigits;
  uint32_t total = 0;
  uint32_t before = 0;
#pragma unroll 8
  for (uint32_t block = share; block < blocks; block += kShares) {
    const uint32_t count = counts[block * kDigits + digit];
    total += count;
    if (block < blockIdx.x) before += count;
  }
  all[share][digit] = total;
  earlier[share][digit] = before;
  __syncthreads();
  total = 0;
  before = 0;
#pragma unroll
  for (int other = 0; other < kShares; ++other) {
    total += all[other][digit];
    before += earlier[other][digit];
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t sum = total;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += other;
  }
  if (threadIdx.x < kDigits && lane == 31) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  before += sum - total;
  for (uint32_t warp = 0; warp < digit / 32; ++warp) before += of_warp[warp];
  return before;
}

/// The lanes with the same value of kDigits or less, by a ballot for each bit.
__device__ __forceinline__ uint32_t lanes_with(uint32_t value) {
  uint32_t lanes = 0xffffffffu;
#pragma unroll
  for (int bit = 0; bit <= kBits; ++bit) {
    const bool is_set = (value >> bit & 1) != 0;
    const uint32_t others = __ballot_sync(0xffffffffu, is_set);
    lanes &= is_set ? others : ~others;
  }
  return lanes;
}

/// Puts keys and positions into the order of the digit at `shift`, and counts the next digit where
/// `next_counts` is not null. Positions that are null are those of the keys.
__global__ void __launch_bounds__(kThreads)
    move_by_digit(const Shares shares, int shift, const uint32_t* __restrict__ keys,
                  const uint32_t* __restrict__ positions, const uint32_t* __restrict__ counts,
                  uint32_t* __restrict__ moved_keys, uint32_t* __restrict__ moved_positions,
                  uint32_t* __restrict__ next_counts) {
  __shared__ uint32_t place[kDigits];
  // Keys of each warp with each digit, and then those of the warps before.
  __shared__ alignas(uint32_t) uint16_t of_warp[kWarps][kDigits];
  uint32_t i = shares.begin() + threadIdx.x;
  uint32_t key = 0;
  uint32_t position = i;
  const auto load = [&] {
    if (i >= shares.end()) return;
    key = keys[i];
    position = positions == nullptr ? i : positions[i];
  };
  load();  // on its way beside the counts
  const uint32_t first = first_place(counts, shares.blocks);
  if (threadIdx.x < kDigits) place[threadIdx.x] = first;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lanes_before = (1u << (threadIdx.x % 32)) - 1;
  for (uint32_t begin = shares.begin(); begin < shares.end(); begin += kThreads) {
    for (uint32_t j = threadIdx.x; j < kWarps * kDigits / 2; j += kThreads) {
      reinterpret_cast<uint32_t*>(of_warp)[j] = 0;
    }
    __syncthreads();
    const bool has_key = i < shares.end();
    const uint32_t digit = (key >> shift) % kDigits;
    const uint32_t equals = lanes_with(has_key ? digit : kDigits);
    const auto number = static_cast<uint32_t>(__popc(equals & lanes_before));
    if (has_key && number == 0) of_warp[warp][digit] = static_cast<uint16_t>(__popc(equals));
    __syncthreads();
    uint32_t met = 0;
    if (threadIdx.x < kDigits) {
      uint16_t of_warps[kWarps];  // all are read before the first is written
#pragma unroll
      for (int other = 0; other < kWarps; ++other) of_warps[other] = of_warp[other][threadIdx.x];
#pragma unroll
      for (int other = 0; other < kWarps; ++other) {
        of_warp[other][threadIdx.x] = static_cast<uint16_t>(met);
        met += of_warps[other];
      }
    }
    __syncthreads();
    if (has_key) {
      const uint32_t to = place[digit] + of_warp[warp][digit] + number;
      moved_keys[to] = key;
      moved_positions[to] = position;
      if (next_counts != nullptr) {
        const uint32_t next_digit = (key >> (shift + kBits)) % kDigits;
        atomicAdd(&next_counts[to / shares.share * kDigits + next_digit], 1u);
      }
    }
    i += kThreads;
    load();
    __syncthreads();
    if (threadIdx.x < kDigits) place[threadIdx.x] += met;
  }
}

template <class Index>
SortedIds sort_with_cub(const char* op, const Tensor& ids, int64_t size, int bits, Stream stream) {
  const int64_t count = ids.numel();
  SortedIds sorted{empty({4, count}, DType::i32, ids.device())};
  auto* const keys = reinterpret_cast<uint32_t*>(sorted.memory.data<int32_t>());
  uint32_t* const positions = keys + count;
  uint32_t* const sorted_keys = keys + 2 * count;
  uint32_t* const sorted_positions = keys + 3 * count;
  launch(op, stream, {blocks_for(count, kThreads), kThreads}, make_keys<Index>, ids.data<Index>(),
         static_cast<uint32_t>(count), size, keys, positions, fault_slot(stream.device()), op);
  const auto sort = [&](void* scratch, size_t& bytes) {
    WEFT_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, sorted_keys, positions,
                                                    sorted_positions, static_cast<int>(count), 0,
                                                    bits, native(stream)));
  };
  size_t bytes = 0;
  sort(nullptr, bytes);
  Tensor scratch = empty({static_cast<int64_t>(bytes) + 1}, DType::u8, ids.device());
  sort(scratch.raw_data(), bytes);
  sorted.keys = sorted_keys;
  sorted.positions = sorted_positions;
  return sorted;
}

}  // namespace

SortedIds sort_ids_cuda(const char* op, const Tensor& ids, int64_t size, Stream stream) {
  const int64_t count = ids.numel();
  int bits = 1;
  while (bits < 32 && (size >> bits) != 0) ++bits;
  return dispatch_index(ids.dtype(), op, [&]<class Index>() {
    if (count > kMostSorted) return sort_with_cub<Index>(op, ids, size, bits, stream);
    const int passes = static_cast<int>(ceil_div(bits, kBits));
    const Shares shares(count);
    const int64_t counters = int64_t{passes} * shares.blocks * kDigits;
    SortedIds sorted{empty({4 * count + counters}, DType::i32, ids.device())};
    uint32_t* keys = reinterpret_cast<uint32_t*>(sorted.memory.data<int32_t>());
    uint32_t* positions = keys + count;
    uint32_t* moved_keys = keys + 2 * count;
    uint32_t* moved_positions = keys + 3 * count;
    uint32_t* counts = keys + 4 * count;
    launch(op, stream, {shares.blocks, kThreads}, count_first_digits<Index>, ids.data<Index>(),
           shares, size, keys, passes, counts, fault_slot(stream.device()), op);
    for (int pass = 0; pass < passes; ++pass) {
      uint32_t* const next = pass + 1 < passes ? counts + shares.blocks * kDigits : nullptr;
      launch(op, stream, {shares.blocks, kThreads}, move_by_digit, shares, pass * kBits, keys,
             pass == 0 ? nullptr : positions, counts, moved_keys, moved_positions, next);
      std::swap(keys, moved_keys);
      std::swap(positions, moved_positions);
      counts = next;
    }
    sorted.keys = keys;
    sorted.positions = positions;
    return sorted;
  });
}

}  // namespace weft

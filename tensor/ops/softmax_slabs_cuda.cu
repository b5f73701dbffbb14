#include <algorithm>
#include <array>
#include <atomic>

#include "cuda/async_copy.cuh"
#include "cuda/cluster.cuh"
#include "cuda/launch_check.h"
#include "ops/exponential_cuda.cuh"
#include "ops/loaded_cuda.cuh"
#include "ops/softmax_slabs_cuda.h"

namespace weft {
namespace {

using namespace cuda;

constexpr int kSlabThreads = 256;
/// Three blocks share a multiprocessor, so that one reads while others compute and write.
constexpr int kSlabBlocks = 3;
constexpr int kMostPacks = 16;   // of a thread
constexpr int kMostAcross = 8;   // packs of a row of a slab: 128 bytes
constexpr int kMostBlocks = 16;  // of a cluster
constexpr int kMostColumns = 64;

/// Slabs of `across` packs and all rows; each of the `blocks` of a cluster keeps `rows` of them.
struct Slabs {
  int64_t length, inner;
  int64_t of_group = 0;  // slabs side by side
  int64_t rows = 0;
  int across = 0, blocks = 0;
};

/// Of -infinity alone e^x is zero about any finite value.
__device__ __forceinline__ float shift_of(float max) {
  return max == kMinusInfinity<float> ? 0.0f : max;
}

/// Combines the values of a warp's threads that have the same threadIdx.x % across.
template <int kWidth, class Combine>
__device__ __forceinline__ void combine_in_warp(int across, float (&values)[kWidth],
                                                Combine combine) {
  for (int mask = across; mask < 32; mask *= 2) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = combine(values[k], shuffle_xor(values[k], mask));
  }
}

/// `across` neighbours of a block's threads keep packs of a row, the others those of other rows;
/// each reads what it has copied itself.
template <class T>
__global__ void __launch_bounds__(kSlabThreads, kSlabBlocks)
    softmax_slabs(const T* __restrict__ x, T* __restrict__ y, const Slabs slabs, bool log) {
  constexpr int kWidth = kPackWidth<T>, kWarps = kSlabThreads / 32;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ alignas(16) float max_of_warp[kWarps][kMostColumns];
  __shared__ alignas(16) float sum_of_warp[kWarps][kMostColumns];
  __shared__ float2 of_block[kMostColumns];  // maximum, and sum of e^(x - maximum)
  __shared__ float2 of_slab[kMostColumns];   // maximum, and what results are scaled or lowered by
  const int thread = static_cast<int>(threadIdx.x);
  const int across = slabs.across;
  const int column = thread % across * kWidth;  // in the slab
  const int lanes = kSlabThreads / across;
  const int64_t slab = blockIdx.x / slabs.blocks;
  const int64_t group = slab / slabs.of_group;
  const int64_t inside = (slab - group * slabs.of_group) * across * kWidth + column;
  const int64_t begin = blockIdx.x % slabs.blocks * slabs.rows + thread / across;
  const int64_t end = min((blockIdx.x % slabs.blocks + 1) * slabs.rows, slabs.length);
  const int packs =
      inside < slabs.inner && begin < end ? static_cast<int>((end - begin + lanes - 1) / lanes) : 0;
  const int64_t from = (group * slabs.length + begin) * slabs.inner + inside;
  const int64_t step = lanes * slabs.inner;
  T* const kept = reinterpret_cast<T*>(memory) + thread * kWidth;
  constexpr int kNext = kSlabThreads * kWidth;  // from one pack of a thread to the next

  for (int p = 0; p < packs; ++p) copy_pack_of_line_async(kept + p * kNext, x + from + p * step);
  end_copy_group();
  float max[kWidth], sum[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    max[k] = kMinusInfinity<float>;
    sum[k] = 0;
  }
  wait_for_copy_groups<0>();
#pragma unroll 2
  for (int p = 0; p < packs; ++p) {
    Loaded<T, kWidth> pack;
    pack.load(kept + p * kNext);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) max[k] = KeepLarger()(max[k], pack[k]);
  }
  combine_in_warp(across, max, KeepLarger());
  if (thread % 32 < across) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) max_of_warp[thread / 32][column + k] = max[k];
  }
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) max[k] = KeepLarger()(max[k], max_of_warp[warp][column + k]);
  }
#pragma unroll 2
  for (int p = 0; p < packs; ++p) {
    Loaded<T, kWidth> pack;
    pack.load(kept + p * kNext);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum[k] += quick_exponential<T>(pack[k] - shift_of(max[k]));
  }
  combine_in_warp(across, sum, Add());
  if (thread % 32 < across) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum_of_warp[thread / 32][column + k] = sum[k];
    if (thread < 32) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) of_block[column + k].x = max[k];
    }
  }
  __syncthreads();
  if (thread < across * kWidth) {
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) total += sum_of_warp[warp][thread];
    of_block[thread].y = total;
  }
  arrive_in_cluster();
  wait_for_cluster();
  if (thread < across * kWidth) {
    float2 parts[kMostBlocks];
    float whole = kMinusInfinity<float>;
#pragma unroll
    for (int block = 0; block < kMostBlocks; ++block) {
      if (block < slabs.blocks) {
        parts[block] = load_from_block(of_block + thread, static_cast<unsigned>(block));
      }
    }
#pragma unroll
    for (int block = 0; block < kMostBlocks; ++block) {
      if (block < slabs.blocks) whole = KeepLarger()(whole, parts[block].x);
    }
    float total = 0;
#pragma unroll
    for (int block = 0; block < kMostBlocks; ++block) {
      if (block < slabs.blocks)
        total += parts[block].y * quick_exponential<T>(parts[block].x - shift_of(whole));
    }
    of_slab[thread] = {whole, log ? ::log(total) : 1 / total};
  }
  __syncthreads();
  arrive_in_cluster();  // others' shared memory is not read any more
  float scales[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    max[k] = of_slab[column + k].x;
    scales[k] = of_slab[column + k].y;
  }
#pragma unroll 2
  for (int p = 0; p < packs; ++p) {
    Loaded<T, kWidth> pack;
    pack.load(kept + p * kNext);
    float results[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float distance = pack[k] - shift_of(max[k]);  // -infinity where the column is
      if (log) {
        results[k] = max[k] == kMinusInfinity<float> ? max[k] : distance - scales[k];
      } else {
        results[k] = max[k] == kMinusInfinity<float> ? 0.0f : exponential<T>(distance) * scales[k];
      }
    }
    store_values(y + from + p * step, results);
  }
  wait_for_cluster();
}

/// The widest rows of slabs that fit, and the fewest blocks; no blocks where nothing does.
Slabs slabs_for(int64_t outer, int64_t length, int64_t inner, int width) {
  Slabs slabs{.length = length, .inner = inner};
  for (int across = kMostAcross; across >= 2; across /= 2) {
    if (across > 2 && (across / 2) * width >= inner) continue;
    for (int blocks = 1; blocks <= kMostBlocks; blocks *= 2) {
      const int64_t rows = ceil_div(length, blocks);
      if (ceil_div(rows, kSlabThreads / across) > kMostPacks) continue;
      slabs.of_group = ceil_div(inner, across * width);
      slabs.rows = rows;
      slabs.across = across;
      slabs.blocks = blocks;
      if (outer * slabs.of_group * blocks > std::numeric_limits<int32_t>::max()) slabs.blocks = 0;
      return slabs;
    }
  }
  return slabs;
}

/// Whether the GPU can run clusters of this size; `known` keeps the answers by device and size.
template <class Kernel>
bool clusters_fit(Kernel* kernel, const cudaLaunchConfig_t& config, unsigned blocks,
                  Stream stream) {
  static std::array<std::array<std::atomic<signed char>, kMostBlocks + 1>, kMaxDevices> known{};
  auto& answer = known[static_cast<size_t>(stream.device().index)][blocks];
  if (answer == 0) {
    int clusters = 0;
    const bool asked =
        cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess && clusters > 0;
    if (!asked) static_cast<void>(cudaGetLastError());
    answer = asked ? 1 : -1;
  }
  return answer > 0;
}

template <class T>
bool run_slabs(const Tensor& x, Tensor& y, bool log, Stream stream) {
  constexpr int kWidth = kPackWidth<T>;
  constexpr int64_t kLeastLength = 256;  // the second reading of less finds it in a cache
  const int64_t outer = x.size(0), length = x.size(1), inner = x.size(2);
  const T* const from = x.data<T>();
  T* const to = y.data<T>();
  if (length < kLeastLength || inner % kWidth != 0 || !is_aligned(from, 0) || !is_aligned(to, 0)) {
    return false;
  }
  const Slabs slabs = slabs_for(outer, length, inner, kWidth);
  if (slabs.blocks == 0) return false;
  const DeviceGuard guard(stream.device().index);
  const auto kernel = softmax_slabs<T>;
  // One size for all, so that what was allowed once stays so for graphs captured before.
  constexpr size_t kMostBytes = size_t{kMostPacks} * kSlabThreads * 16;
  WEFT_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(kMostBytes)));
  WEFT_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                       cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  WEFT_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                       cudaFuncAttributePreferredSharedMemoryCarveout,
                                       cudaSharedmemCarveoutMaxShared));
  const int64_t packs = ceil_div(slabs.rows, kSlabThreads / slabs.across);
  const LaunchShape shape{static_cast<unsigned>(outer * slabs.of_group * slabs.blocks),
                          kSlabThreads, static_cast<size_t>(packs) * kSlabThreads * 16};
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(slabs.blocks);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = native(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  if (!clusters_fit(kernel, config, static_cast<unsigned>(slabs.blocks), stream)) return false;
  // check_launch() finds what this returns as the runtime's last error.
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, from, to, slabs, log));
  detail::check_launch("softmax", stream, shape);
  return true;
}

}  // namespace

bool cuda::softmax_slabs_cuda(const Tensor& x, Tensor& y, bool log, Stream stream) {
  if (device_context(stream.device()).capability() < 90) return false;
  switch (x.dtype()) {
    case DType::f32:
      return run_slabs<float>(x, y, log, stream);
    case DType::bf16:
      return run_slabs<bf16>(x, y, log, stream);
    case DType::f16:
      return run_slabs<f16>(x, y, log, stream);
    default:
      return false;
  }
}

}  // namespace weft

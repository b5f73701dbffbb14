#include <cmath>
#include <cstdint>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/generator.h"

#include "cuda/element.cuh"
#include "cuda/index_math.h"
#include "cuda/launch.cuh"
#include "ops/random_kernels.h"
#include "ops/random_math.h"

namespace weft {
namespace {

constexpr unsigned kThreads = 256;

/// Where the elements of a piece lie.
struct Target {
  cuda::IndexMap<1> map;
  bool is_dense;   // and starts where four elements can be stored at once
  int64_t first;   // position of the first element in the whole tensor
  uint32_t count;  // elements
};

/// Each thread makes the elements of one block of random words: positions 4b to 4b + 3.
/// draw(words, out) computes four elements.
template <class T, class Draw>
__global__ void __launch_bounds__(kThreads)
    random_kernel(const Draw draw, GeneratorState state, T* out, const Target target) {
  const int64_t first_block = target.first / 4;
  const int64_t block = first_block + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t start = 4 * block - target.first;  // of the block within the piece
  if (start >= target.count) return;
  const auto words = philox4x32(state.seed, state.offset + static_cast<uint64_t>(block));
  cuda::Pack<T, 4> pack;
  draw(words, pack.values);
  if (target.is_dense && start >= 0 && start + 4 <= target.count) {
    cuda::store_pack<T, 4>(out + start, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = start + i;
    if (at >= 0 && at < target.count)
      out[target.map.offsets(static_cast<uint32_t>(at)).of[0]] = pack.values[i];
  }
}

template <class T, class Draw>
void fill(const char* op, Tensor& tensor, GeneratorState state, const Draw& draw, Stream stream) {
  const StridedLoop<1> loop(tensor.shape(), {tensor.strides()});
  cuda::for_each_piece<1>(
      loop, cuda::kPieceLimit,
      [&](const StridedLoop<1>& part, const std::array<int64_t, 1>& offsets, int64_t first) {
        Target target;
        target.map = cuda::index_map(part, 1);
        target.first = first;
        target.count = static_cast<uint32_t>(part.shape.numel());
        T* const out = static_cast<T*>(tensor.raw_data()) + offsets[0];
        target.is_dense = part.shape.rank() == 1 && part.strides[0][0] == 1 && first % 4 == 0 &&
                          reinterpret_cast<uintptr_t>(out) % (4 * sizeof(T)) == 0;
        const int64_t blocks = (first + target.count + 3) / 4 - first / 4;
        cuda::launch(op, stream, {dim3(cuda::blocks_for(blocks, kThreads)), dim3(kThreads)},
                     &random_kernel<T, Draw>, draw, state, out, target);
      });
}

template <class T>
struct Uniform {
  using C = accumulator_t<T>;
  C start, width;

  __device__ void operator()(const std::array<uint32_t, 4>& words, T* out) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      out[i] = cuda::element_as<T>(fma(width, static_cast<C>(unit_float(words[i])), start));
  }
};

template <class T>
struct Normal {
  using C = accumulator_t<T>;
  C center, scale;

  __device__ void operator()(const std::array<uint32_t, 4>& words, T* out) const {
    float z[4];
    normal_pair(words[0], words[1], z[0], z[1]);
    normal_pair(words[2], words[3], z[2], z[3]);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      out[i] = cuda::element_as<T>(fma(scale, static_cast<C>(z[i]), center));
  }
};

template <class T>
struct Bernoulli {
  uint32_t threshold;

  __device__ void operator()(const std::array<uint32_t, 4>& words, T* out) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      out[i] = cuda::element_as<T>(falls_below(words[i], threshold) ? 1.0f : 0.0f);
  }
};

template <class T>
struct Randint {
  uint64_t first, width;

  __device__ void operator()(const std::array<uint32_t, 4>& words, T* out) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = static_cast<T>(first + ((words[i] * width) >> 32));
  }
};

/// As random_kernel, from the elements of `x`, whose map is the second.
struct DropoutTarget {
  cuda::IndexMap<2> map;
  bool is_dense;
  int64_t first;
  uint32_t count;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(const T* x, T* out, GeneratorState state, uint32_t threshold,
                   accumulator_t<T> scale, const DropoutTarget target) {
  using C = accumulator_t<T>;
  const int64_t block =
      target.first / 4 + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t start = 4 * block - target.first;
  if (start >= target.count) return;
  const auto words = philox4x32(state.seed, state.offset + static_cast<uint64_t>(block));
  const auto scaled = [&](T value, int i) {
    return falls_below(words[i], threshold)
               ? cuda::element_as<T>(C{0})
               : cuda::element_as<T>(cuda::element_as<C>(value) * scale);
  };
  if (target.is_dense && start >= 0 && start + 4 <= target.count) {
    const auto in = cuda::load_pack<T, 4>(x + start);
    cuda::Pack<T, 4> pack;
#pragma unroll
    for (int i = 0; i < 4; ++i) pack.values[i] = scaled(in.values[i], i);
    cuda::store_pack<T, 4>(out + start, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = start + i;
    if (at < 0 || at >= target.count) continue;
    const auto offsets = target.map.offsets(static_cast<uint32_t>(at));
    out[offsets.of[0]] = scaled(x[offsets.of[1]], i);
  }
}

}  // namespace

void uniform_cuda(Tensor& tensor, double low, double high, GeneratorState state, Stream stream) {
  dispatch_floating(tensor.dtype(), "uniform_", [&]<class T>() {
    using C = accumulator_t<T>;
    fill<T>("uniform_", tensor, state, Uniform<T>{static_cast<C>(low), static_cast<C>(high - low)},
            stream);
  });
}

void normal_cuda(Tensor& tensor, double mean, double std, GeneratorState state, Stream stream) {
  dispatch_floating(tensor.dtype(), "normal_", [&]<class T>() {
    using C = accumulator_t<T>;
    fill<T>("normal_", tensor, state, Normal<T>{static_cast<C>(mean), static_cast<C>(std)}, stream);
  });
}

void bernoulli_cuda(Tensor& tensor, double p, GeneratorState state, Stream stream) {
  const uint32_t threshold = threshold_of(p);
  dispatch_all(tensor.dtype(), "bernoulli_", [&]<class T>() {
    fill<T>("bernoulli_", tensor, state, Bernoulli<T>{threshold}, stream);
  });
}

void randint_cuda(Tensor& tensor, int64_t low, int64_t range, GeneratorState state, Stream stream) {
  dispatch_numeric(tensor.dtype(), "randint_", [&]<class T>() {
    if constexpr (std::is_integral_v<T>) {
      fill<T>("randint_", tensor, state,
              Randint<T>{static_cast<uint64_t>(low), static_cast<uint64_t>(range)}, stream);
    }
  });
}

void permutation_cuda(Tensor& tensor, GeneratorState state, Stream stream) {
  // Sorted on the host: it orders the samples of an epoch, once.
  Tensor order = empty(tensor.shape(), DType::i64);
  permutation_cpu(order, state, Stream(kCpu));
  const StreamGuard guard(stream);
  tensor.copy_(order);
}

void dropout_cuda(const Tensor& x, double p, GeneratorState state, Tensor& out, Stream stream) {
  const uint32_t threshold = threshold_of(p);
  dispatch_floating(x.dtype(), "dropout", [&]<class T>() {
    const auto scale = static_cast<accumulator_t<T>>(1.0 / (1.0 - p));
    const StridedLoop<2> loop(x.shape(), {out.strides(), x.strides()});
    cuda::for_each_piece<2>(
        loop, cuda::kPieceLimit,
        [&](const StridedLoop<2>& part, const std::array<int64_t, 2>& offsets, int64_t first) {
          DropoutTarget target;
          target.map = cuda::index_map(part, 1);
          target.first = first;
          target.count = static_cast<uint32_t>(part.shape.numel());
          T* const to = static_cast<T*>(out.raw_data()) + offsets[0];
          const T* const from = static_cast<const T*>(x.raw_data()) + offsets[1];
          target.is_dense =
              first % 4 == 0 &&
              cuda::is_vectorizable<2>(
                  part, 4, {reinterpret_cast<uint64_t>(to), reinterpret_cast<uint64_t>(from)},
                  {sizeof(T), sizeof(T)}) &&
              part.shape.rank() == 1 && part.strides[1][0] == 1;
          const int64_t blocks = (first + target.count + 3) / 4 - first / 4;
          cuda::launch("dropout", stream,
                       {dim3(cuda::blocks_for(blocks, kThreads)), dim3(kThreads)},
                       &dropout_kernel<T>, from, to, state, threshold, scale, target);
        });
  });
}

}  // namespace weft

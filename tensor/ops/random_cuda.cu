#include <cmath>
#include <cstdint>
#include <cstring>

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

/// Philox4x32-10 with the keys of its rounds, which are operands of the instructions that use them.
struct PhiloxStream {
  uint64_t offset;  // of the first block
  uint32_t keys[10][2];

  PhiloxStream(GeneratorState state, int64_t first_block)
      : offset(state.offset + static_cast<uint64_t>(first_block)) {
    for (uint32_t round = 0; round < 10; ++round) {
      keys[round][0] = static_cast<uint32_t>(state.seed) + round * 0x9E3779B9u;
      keys[round][1] = static_cast<uint32_t>(state.seed >> 32) + round * 0xBB67AE85u;
    }
  }

  /// philox4x32() of a block.
  __device__ __forceinline__ std::array<uint32_t, 4> block(uint32_t number) const {
    const uint64_t index = offset + number;
    std::array<uint32_t, 4> counter = {static_cast<uint32_t>(index),
                                       static_cast<uint32_t>(index >> 32), 0, 0};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
      const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
      counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ keys[round][0],
                 static_cast<uint32_t>(product1),
                 static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ keys[round][1],
                 static_cast<uint32_t>(product0)};
    }
    return counter;
  }
};

/// The elements of a thread of a dense tensor: of whole blocks, and 16 bytes or more.
template <class T>
inline constexpr int kElements = sizeof(T) < 4 ? 16 / static_cast<int>(sizeof(T)) : 4;

/// Four elements from the values that they are computed as.
template <class T>
__device__ __forceinline__ void narrow_four(const cuda::computed_t<T> (&values)[4], T* out) {
  if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      uint32_t pair;
      if constexpr (std::is_same_v<T, bf16>) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(values[i + 1]), "f"(values[i]));
      } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(values[i + 1]), "f"(values[i]));
      }
      memcpy(out + i, &pair, sizeof pair);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = values[i];
  }
}

/// Each thread makes kElements. draw(words, values) computes four elements from a block.
template <class T, class Draw>
__global__ void __launch_bounds__(kThreads)
    random_dense(const Draw draw, const PhiloxStream stream, T* out, uint32_t count) {
  const uint32_t start = (blockIdx.x * kThreads + threadIdx.x) * kElements<T>;
  if (start >= count) return;
  cuda::Pack<T, kElements<T>> pack;
#pragma unroll
  for (int i = 0; i < kElements<T>; i += 4) {
    cuda::computed_t<T> values[4];
    draw(stream.block((start + i) / 4), values);
    narrow_four<T>(values, pack.values + i);
  }
  if (start + kElements<T> <= count) {
    cuda::store_pack(out + start, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < kElements<T>; ++i) {
    if (start + i < count) out[start + i] = pack.values[i];
  }
}

/// Where the elements of a piece lie.
struct Target {
  cuda::IndexMap<1> map;
  int64_t first;   // position of the first element in the whole tensor
  uint32_t count;  // elements
};

/// Each thread makes the elements of one block of random words: positions 4b to 4b + 3.
template <class T, class Draw>
__global__ void __launch_bounds__(kThreads)
    random_strided(const Draw draw, const PhiloxStream stream, T* out, const Target target) {
  const uint32_t block = blockIdx.x * kThreads + threadIdx.x;
  const int64_t start = 4 * int64_t{block} - target.first % 4;  // of the block within the piece
  if (start >= target.count) return;
  cuda::computed_t<T> values[4];
  draw(stream.block(block), values);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = start + i;
    if (at >= 0 && at < target.count) {
      out[target.map.offsets(static_cast<uint32_t>(at)).of[0]] = cuda::element_as<T>(values[i]);
    }
  }
}

/// Whether threads may take kElements of a piece at a time.
template <class T, int N>
bool is_dense(const StridedLoop<N>& part, int64_t first,
              const std::array<const void*, N>& addresses) {
  constexpr int kCount = kElements<T>;
  bool dense = part.shape.rank() == 1 && first % kCount == 0;
  for (size_t i = 0; i < N; ++i) {
    dense = dense && part.strides[i][0] == 1 &&
            reinterpret_cast<uintptr_t>(addresses[i]) % (kCount * sizeof(T)) == 0;
  }
  return dense;
}

/// Threads for `elements` each.
cuda::LaunchShape shape_for(int64_t count, int elements) {
  return {dim3(cuda::blocks_for(count, int64_t{kThreads} * elements)), dim3(kThreads)};
}

template <class T, class Draw>
void fill(const char* op, Tensor& tensor, GeneratorState state, const Draw& draw, Stream stream) {
  const StridedLoop<1> loop(tensor.shape(), {tensor.strides()});
  cuda::for_each_piece<1>(
      loop, cuda::kPieceLimit,
      [&](const StridedLoop<1>& part, const std::array<int64_t, 1>& offsets, int64_t first) {
        const int64_t count = part.shape.numel();
        const PhiloxStream words(state, first / 4);
        T* const out = static_cast<T*>(tensor.raw_data()) + offsets[0];
        if (is_dense<T, 1>(part, first, {out})) {
          cuda::launch(op, stream, shape_for(count, kElements<T>), &random_dense<T, Draw>, draw,
                       words, out, static_cast<uint32_t>(count));
          return;
        }
        const Target target{cuda::index_map(part, 1), first, static_cast<uint32_t>(count)};
        cuda::launch(op, stream, shape_for(first % 4 + count, 4), &random_strided<T, Draw>, draw,
                     words, out, target);
      });
}

template <class T>
struct Uniform {
  using C = accumulator_t<T>;
  C start, width;

  __device__ __forceinline__ void operator()(const std::array<uint32_t, 4>& words,
                                             C (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = fma(width, static_cast<C>(unit_float(words[i])), start);
  }
};

template <class T>
struct Normal {
  using C = accumulator_t<T>;
  C center, scale;

  __device__ __forceinline__ void operator()(const std::array<uint32_t, 4>& words,
                                             C (&out)[4]) const {
    float z[4];
    lean_normal_pair(words[0], words[1], z[0], z[1]);
    lean_normal_pair(words[2], words[3], z[2], z[3]);
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = fma(scale, static_cast<C>(z[i]), center);
  }
};

template <class T>
struct Bernoulli {
  using C = cuda::computed_t<T>;
  uint32_t threshold;

  __device__ __forceinline__ void operator()(const std::array<uint32_t, 4>& words,
                                             C (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = static_cast<C>(falls_below(words[i], threshold) ? 1 : 0);
  }
};

template <class T>
struct Randint {
  using C = T;
  uint64_t first, width;

  __device__ __forceinline__ void operator()(const std::array<uint32_t, 4>& words,
                                             C (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = static_cast<T>(first + ((words[i] * width) >> 32));
  }
};

/// Zero where the word says so, else the value times `scale`.
template <class T>
struct Dropout {
  using C = accumulator_t<T>;
  uint32_t threshold;
  C scale;

  __device__ __forceinline__ C operator()(T value, uint32_t word) const {
    return falls_below(word, threshold) ? C{0} : cuda::element_as<C>(value) * scale;
  }
};

/// Each thread takes kElements.
template <class T>
__global__ void __launch_bounds__(kThreads)
    dropout_dense(const T* __restrict__ x, T* __restrict__ out, const PhiloxStream stream,
                  const Dropout<T> dropout, uint32_t count) {
  const uint32_t start = (blockIdx.x * kThreads + threadIdx.x) * kElements<T>;
  if (start >= count) return;
  const bool whole = start + kElements<T> <= count;
  cuda::Pack<T, kElements<T>> pack;
  if (whole) {
    pack = cuda::load_pack<T, kElements<T>>(x + start);
  } else {
#pragma unroll
    for (int i = 0; i < kElements<T>; ++i) pack.values[i] = start + i < count ? x[start + i] : T{};
  }
#pragma unroll
  for (int i = 0; i < kElements<T>; i += 4) {
    const auto words = stream.block((start + i) / 4);
    accumulator_t<T> values[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) values[k] = dropout(pack.values[i + k], words[k]);
    narrow_four<T>(values, pack.values + i);
  }
  if (whole) {
    cuda::store_pack(out + start, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < kElements<T>; ++i) {
    if (start + i < count) out[start + i] = pack.values[i];
  }
}

/// As Target, of `out` and `x`.
struct DropoutTarget {
  cuda::IndexMap<2> map;
  int64_t first;
  uint32_t count;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    dropout_strided(const T* x, T* out, const PhiloxStream stream, const Dropout<T> dropout,
                    const DropoutTarget target) {
  const uint32_t block = blockIdx.x * kThreads + threadIdx.x;
  const int64_t start = 4 * int64_t{block} - target.first % 4;
  if (start >= target.count) return;
  const auto words = stream.block(block);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = start + i;
    if (at < 0 || at >= target.count) continue;
    const auto offsets = target.map.offsets(static_cast<uint32_t>(at));
    out[offsets.of[0]] = cuda::element_as<T>(dropout(x[offsets.of[1]], words[i]));
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
  dispatch_floating(x.dtype(), "dropout", [&]<class T>() {
    const Dropout<T> dropout{threshold_of(p), static_cast<accumulator_t<T>>(1.0 / (1.0 - p))};
    const StridedLoop<2> loop(x.shape(), {out.strides(), x.strides()});
    cuda::for_each_piece<2>(
        loop, cuda::kPieceLimit,
        [&](const StridedLoop<2>& part, const std::array<int64_t, 2>& offsets, int64_t first) {
          const int64_t count = part.shape.numel();
          const PhiloxStream words(state, first / 4);
          T* const to = static_cast<T*>(out.raw_data()) + offsets[0];
          const T* const from = static_cast<const T*>(x.raw_data()) + offsets[1];
          if (is_dense<T, 2>(part, first, {to, from})) {
            cuda::launch("dropout", stream, shape_for(count, kElements<T>), &dropout_dense<T>, from,
                         to, words, dropout, static_cast<uint32_t>(count));
            return;
          }
          const DropoutTarget target{cuda::index_map(part, 1), first, static_cast<uint32_t>(count)};
          cuda::launch("dropout", stream, shape_for(first % 4 + count, 4), &dropout_strided<T>,
                       from, to, words, dropout, target);
        });
  });
}

}  // namespace weft

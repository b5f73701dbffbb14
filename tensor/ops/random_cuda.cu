#include <cmath>
#include <cstdint>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/generator.h"

#include "cuda/index_math.h"
#include "cuda/launch.cuh"
#include "cuda/pairs.cuh"
#include "ops/random_kernels.h"
#include "ops/random_math.h"

namespace weft {
namespace {

constexpr unsigned kThreads = 256;

/// Philox4x32-10 with the keys of its rounds, which are operands of the instructions that use them.
struct PhiloxStream {
  uint64_t offset;          // of the first block
  const uint64_t* advance;  // blocks to add to it in replays of a graph; null elsewhere
  uint32_t keys[10][2];

  PhiloxStream(GeneratorState state, int64_t first_block)
      : offset(state.offset + static_cast<uint64_t>(first_block)), advance(state.advance.get()) {
    for (uint32_t round = 0; round < 10; ++round) {
      keys[round][0] = static_cast<uint32_t>(state.seed) + round * 0x9E3779B9u;
      keys[round][1] = static_cast<uint32_t>(state.seed >> 32) + round * 0xBB67AE85u;
    }
  }

  using Words = std::array<uint32_t, 4>;

  static constexpr uint64_t product0(uint32_t word) { return uint64_t{0xD2511F53u} * word; }
  static constexpr uint64_t product1(uint32_t word) { return uint64_t{0xCD9E8D57u} * word; }

  template <int kFrom>
  __device__ __forceinline__ Words rounds(Words counter) const {
#pragma unroll
    for (int round = kFrom; round < 10; ++round) {
      const uint64_t of_first = product0(counter[0]);
      const uint64_t of_third = product1(counter[2]);
      counter = {static_cast<uint32_t>(of_third >> 32) ^ counter[1] ^ keys[round][0],
                 static_cast<uint32_t>(of_third),
                 static_cast<uint32_t>(of_first >> 32) ^ counter[3] ^ keys[round][1],
                 static_cast<uint32_t>(of_first)};
    }
    return counter;
  }

  /// The index of the first block: a thread asks once.
  __device__ __forceinline__ uint64_t first() const {
    return offset + (advance != nullptr ? __ldg(advance) : 0);
  }
  /// philox4x32() of a block.
  __device__ __forceinline__ Words block(uint64_t index) const {
    return rounds<0>({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0});
  }
};

/// The same for blocks whose indices have one upper half: the first of the words is then the same
/// for all after a round, and so is what the second round makes of it.
struct DensePhilox : PhiloxStream {
  uint32_t second_key1, second_word3;

  explicit DensePhilox(const PhiloxStream& stream) : PhiloxStream(stream) {
    const uint64_t of_first = product0(static_cast<uint32_t>(offset >> 32) ^ keys[0][0]);
    second_key1 = static_cast<uint32_t>(of_first >> 32) ^ keys[1][1];
    second_word3 = static_cast<uint32_t>(of_first);
  }
  /// Whether it will do for so many blocks.
  static bool takes(const PhiloxStream& stream, int64_t blocks) {
    return stream.advance == nullptr &&
           (stream.offset & 0xffffffffu) + static_cast<uint64_t>(blocks) <= uint64_t{1} << 32;
  }

  /// The lower half of the index of the first block.
  __device__ __forceinline__ uint32_t first() const { return static_cast<uint32_t>(offset); }
  /// Of the lower half of its index.
  __device__ __forceinline__ Words block(uint32_t index) const {
    const uint64_t of_first = product0(index);
    const uint64_t of_third = product1(static_cast<uint32_t>(of_first >> 32) ^ keys[0][1]);
    return rounds<2>({static_cast<uint32_t>(of_third >> 32) ^ keys[1][0],
                      static_cast<uint32_t>(of_third),
                      static_cast<uint32_t>(of_first) ^ second_key1, second_word3});
  }
};

/// The elements of a thread of a dense tensor: of whole blocks, and 16 bytes or more.
template <class T>
inline constexpr int kElements = sizeof(T) < 4 ? 16 / static_cast<int>(sizeof(T)) : 4;

/// Packs of kElements of a thread: what it sets out with is worth more than one.
constexpr int kPacks = 2;

/// Elements of a block of threads, and of the packs of its threads that lie beside each other.
template <class T>
inline constexpr uint32_t kRow = kThreads* kElements<T>;
template <class T>
inline constexpr uint32_t kChunk = kPacks* kRow<T>;

/// Stores the part of a pack that lies before `count`.
template <class T>
__device__ __forceinline__ void store_before(T* out, uint32_t start, uint32_t count,
                                             const cuda::Pack<T, kElements<T>>& pack) {
  if (start + kElements<T> <= count) {
    cuda::store_pack(out + start, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < kElements<T>; ++i) {
    if (start + i < count) out[start + i] = pack.values[i];
  }
}

/// Each thread makes kPacks of kElements. draw(words, values) computes four elements from a block.
template <class T, class Draw, class Philox>
__global__ void __launch_bounds__(kThreads)
    random_dense(const Draw draw, const Philox stream, T* __restrict__ out, uint32_t count) {
  const auto first_block = stream.first();
  const uint32_t first = blockIdx.x * kChunk<T> + threadIdx.x * kElements<T>;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const uint32_t start = first + p * kRow<T>;
    cuda::computed_t<T> values[kElements<T>];
#pragma unroll
    for (int i = 0; i < kElements<T>; i += 4) {
      cuda::computed_t<T> four[4];
      draw(stream.block(first_block + (start + i) / 4), four);
#pragma unroll
      for (int k = 0; k < 4; ++k) values[i + k] = four[k];
    }
    store_before(out, start, count, cuda::packed<T>(values));
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
  draw(stream.block(stream.first() + block), values);
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

/// Calls launch(stream) with the stream of the fewest instructions for so many elements.
template <class Launch>
void launch_dense(const PhiloxStream& stream, int64_t count, Launch&& launch) {
  if (DensePhilox::takes(stream, count / 4 + 1)) {
    launch(DensePhilox(stream));
  } else {
    launch(stream);
  }
}

/// Threads of whom each block does so many elements.
cuda::LaunchShape shape_for(int64_t count, int64_t elements) {
  return {dim3(cuda::blocks_for(count, elements)), dim3(kThreads)};
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
          launch_dense(words, count, [&]<class Philox>(const Philox& philox) {
            cuda::launch(op, stream, shape_for(count, kChunk<T>), &random_dense<T, Draw, Philox>,
                         draw, philox, out, static_cast<uint32_t>(count));
          });
          return;
        }
        const Target target{cuda::index_map(part, 1), first, static_cast<uint32_t>(count)};
        cuda::launch(op, stream, shape_for(first % 4 + count, 4 * kThreads),
                     &random_strided<T, Draw>, draw, words, out, target);
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

/// Bound by arithmetic: four elements of a half type take about 147 instructions, 38 of them for
/// their words, so that an H100 (132 multiprocessors, each 4 instructions of a warp a clock) needs
/// 1.26 ps an element at 1.75 GHz, where writing its 2 bytes takes 0.66. In f32 writing takes as
/// long.
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

  __device__ __forceinline__ C operator()(C value, uint32_t word) const {
    return falls_below(word, threshold) ? C{0} : value * scale;
  }
};

/// Each thread takes kElements.
template <class T, class Philox>
__global__ void __launch_bounds__(kThreads)
    dropout_dense(const T* __restrict__ x, T* __restrict__ out, const Philox stream,
                  const Dropout<T> dropout, uint32_t count) {
  const uint32_t start = blockIdx.x * kRow<T> + threadIdx.x * kElements<T>;
  if (start >= count) return;
  const auto first_block = stream.first();
  cuda::Pack<T, kElements<T>> pack;
  if (start + kElements<T> <= count) {
    pack = cuda::load_pack<T, kElements<T>>(x + start);
  } else {
#pragma unroll
    for (int i = 0; i < kElements<T>; ++i) pack.values[i] = start + i < count ? x[start + i] : T{};
  }
  accumulator_t<T> values[kElements<T>];
  cuda::unpack(pack, values);
#pragma unroll
  for (int i = 0; i < kElements<T>; i += 4) {
    const auto words = stream.block(first_block + (start + i) / 4);
#pragma unroll
    for (int k = 0; k < 4; ++k) values[i + k] = dropout(values[i + k], words[k]);
  }
  store_before(out, start, count, cuda::packed<T>(values));
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
  const auto words = stream.block(stream.first() + block);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = start + i;
    if (at < 0 || at >= target.count) continue;
    const auto offsets = target.map.offsets(static_cast<uint32_t>(at));
    const auto value = cuda::element_as<accumulator_t<T>>(x[offsets.of[1]]);
    out[offsets.of[0]] = cuda::element_as<T>(dropout(value, words[i]));
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
            launch_dense(words, count, [&]<class Philox>(const Philox& philox) {
              cuda::launch("dropout", stream, shape_for(count, kRow<T>), &dropout_dense<T, Philox>,
                           from, to, philox, dropout, static_cast<uint32_t>(count));
            });
            return;
          }
          const DropoutTarget target{cuda::index_map(part, 1), first, static_cast<uint32_t>(count)};
          cuda::launch("dropout", stream, shape_for(first % 4 + count, 4 * kThreads),
                       &dropout_strided<T>, from, to, words, dropout, target);
        });
  });
}

}  // namespace weft

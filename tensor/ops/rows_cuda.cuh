#pragma once

// What CUDA kernels over rows share: 16-byte packs of elements, sums over the threads of a row, and
// a walk over a row that keeps it in registers where it fits. Results depend on shapes alone: every
// sum is taken in an order that no scheduling changes.
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#include "cuda/element.cuh"
#include "cuda/launch.cuh"

namespace weft::cuda {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// An element as the type it is computed in.
template <class T>
__device__ __forceinline__ computed_t<T> widen(T value) {
  return element_as<computed_t<T>>(value);
}

/// The inverse, rounded to nearest even.
template <class T>
__device__ __forceinline__ T narrow(computed_t<T> value) {
  return element_as<T>(value);
}

/// Elements in 16 bytes.
template <class T>
inline constexpr int kPackWidth = 16 / static_cast<int>(sizeof(T));

template <int kWidth, class T>
__device__ __forceinline__ Pack<T, kWidth> load_pack(const T* from) {
  return load_pack<T, kWidth>(from);
}

template <class T, int kWidth, class A>
__device__ __forceinline__ void widen_pack(const Pack<T, kWidth>& pack, A (&values)[kWidth]) {
#pragma unroll
  for (int k = 0; k < kWidth; ++k) values[k] = widen(pack.values[k]);
}

/// kWidth values of any floating type, as A, from an address aligned to all of them or, where they
/// take more than 16 bytes, to 16 bytes.
template <int kWidth, class A>
__device__ __forceinline__ void load_values(const A* from, A (&values)[kWidth]) {
  constexpr int kStep = kWidth < kPackWidth<A> ? kWidth : kPackWidth<A>;
#pragma unroll
  for (int k = 0; k < kWidth; k += kStep) {
    const auto pack = load_pack<kStep>(from + k);
#pragma unroll
    for (int j = 0; j < kStep; ++j) values[k + j] = pack.values[j];
  }
}

template <class T, int kWidth, class A>
__device__ __forceinline__ void store_values(T* to, const A (&values)[kWidth]) {
  Pack<T, kWidth> pack;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) pack.values[k] = narrow<T>(values[k]);
  store_pack(to, pack);
}

/// e^x to the precision of results stored as T.
template <class T>
__device__ __forceinline__ accumulator_t<T> exponential(accumulator_t<T> x) {
  if constexpr (std::is_same_v<T, double>) {
    return exp(x);
  } else if constexpr (std::is_same_v<T, float>) {
    return expf(x);
  } else {
    return __expf(x);
  }
}

/// Any trivially copyable value of 4 bytes or a multiple, in words that `move` takes one at a time.
template <class V, class Move>
__device__ __forceinline__ V move_words(V value, Move&& move) {
  static_assert(sizeof(V) % 4 == 0);
  uint32_t words[sizeof(V) / 4];
  memcpy(words, &value, sizeof value);
#pragma unroll
  for (uint32_t& word : words) word = move(word);
  memcpy(&value, words, sizeof value);
  return value;
}

/// The value of another lane.
template <class V>
__device__ __forceinline__ V shuffle(V value, int lane) {
  return move_words(value, [lane](uint32_t word) { return __shfl_sync(0xffffffffu, word, lane); });
}

/// That of the lane whose number differs by `mask`.
template <class V>
__device__ __forceinline__ V shuffle_xor(V value, int mask) {
  if constexpr (std::is_arithmetic_v<V>) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
  } else {
    return move_words(value,
                      [mask](uint32_t word) { return __shfl_xor_sync(0xffffffffu, word, mask); });
  }
}

struct Add {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a + b;
  }
};

/// The larger, or NaN where there is one; of zeros either.
struct KeepLarger {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    if constexpr (std::is_same_v<V, float>) {
      float larger;
      asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
      return larger;
    } else {
      return (b > a || b != b) ? b : a;
    }
  }
};

/// Combines the values of the kThreads threads of a row, a whole block, a warp or a part of one;
/// all of them get the result. `combine` is commutative. All lanes of a warp take part.
template <int kThreads, class V, class Combine>
__device__ __forceinline__ V combine_over(V value, Combine combine) {
  static_assert(kThreads % 32 == 0 || 32 % kThreads == 0);
#pragma unroll
  for (int mask = (kThreads < 32 ? kThreads : 32) / 2; mask > 0; mask /= 2)
    value = combine(value, shuffle_xor(value, mask));
  if constexpr (kThreads > 32) {
    constexpr int kWarps = kThreads / 32;
    __shared__ alignas(V) unsigned char memory[kWarps * sizeof(V)];
    V* const parts = reinterpret_cast<V*>(memory);
    __syncthreads();  // the parts of a call before have been read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = parts[threadIdx.x % kWarps];
#pragma unroll
    for (int mask = kWarps / 2; mask > 0; mask /= 2) {
      value = combine(value, shuffle_xor(value, mask));
    }
  }
  return value;
}

template <int kThreads, class V>
__device__ __forceinline__ V sum_over(V value) {
  return combine_over<kThreads>(value, Add());
}

template <class A>
inline constexpr A kMinusInfinity = -std::numeric_limits<A>::infinity();

/// The maximum of what was seen of a row, and the sum of e^(x - maximum).
template <class T>
struct Running {
  using A = accumulator_t<T>;
  A max = kMinusInfinity<A>;
  A sum = 0;

  template <int kWidth>
  __device__ __forceinline__ void take(const A (&values)[kWidth]) {
    A highest = max;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) highest = KeepLarger()(highest, values[k]);
    if (highest == kMinusInfinity<A>) return;
    if (highest != max) sum *= exponential<T>(max - highest);
    max = highest;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum += exponential<T>(values[k] - max);
  }

  /// Takes together what the threads of a row have seen.
  template <int kThreads>
  __device__ __forceinline__ void combine() {
    const A highest = combine_over<kThreads>(max, KeepLarger());
    if (highest != kMinusInfinity<A>) {
      if (highest != max)
        sum = max == kMinusInfinity<A> ? A(0) : sum * exponential<T>(max - highest);
      sum = sum_over<kThreads>(sum);
    }
    max = highest;
  }
};

/// How a row is shared out: kThreads threads take packs of kWidth elements in turn, and keep kPacks
/// of them each; with kPacks == 0 the row is of any length, and read again for every walk.
template <int kThreadCount, int kElements, int kKept>
struct RowShape {
  static constexpr int kThreads = kThreadCount;
  static constexpr int kWidth = kElements;
  static constexpr int kPacks = kKept;
  static constexpr int kBlockThreads = kThreads < 128 ? 128 : kThreads;
  static constexpr int kRowsPerBlock = kBlockThreads / kThreads;

  static __device__ __forceinline__ int thread() {
    return static_cast<int>(threadIdx.x) % kThreads;
  }
  static __device__ __forceinline__ int64_t row() {
    return static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kThreads;
  }
  static unsigned blocks(int64_t rows) {
    return static_cast<unsigned>(ceil_div(rows, kRowsPerBlock));
  }
};

/// kInputs rows of the same length that are walked together.
template <class T, class RowShape, int kInputs>
class RowReader {
 public:
  using A = accumulator_t<T>;
  static constexpr int kWidth = RowShape::kWidth;
  static constexpr int kPacks = RowShape::kPacks;
  static constexpr int kThreads = RowShape::kThreads;

  __device__ RowReader(const T* const (&rows)[kInputs], int64_t length) : length_(length) {
#pragma unroll
    for (int input = 0; input < kInputs; ++input) {
      rows_[input] = rows[input];
      if constexpr (kPacks > 0) {
#pragma unroll
        for (int p = 0; p < kPacks; ++p) {
          const int64_t i = first() + p * kStep;
          if (i < length_) kept_[input][p] = load_pack<kWidth>(rows_[input] + i);
        }
      }
    }
  }

  /// Calls body(i, values) for the packs of this thread: values[input][k] is element i + k. A body
  /// of three arguments gets the number of the pack as well, where packs are kept.
  template <class Body>
  __device__ __forceinline__ void for_each(Body&& body) const {
    if constexpr (kPacks > 0) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int64_t i = first() + p * kStep;
        if (i < length_) call(body, i, p, kept_);
      }
    } else {
      for (int64_t i = first(); i < length_; i += kBatch * kStep) {
        Pack<T, kWidth> batch[kInputs][kBatch];
#pragma unroll
        for (int p = 0; p < kBatch; ++p) {
#pragma unroll
          for (int input = 0; input < kInputs; ++input) {
            if (i + p * kStep < length_) {
              batch[input][p] = load_pack<kWidth>(rows_[input] + i + p * kStep);
            }
          }
        }
#pragma unroll
        for (int p = 0; p < kBatch; ++p) {
          if (i + p * kStep < length_) call(body, i + p * kStep, p, batch);
        }
      }
    }
  }

  /// Adds `other` to the row, which is then the sum, rounded to T and written to `sum` as well.
  __device__ void add(const T* other, T* sum) {
    static_assert(kInputs == 1);
    const auto add_pack = [&](int64_t i, Pack<T, kWidth>& pack, const Pack<T, kWidth>& added) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        pack.values[k] = narrow<T>(widen(pack.values[k]) + widen(added.values[k]));
      }
      store_pack(sum + i, pack);
    };
    if constexpr (kPacks > 0) {
      // All are on their way together where there are registers for that.
      constexpr int kAhead = kThreads < 1024 ? kPacks : 1;
      Pack<T, kWidth> added[kAhead];
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        if (p % kAhead == 0) {
#pragma unroll
          for (int q = 0; q < kAhead; ++q) {
            const int64_t i = first() + (p + q) * kStep;
            if (i < length_) added[q] = load_pack<kWidth>(other + i);
          }
        }
        const int64_t i = first() + p * kStep;
        if (i < length_) add_pack(i, kept_[0][p], added[p % kAhead]);
      }
    } else {
      for (int64_t i = first(); i < length_; i += kStep) {
        auto pack = load_pack<kWidth>(rows_[0] + i);
        add_pack(i, pack, load_pack<kWidth>(other + i));
      }
      rows_[0] = sum;  // each thread reads what it has written
    }
  }

 private:
  static constexpr int64_t kStep = int64_t{kThreads} * kWidth;
  static constexpr int kBatch = kInputs == 1 ? 4 : 2;

  static __device__ __forceinline__ int64_t first() {
    return int64_t{RowShape::thread()} * kWidth;
  }
  template <class Body, class Packs>
  static __device__ __forceinline__ void call(Body& body, int64_t i, int p, const Packs& packs) {
    A values[kInputs][kWidth];
#pragma unroll
    for (int input = 0; input < kInputs; ++input) widen_pack(packs[input][p], values[input]);
    if constexpr (std::is_invocable_v<Body&, int64_t, A(&)[kInputs][kWidth], int>) {
      body(i, values, p);
    } else {
      body(i, values);
    }
  }

  const T* rows_[kInputs];
  int64_t length_;
  Pack<T, kWidth> kept_[kInputs][kPacks > 0 ? kPacks : 1];
};

inline bool is_aligned(const void* pointer, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride_bytes % 16 == 0;
}

/// Whether rows [R, N] of each tensor can be walked in 16-byte packs. Undefined tensors can.
template <class... Tensors>
bool rows_are_aligned(const Tensors&... tensors) {
  const auto check = [](const Tensor& tensor) {
    if (!tensor.defined()) return true;
    const auto bytes = static_cast<int64_t>(size_of(tensor.dtype()));
    return is_aligned(tensor.raw_data(), tensor.strides()[0] * bytes) &&
           tensor.size(1) * bytes % 16 == 0;
  };
  return (check(tensors) && ...);
}

/// Rows of up to so many elements, aligned to 16 bytes, are kept in registers.
template <class T>
inline constexpr int64_t kMostKept = 4096 * kPackWidth<T>;

/// Calls body.template operator()<RowShape>() with the shape that suits kInputs rows of this length
/// that are walked together: threads have several loads in flight, few of them idle, and registers
/// enough that several blocks share a multiprocessor.
template <class T, int kInputs = 1, class Body>
void dispatch_row_shape(int64_t length, bool aligned, Body&& body) {
  if constexpr (!std::is_same_v<T, double>) {
    constexpr int kWidth = kPackWidth<T>;
    if (aligned) {
      if (length <= 32 * kWidth) return body.template operator()<RowShape<32, kWidth, 1>>();
      if (length <= 128 * kWidth) return body.template operator()<RowShape<32, kWidth, 4>>();
      if (length <= 256 * kWidth) {
        using Shape =
            std::conditional_t<kInputs == 1, RowShape<32, kWidth, 8>, RowShape<128, kWidth, 2>>;
        return body.template operator()<Shape>();
      }
      if (length <= 512 * kWidth) return body.template operator()<RowShape<256, kWidth, 2>>();
      if (length <= 1024 * kWidth) return body.template operator()<RowShape<256, kWidth, 4>>();
      if (length <= 2048 * kWidth) return body.template operator()<RowShape<512, kWidth, 4>>();
      if (length <= kMostKept<T>) return body.template operator()<RowShape<1024, kWidth, 4>>();
      return body.template operator()<RowShape<1024, kWidth, 0>>();
    }
  }
  if (length <= 1024) return body.template operator()<RowShape<32, 1, 0>>();
  return body.template operator()<RowShape<256, 1, 0>>();
}

}  // namespace weft::cuda

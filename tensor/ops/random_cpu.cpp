#include <cmath>
#include <numbers>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/random_kernels.h"

namespace weft {
namespace {

constexpr int64_t kBlocksPerTask = 1024;

/// Calls write(i, words, lane) for every element i, with the Philox block that it draws from.
template <class Write>
void for_each_element(int64_t count, GeneratorState state, Write&& write) {
  parallel_for(0, (count + 3) / 4, kBlocksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const auto words = philox4x32(state.seed, state.offset + static_cast<uint64_t>(block));
      const int64_t last = std::min(count, 4 * block + 4);
      for (int64_t i = 4 * block; i < last; ++i)
        write(i, words, static_cast<size_t>(i - 4 * block));
    }
  });
}

}  // namespace

void uniform_cpu(Tensor& out, double low, double high, GeneratorState state, Stream /*stream*/) {
  dispatch_floating(out.dtype(), "uniform_", [&]<class T>() {
    T* const to = out.data<T>();
    for_each_element(out.numel(), state, [=](int64_t i, const auto& words, size_t lane) {
      if constexpr (std::is_same_v<T, double>) {
        to[i] = low + (high - low) * (words[lane] * 0x1p-32);
      } else {
        const float unit = static_cast<float>(words[lane] >> 8) * 0x1p-24f;
        to[i] = T(static_cast<float>(low) + static_cast<float>(high - low) * unit);
      }
    });
  });
}

void normal_cpu(Tensor& out, double mean, double std, GeneratorState state, Stream /*stream*/) {
  dispatch_floating(out.dtype(), "normal_", [&]<class T>() {
    T* const to = out.data<T>();
    for_each_element(out.numel(), state, [=](int64_t i, const auto& words, size_t lane) {
      const size_t pair = lane & ~size_t{1};
      const double radius = std::sqrt(-2.0 * std::log((words[pair] + 1.0) * 0x1p-32));
      const double angle = 2 * std::numbers::pi * (words[pair + 1] * 0x1p-32);
      const double value = mean + std * radius * (lane == pair ? std::cos(angle) : std::sin(angle));
      if constexpr (std::is_same_v<T, double>) {
        to[i] = value;
      } else {
        to[i] = T(static_cast<float>(value));
      }
    });
  });
}

void randint_cpu(Tensor& out, int64_t low, int64_t high, GeneratorState state, Stream /*stream*/) {
  const uint64_t range = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  const auto fill = [&]<class T>() {
    T* const to = out.data<T>();
    for_each_element(out.numel(), state, [=](int64_t i, const auto& words, size_t lane) {
      // range <= 2^32, so the product fits in 64 bits, apart from range = 2^32, where the word
      // itself is the answer.
      const uint64_t offset = range >> 32 ? words[lane] : words[lane] * range >> 32;
      to[i] = static_cast<T>(low + static_cast<int64_t>(offset));
    });
  };
  if (out.dtype() == DType::u8) {
    fill.template operator()<uint8_t>();
  } else {
    dispatch_index(out.dtype(), "randint", fill);
  }
}

void bernoulli_cpu(Tensor& out, double p, GeneratorState state, Stream /*stream*/) {
  bool* const to = out.data<bool>();
  for_each_element(out.numel(), state, [=](int64_t i, const auto& words, size_t lane) {
    to[i] = words[lane] * 0x1p-32 < p;
  });
}

}  // namespace weft

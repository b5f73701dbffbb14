#include <algorithm>
#include <cmath>
#include <vector>

#include "weft/tensor/dispatch.h"

#include "ops/elementwise.h"
#include "ops/philox_run.h"
#include "ops/random_kernels.h"
#include "ops/random_math.h"

namespace weft {
namespace {

/// The words of `count` elements from position `begin`, a multiple of kBlock, on.
struct Words {
  alignas(64) uint32_t values[kBlock];

  Words(GeneratorState state, int64_t begin, int64_t count) {
    philox_run(state.seed, state.offset + static_cast<uint64_t>(begin) / 4, (count + 3) / 4,
               values);
  }
};

/// Fills `tensor`, whose elements are computed as C, with block(words, out, count) on all threads.
template <class C, class Block>
void fill_blocks(Tensor& tensor, GeneratorState state, Block&& block) {
  map_blocks(
      tensor.numel(),
      [&](int64_t begin, C* out, int64_t count) {
        const Words words(state, begin, count);
        block(words.values, out, count);
      },
      BlockWriter<C>(tensor));
}

}  // namespace

void uniform_cpu(Tensor& tensor, double low, double high, GeneratorState state, Stream /*stream*/) {
  dispatch_floating(tensor.dtype(), "uniform_", [&]<class T>() {
    using C = accumulator_t<T>;
    const C start = static_cast<C>(low);
    const C width = static_cast<C>(high - low);
    fill_blocks<C>(tensor, state, [=](const uint32_t* words, C* out, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        out[i] = std::fma(width, static_cast<C>(unit_float(words[i])), start);
    });
  });
}

void normal_cpu(Tensor& tensor, double mean, double std, GeneratorState state, Stream /*stream*/) {
  dispatch_floating(tensor.dtype(), "normal_", [&]<class T>() {
    using C = accumulator_t<T>;
    const C center = static_cast<C>(mean);
    const C scale = static_cast<C>(std);
    fill_blocks<C>(tensor, state, [=](const uint32_t* words, C* out, int64_t count) {
      alignas(64) float z[kBlock];
      const int64_t pairs = (count + 1) / 2;  // the words of an odd last pair are there
      for (int64_t i = 0; i < pairs; ++i)
        normal_pair(words[2 * i], words[2 * i + 1], z[2 * i], z[2 * i + 1]);
      for (int64_t i = 0; i < count; ++i) out[i] = std::fma(scale, static_cast<C>(z[i]), center);
    });
  });
}

void bernoulli_cpu(Tensor& tensor, double p, GeneratorState state, Stream /*stream*/) {
  const uint32_t threshold = threshold_of(p);
  dispatch_all(tensor.dtype(), "bernoulli_", [&]<class T>() {
    using C = std::conditional_t<std::is_same_v<T, bool>, uint8_t, computed_t<T>>;
    fill_blocks<C>(tensor, state, [=](const uint32_t* words, C* out, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        out[i] = static_cast<C>(falls_below(words[i], threshold) ? 1 : 0);
    });
  });
}

void randint_cpu(Tensor& tensor, int64_t low, int64_t range, GeneratorState state,
                 Stream /*stream*/) {
  const auto first = static_cast<uint64_t>(low);
  const auto width = static_cast<uint64_t>(range);
  dispatch_numeric(tensor.dtype(), "randint_", [&]<class T>() {
    if constexpr (std::is_integral_v<T>) {
      fill_blocks<T>(tensor, state, [=](const uint32_t* words, T* out, int64_t count) {
        for (int64_t i = 0; i < count; ++i)
          out[i] = static_cast<T>(first + ((words[i] * width) >> 32));
      });
    }
  });
}

void permutation_cpu(Tensor& tensor, GeneratorState state, Stream /*stream*/) {
  struct Item {
    uint64_t key;
    int64_t index;
  };
  const int64_t n = tensor.numel();
  std::vector<Item> items(static_cast<size_t>(n));
  constexpr int64_t kKeys = kBlock / 2;  // two words each
  for (int64_t begin = 0; begin < n; begin += kKeys) {
    const int64_t count = std::min(kKeys, n - begin);
    const Words words(state, 2 * begin, 2 * count);
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t low = words.values[2 * i];
      const uint64_t high = words.values[2 * i + 1];
      items[static_cast<size_t>(begin + i)] = {high << 32 | low, begin + i};
    }
  }
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.key != b.key ? a.key < b.key : a.index < b.index;
  });
  int64_t* const out = tensor.data<int64_t>();
  for (int64_t i = 0; i < n; ++i) out[i] = items[static_cast<size_t>(i)].index;
}

void dropout_cpu(const Tensor& x, double p, GeneratorState state, Tensor& out, Stream /*stream*/) {
  const uint32_t threshold = threshold_of(p);
  dispatch_floating(x.dtype(), "dropout", [&]<class T>() {
    using C = accumulator_t<T>;
    const C scale = static_cast<C>(1.0 / (1.0 - p));
    map_blocks(
        x.numel(),
        [state, threshold, scale](int64_t begin, const C* in, C* result, int64_t count) {
          const Words words(state, begin, count);
          const C factor = scale;  // a local copy, which the stores below cannot change
          WEFT_INDEPENDENT_ITERATIONS
          for (int64_t i = 0; i < count; ++i)
            result[i] = falls_below(words.values[i], threshold) ? C{0} : in[i] * factor;
        },
        BlockWriter<C>(out), BlockReader<C>(x));
  });
}

}  // namespace weft

#include <algorithm>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/dropout_kernels.h"

namespace weft {

void dropout_cpu(const Tensor& x, Tensor& out, double p, GeneratorState state, Stream /*stream*/) {
  constexpr int64_t kBlocksPerTask = 1024;
  dispatch_floating(x.dtype(), "dropout", [&]<class T>() {
    using A = accumulator_t<T>;
    const T* const from = x.data<T>();
    T* const to = out.data<T>();
    const int64_t count = x.numel();
    const A scale = static_cast<A>(1.0 / (1.0 - p));
    parallel_for(0, (count + 3) / 4, kBlocksPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const auto words = philox4x32(state.seed, state.offset + static_cast<uint64_t>(block));
        const int64_t last = std::min(count, 4 * block + 4);
        for (int64_t i = 4 * block; i < last; ++i) {
          const bool kept = words[static_cast<size_t>(i - 4 * block)] * 0x1p-32 >= p;
          to[i] = kept ? T(static_cast<A>(from[i]) * scale) : T(A(0));
        }
      }
    });
  });
}

}  // namespace weft

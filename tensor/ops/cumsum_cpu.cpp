#include <algorithm>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/cumsum_kernels.h"
#include "ops/strided.h"

namespace weft {
namespace {

constexpr int64_t kColumns = 64;

template <class T, class Out>
void cumsum_typed(const Tensor& x, Tensor& y, bool exclusive, bool reverse) {
  using Total = std::conditional_t<std::is_same_v<Out, int64_t>, uint64_t, double>;
  using Wide = std::conditional_t<std::is_same_v<Out, int64_t>, int64_t, accumulator_t<Out>>;
  const int64_t length = x.size(1);
  const int64_t inner = x.size(2);
  const int64_t first = reverse ? length - 1 : 0;
  const int64_t step = reverse ? -inner : inner;
  const int64_t blocks = (inner + kColumns - 1) / kColumns;
  const int64_t cost = length * std::min(inner, kColumns);
  parallel_for(0, x.size(0) * blocks, std::max<int64_t>(1, kElementwiseGrain / cost),
               [&](int64_t begin, int64_t end) {
                 Total totals[kColumns];
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t column = unit % blocks * kColumns;
                   const int64_t width = std::min(kColumns, inner - column);
                   const int64_t offset = (unit / blocks * length + first) * inner + column;
                   const T* in = x.data<T>() + offset;
                   Out* out = y.data<Out>() + offset;
                   const auto run = [&](int64_t columns) {
                     for (int64_t row = 0; row < length; ++row, in += step, out += step) {
                       for (int64_t i = 0; i < columns; ++i) {
                         const Total before = totals[i];
                         totals[i] += static_cast<Total>(static_cast<Wide>(in[i]));
                         out[i] = Out(static_cast<Wide>(exclusive ? before : totals[i]));
                       }
                     }
                   };
                   std::fill_n(totals, width, Total(0));
                   if (width == 1) {
                     run(1);  // the running sum stays in a register
                   } else {
                     run(width);
                   }
                 }
               });
}

}  // namespace

void cumsum_cpu(const Tensor& x, Tensor& y, bool exclusive, bool reverse, Stream /*stream*/) {
  dispatch_all(x.dtype(), "cumsum", [&]<class T>() {
    using Out = std::conditional_t<is_floating(dtype_of<T>), T, int64_t>;
    cumsum_typed<T, Out>(x, y, exclusive, reverse);
  });
}

}  // namespace weft

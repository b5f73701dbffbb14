#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/rotary_embedding_kernels.h"

namespace weft::attention {
namespace {

template <class T>
void rotate_heads(const Tensor& x, T* row, const accumulator_t<T>* table, bool inverse) {
  using A = accumulator_t<T>;
  const int64_t half = x.size(3) / 2;
  const A* const cosine = table;
  const A* const sine = table + half;
  const A sign = inverse ? A(-1) : A(1);
  for (int64_t h = 0; h < x.size(2); ++h, row += x.stride(2)) {
    T* const low = row;
    T* const high = row + half;
#pragma GCC ivdep
    for (int64_t i = 0; i < half; ++i) {
      const A a = static_cast<A>(low[i]), b = static_cast<A>(high[i]);
      const A c = cosine[i], s = sign * sine[i];
      low[i] = static_cast<T>(a * c - b * s);
      high[i] = static_cast<T>(a * s + b * c);
    }
  }
}

}  // namespace

void rotary_embedding_cpu(Tensor& x, const Tensor& table, bool inverse, Stream /*stream*/) {
  dispatch_floating(x.dtype(), "rotary_embedding_", [&]<class T>() {
    using A = accumulator_t<T>;
    T* const data = x.data<T>();
    const A* const angles = table.data<A>();
    const int64_t rows = x.size(1), width = x.size(2) * x.size(3);
    parallel_for(0, x.size(0) * rows, std::max<int64_t>(1, 8192 / width),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t b = i / rows, t = i % rows;
                     rotate_heads(x, data + b * x.stride(0) + t * x.stride(1),
                                  angles + t * x.size(3), inverse);
                   }
                 });
  });
}

}  // namespace weft::attention

#include <cstring>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/rope_kernels.h"
#include "ops/rows.h"
#include "ops/simd.h"

namespace weft {
namespace {

using simd::load;
using simd::store;

template <class T>
struct RopeLoop {
  using A = accumulator_t<T>;
  int64_t begin, half, channels;
  A sign;  // of the sines

  /// One head of one token. `in` and `out` are equal or apart.
  void turn(const T* in, T* out, const A* cosines) const {
    const A* const sines = cosines + half;
    if (out != in) {
      if (begin > 0) std::memcpy(out, in, static_cast<size_t>(begin) * sizeof(T));
      const int64_t end = begin + 2 * half;
      if (end < channels) {
        std::memcpy(out + end, in + end, static_cast<size_t>(channels - end) * sizeof(T));
      }
    }
    const T* const low = in + begin;
    const T* const high = low + half;
    T* const out_low = out + begin;
    T* const out_high = out_low + half;
    simd::for_each_vector<A>(half, [&](int64_t i, auto lanes, auto) {
      const auto c = load(cosines + i, lanes);
      const auto s = load(sines + i, lanes) * sign;
      const auto a = load(low + i, lanes);
      const auto b = load(high + i, lanes);
      store(out_low + i, a * c - b * s, lanes);
      store(out_high + i, b * c + a * s, lanes);
    });
  }
};

template <class T>
void rope_typed(RopeParams& params) {
  using A = accumulator_t<T>;
  const Tensor& x = params.x;
  const int64_t tokens = x.size(1);
  const int64_t heads = x.size(2);
  const RopeLoop<T> loop{.begin = params.begin,
                         .half = params.table.size(1) / 2,
                         .channels = x.size(3),
                         .sign = params.inverse ? A(-1) : A(1)};
  const Strides& in_strides = x.strides();
  const Strides& out_strides = params.out.strides();
  const T* const in = x.data<T>();
  T* const out = params.out.data<T>();
  const A* const table = params.table.data<A>();
  const int64_t* const rows = params.rows.defined() ? params.rows.data<int64_t>() : nullptr;
  const Strides row_strides = rows == nullptr ? Strides{0, 0} : params.rows.strides();
  parallel_for(
      0, x.size(0) * tokens, row_grain(heads * x.size(3)), [&](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; ++token) {
          const int64_t b = token / tokens;
          const int64_t t = token % tokens;
          const int64_t row = rows == nullptr ? params.first_row + t
                                              : rows[b * row_strides[0] + t * row_strides[1]];
          const A* const cosines = table + row * 2 * loop.half;
          const T* from = in + b * in_strides[0] + t * in_strides[1];
          T* to = out + b * out_strides[0] + t * out_strides[1];
          for (int64_t head = 0; head < heads; ++head) {
            loop.turn(from, to, cosines);
            from += in_strides[2];
            to += out_strides[2];
          }
        }
      });
}

}  // namespace

void rope_cpu(RopeParams& params, Stream /*stream*/) {
  dispatch_floating(params.x.dtype(), "rope", [&]<class T>() { rope_typed<T>(params); });
}

}  // namespace weft

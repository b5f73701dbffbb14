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

/// The heads of one token: vectors of T, `step` apart.
template <class T>
struct Heads {
  T* first;
  int64_t step;
};

template <class T>
struct RopeLoop {
  using A = accumulator_t<T>;
  int64_t begin, half, channels, heads;
  A sign;  // of the sines

  /// All heads of one token; each pair of angles is loaded once. `in` and `out` are equal or apart.
  void turn(Heads<const T> in, Heads<T> out, const A* cosines) const {
    if (out.first != in.first) copy_the_rest(in, out);
    const A* const sines = cosines + half;
    simd::for_each_vector<A>(half, [&](int64_t i, auto lanes, auto) {
      const auto c = load(cosines + i, lanes);
      const auto s = load(sines + i, lanes) * sign;
      const T* low = in.first + begin + i;
      T* to = out.first + begin + i;
      for (int64_t head = 0; head < heads; ++head) {
        const auto a = load(low, lanes);
        const auto b = load(low + half, lanes);
        store(to, a * c - b * s, lanes);
        store(to + half, b * c + a * s, lanes);
        low += in.step;
        to += out.step;
      }
    });
  }

 private:
  /// The channels that do not turn.
  void copy_the_rest(Heads<const T> in, Heads<T> out) const {
    const auto copy = [&](int64_t from, int64_t to) {
      if (from == to) return;
      for (int64_t head = 0; head < heads; ++head) {
        std::memcpy(static_cast<void*>(out.first + head * out.step + from),
                    in.first + head * in.step + from, static_cast<size_t>(to - from) * sizeof(T));
      }
    };
    copy(0, begin);
    copy(begin + 2 * half, channels);
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
                         .heads = heads,
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
          const int64_t row = rows == nullptr ? params.first_row + t * params.row_step
                                              : rows[b * row_strides[0] + t * row_strides[1]];
          const A* const cosines = table + row * 2 * loop.half;
          loop.turn({in + b * in_strides[0] + t * in_strides[1], in_strides[2]},
                    {out + b * out_strides[0] + t * out_strides[1], out_strides[2]}, cosines);
        }
      });
}

}  // namespace

void rope_cpu(RopeParams& params, Stream /*stream*/) {
  dispatch_floating(params.x.dtype(), "rope", [&]<class T>() { rope_typed<T>(params); });
}

}  // namespace weft

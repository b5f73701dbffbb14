// A row is read for its maximum, then in blocks that stay in the L1 cache for the powers and their
// sum, then scaled. Powers of f32 and f64 wait in the result, those of the half types in a row of
// floats of the thread's own, so that each is computed once.
#include <cmath>
#include <limits>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/rows.h"
#include "ops/simd.h"
#include "ops/softmax_kernels.h"
#include "ops/vector_math.h"

namespace weft {
namespace {

using simd::for_each_vector;
using simd::load;
using simd::store;

constexpr int64_t kBlock = 1024;

template <class A>
constexpr A kMinusInfinity = -std::numeric_limits<A>::infinity();

/// e^x for x <= 0, with 0 instead of subnormal results, which are slow to make and to multiply by.
template <class A>
inline A power(A x) {
  constexpr A kLowest = std::is_same_v<A, double> ? A(-708) : A(-87);
  const A bounded = x < kLowest ? kLowest : x;
  const A result = vexp(bounded);
  return x < kLowest ? A(0) : result;
}

/// The largest element, or NaN where there is one.
template <class T>
accumulator_t<T> largest(const T* x, int64_t length) {
  using A = accumulator_t<T>;
  const auto keep = [](auto& best, const auto& value) {
    best = ((value > best) | (value != value)) ? value : best;
  };
  simd::Vec<A> best[simd::kUnroll];
  for (auto& lanes : best) lanes = simd::broadcast(kMinusInfinity<A>);
  constexpr int64_t kStep = simd::kUnroll * simd::kLanes<A>;
  int64_t i = 0;
  for (; i + kStep <= length; i += kStep) {
    for (int part = 0; part < simd::kUnroll; ++part)
      keep(best[part], load(x + i + part * simd::kLanes<A>));
  }
  for (; i + simd::kLanes<A> <= length; i += simd::kLanes<A>) keep(best[0], load(x + i));
  for (int part = 1; part < simd::kUnroll; ++part) keep(best[0], best[part]);
  A result = kMinusInfinity<A>;
  for (int lane = 0; lane < simd::kLanes<A>; ++lane) {
    const A value = best[0][lane];
    keep(result, value);
  }
  for (; i < length; ++i) keep(result, static_cast<A>(x[i]));
  return result;
}

/// Writes e^(x - shift) to `powers`, which may be x itself, and adds it to `sums`.
template <class T>
void exponentiate(const T* x, accumulator_t<T> shift, int64_t length, accumulator_t<T>* powers,
                  simd::Accumulators<accumulator_t<T>>& sums) {
  using A = accumulator_t<T>;
  for (int64_t begin = 0; begin < length; begin += kBlock) {
    const int64_t count = std::min(kBlock, length - begin);
    A* const out = powers + begin;
    for_each_vector<A>(count, [&](int64_t i, auto lanes, auto) {
      store(out + i, load(x + begin + i, lanes) - shift, lanes);
    });
    for (int64_t i = 0; i < count; ++i) out[i] = power(out[i]);
    for_each_vector<A>(
        count, [&](int64_t i, auto lanes, auto slot) { sums.part[slot] += load(out + i, lanes); });
  }
}

template <class T>
void forward(const Tensor& x, Tensor& y, bool log) {
  using A = accumulator_t<T>;
  const int64_t length = x.size(1);
  const int64_t stride = x.strides()[0];
  const T* const from = x.data<T>();
  T* const to = y.data<T>();
  parallel_for(0, x.size(0), row_grain(length), [&](int64_t begin, int64_t end) {
    constexpr bool kInPlace = std::is_same_v<T, A>;
    std::vector<A> scratch;
    if (!kInPlace || log) scratch.resize(static_cast<size_t>(log ? kBlock : length));
    for (int64_t row = begin; row < end; ++row) {
      const T* const in = from + row * stride;
      T* const out = to + row * length;
      const A shift = largest(in, length);
      if (shift == kMinusInfinity<A>) {
        std::fill_n(out, length, T(log ? shift : A(0)));
        continue;
      }
      simd::Accumulators<A> sums;
      if (log) {
        for (int64_t first = 0; first < length; first += kBlock)
          exponentiate(in + first, shift, std::min(kBlock, length - first), scratch.data(), sums);
        const A offset = std::log(sums.sum());
        for_each_vector<A>(length, [&](int64_t i, auto lanes, auto) {
          store(out + i, load(in + i, lanes) - shift - offset, lanes);
        });
      } else {
        A* powers = scratch.data();
        if constexpr (kInPlace) powers = out;
        exponentiate(in, shift, length, powers, sums);
        const A scale = A(1) / sums.sum();
        for_each_vector<A>(length, [&](int64_t i, auto lanes, auto) {
          store(out + i, load(powers + i, lanes) * scale, lanes);
        });
      }
    }
  });
}

template <class T>
void backward(const Tensor& dy, const Tensor& y, Tensor& dx) {
  using A = accumulator_t<T>;
  const int64_t length = y.size(1);
  parallel_for(0, y.size(0), row_grain(length), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* const grad = dy.data<T>() + row * dy.strides()[0];
      const T* const value = y.data<T>() + row * y.strides()[0];
      T* const out = dx.data<T>() + row * length;
      simd::Accumulators<A> products;
      for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
        products.part[slot] += load(grad + i, lanes) * load(value + i, lanes);
      });
      const A product = products.sum();
      for_each_vector<A>(length, [&](int64_t i, auto lanes, auto) {
        store(out + i, load(value + i, lanes) * (load(grad + i, lanes) - product), lanes);
      });
    }
  });
}

template <class T>
void log_backward(const Tensor& dy, const Tensor& y, Tensor& dx) {
  using A = accumulator_t<T>;
  const int64_t length = y.size(1);
  parallel_for(0, y.size(0), row_grain(length), [&](int64_t begin, int64_t end) {
    alignas(64) A powers[kBlock];
    for (int64_t row = begin; row < end; ++row) {
      const T* const grad = dy.data<T>() + row * dy.strides()[0];
      const T* const value = y.data<T>() + row * y.strides()[0];
      T* const out = dx.data<T>() + row * length;
      if (largest(value, length) == kMinusInfinity<A>) {
        std::fill_n(out, length, T(A(0)));
        continue;
      }
      simd::Accumulators<A> sums;
      for_each_vector<A>(length, [&](int64_t i, auto lanes, auto slot) {
        sums.part[slot] += load(grad + i, lanes);
      });
      const A total = sums.sum();
      for (int64_t first = 0; first < length; first += kBlock) {
        const int64_t count = std::min(kBlock, length - first);
        simd::Accumulators<A> ignored;
        exponentiate(value + first, A(0), count, powers, ignored);
        for_each_vector<A>(count, [&](int64_t i, auto lanes, auto) {
          store(out + first + i, load(grad + first + i, lanes) - load(powers + i, lanes) * total,
                lanes);
        });
      }
    }
  });
}

// Along another axis than the last, whole pieces of rows are taken at once, so that the columns are
// neighbours in a vector. Powers are computed twice instead of being kept.

constexpr int64_t kColumns = 64;

/// `count` elements as the type of the computation: where they lie, or converted into `buffer`.
template <class T>
const accumulator_t<T>* read(const T* from, int64_t count, accumulator_t<T>* buffer) {
  if constexpr (std::is_same_v<T, accumulator_t<T>>) {
    return from;
  } else {
    for_each_vector<float>(count, [&](int64_t i, auto lanes, auto) {
      store(buffer + i, load(from + i, lanes), lanes);
    });
    return buffer;
  }
}

template <class T>
void write(const accumulator_t<T>* from, int64_t count, T* to) {
  for_each_vector<accumulator_t<T>>(
      count, [&](int64_t i, auto lanes, auto) { store(to + i, load(from + i, lanes), lanes); });
}

/// Calls body(offset, width) for blocks of columns of a dense [outer, length, inner].
template <class Body>
void for_each_column_block(const Tensor& x, Body&& body) {
  const int64_t length = x.size(1);
  const int64_t inner = x.size(2);
  const int64_t blocks = (inner + kColumns - 1) / kColumns;
  parallel_for(0, x.size(0) * blocks, row_grain(length * std::min(inner, kColumns)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t column = unit % blocks * kColumns;
                   body(unit / blocks * length * inner + column,
                        std::min(kColumns, inner - column));
                 }
               });
}

template <class T>
void forward_columns(const Tensor& x, Tensor& y, bool log) {
  using A = accumulator_t<T>;
  const int64_t length = x.size(1);
  const int64_t inner = x.size(2);
  for_each_column_block(x, [&](int64_t offset, int64_t width) {
    const T* const from = x.data<T>() + offset;
    T* const to = y.data<T>() + offset;
    alignas(64) A buffer[kColumns], shift[kColumns], sum[kColumns], scale[kColumns], out[kColumns];
    std::fill_n(shift, width, kMinusInfinity<A>);
    std::fill_n(sum, width, A(0));
    for (int64_t row = 0; row < length; ++row) {
      const A* const in = read(from + row * inner, width, buffer);
      for (int64_t i = 0; i < width; ++i)
        shift[i] = ((in[i] > shift[i]) | (in[i] != in[i])) ? in[i] : shift[i];
    }
    for (int64_t i = 0; i < width; ++i) shift[i] = shift[i] == kMinusInfinity<A> ? A(0) : shift[i];
    for (int64_t row = 0; row < length; ++row) {
      const A* const in = read(from + row * inner, width, buffer);
      for (int64_t i = 0; i < width; ++i) sum[i] += power(in[i] - shift[i]);
    }
    // A sum of 0 means that all were -infinity.
    for (int64_t i = 0; i < width; ++i) {
      scale[i] = sum[i] == 0 ? A(0) : A(1) / sum[i];
      sum[i] = sum[i] == 0 ? A(0) : std::log(sum[i]);
    }
    for (int64_t row = 0; row < length; ++row) {
      const A* const in = read(from + row * inner, width, buffer);
      if (log) {
        for (int64_t i = 0; i < width; ++i) out[i] = in[i] - shift[i] - sum[i];
      } else {
        for (int64_t i = 0; i < width; ++i) out[i] = power(in[i] - shift[i]) * scale[i];
      }
      write(out, width, to + row * inner);
    }
  });
}

template <class T>
void backward_columns(const Tensor& dy, const Tensor& y, Tensor& dx, bool log) {
  using A = accumulator_t<T>;
  const int64_t length = y.size(1);
  const int64_t inner = y.size(2);
  for_each_column_block(y, [&](int64_t offset, int64_t width) {
    const T* const grads = dy.data<T>() + offset;
    const T* const values = y.data<T>() + offset;
    T* const to = dx.data<T>() + offset;
    alignas(64) A grad_buffer[kColumns], value_buffer[kColumns], sum[kColumns], out[kColumns];
    alignas(64) A seen[kColumns];  // 0 where all y are -infinity
    std::fill_n(sum, width, A(0));
    std::fill_n(seen, width, A(log ? 0 : 1));
    for (int64_t row = 0; row < length; ++row) {
      const A* const grad = read(grads + row * inner, width, grad_buffer);
      const A* const value = read(values + row * inner, width, value_buffer);
      if (log) {
        for (int64_t i = 0; i < width; ++i) {
          sum[i] += grad[i];
          seen[i] = value[i] == kMinusInfinity<A> ? seen[i] : A(1);
        }
      } else {
        for (int64_t i = 0; i < width; ++i) sum[i] += grad[i] * value[i];
      }
    }
    for (int64_t row = 0; row < length; ++row) {
      const A* const grad = read(grads + row * inner, width, grad_buffer);
      const A* const value = read(values + row * inner, width, value_buffer);
      if (log) {
        for (int64_t i = 0; i < width; ++i)
          out[i] = seen[i] == 0 ? A(0) : grad[i] - power(value[i]) * sum[i];
      } else {
        for (int64_t i = 0; i < width; ++i) out[i] = value[i] * (grad[i] - sum[i]);
      }
      write(out, width, to + row * inner);
    }
  });
}

}  // namespace

void softmax_cpu(const Tensor& x, Tensor& y, bool log, Stream /*stream*/) {
  dispatch_floating(x.dtype(), "softmax", [&]<class T>() {
    if (x.rank() == 3) {
      forward_columns<T>(x, y, log);
    } else {
      forward<T>(x, y, log);
    }
  });
}

void softmax_backward_cpu(const Tensor& dy, const Tensor& y, Tensor& dx, bool log,
                          Stream /*stream*/) {
  dispatch_floating(y.dtype(), "softmax_backward", [&]<class T>() {
    if (y.rank() == 3) {
      backward_columns<T>(dy, y, dx, log);
    } else if (log) {
      log_backward<T>(dy, y, dx);
    } else {
      backward<T>(dy, y, dx);
    }
  });
}

}  // namespace weft

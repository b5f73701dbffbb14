#include <cmath>
#include <type_traits>

#include "weft/tensor/check.h"
#include "weft/tensor/dispatch.h"

#include "ops/arithmetic_kernels.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

/// Integers are computed modulo 2^64 without the undefined overflow of the signed types.
template <class T>
uint64_t wide(T value) {
  return static_cast<uint64_t>(value);
}

struct Add {
  template <class T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(wide(a) + wide(b));
    else
      return a + b;
  }
};

struct Sub {
  template <class T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(wide(a) - wide(b));
    else
      return a - b;
  }
};

struct Mul {
  template <class T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(wide(a) * wide(b));
    else
      return a * b;
  }
};

struct Div {
  template <class T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      WEFT_CHECK(b != 0, ConfigError, "div: division of the integer {} by zero", a);
      // The lowest value over -1 overflows; negation wraps around.
      if constexpr (std::is_signed_v<T>) {
        if (b == -1) return static_cast<T>(-wide(a));
      }
      return static_cast<T>(a / b);
    } else {
      return a / b;
    }
  }
};

struct Maximum {
  template <class T>
  static T apply(T a, T b) {
    return (a > b) | (a != a) ? a : b;
  }
};

struct Minimum {
  template <class T>
  static T apply(T a, T b) {
    return (a < b) | (a != a) ? a : b;
  }
};

struct Pow {
  template <class T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      if constexpr (std::is_signed_v<T>) {
        if (b < 0) {
          WEFT_CHECK(a != 0, ConfigError, "pow: integer zero to the negative power {}", b);
          return a == 1 ? T{1} : a == -1 ? static_cast<T>(b % 2 == 0 ? 1 : -1) : T{0};
        }
      }
      uint64_t power = 1;
      uint64_t square = wide(a);
      for (uint64_t exponent = wide(b); exponent > 0; exponent >>= 1) {
        if (exponent & 1) power *= square;
        square *= square;
      }
      return static_cast<T>(power);
    } else {
      return std::pow(a, b);
    }
  }
};

template <class C>
using BinaryBlock = void (*)(const C* a, const C* b, C* out, int64_t count);

template <class Op, class C>
void binary_block(const C* a, const C* b, C* out, int64_t count) {
  WEFT_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < count; ++i) out[i] = Op::template apply<C>(a[i], b[i]);
}

template <class C>
BinaryBlock<C> block_of(BinaryOp op) {
  // In the order of BinaryOp.
  constexpr BinaryBlock<C> kBlocks[] = {
      &binary_block<Add, C>, &binary_block<Sub, C>,     &binary_block<Mul, C>,
      &binary_block<Div, C>, &binary_block<Maximum, C>, &binary_block<Minimum, C>,
      &binary_block<Pow, C>,
  };
  return kBlocks[static_cast<size_t>(op)];
}

template <class C>
void binary_typed(BinaryOp op, const char* name, const Operand& a, const Operand& b, Tensor& out) {
  map_blocks(out.numel(), block_of<C>(op), BlockWriter<C>(out),
             operand_reader<C>(name, a, out.dtype()), operand_reader<C>(name, b, out.dtype()));
}

template <class C>
void add_scaled_typed(Tensor& a, const Tensor& b, double alpha) {
  const C scale = scalar_as<C>("add_", alpha, a.dtype());
  map_blocks(
      a.numel(),
      [scale](const C* x, const C* y, C* out, int64_t count) {
        WEFT_INDEPENDENT_ITERATIONS
        for (int64_t i = 0; i < count; ++i)
          out[i] = Add::apply<C>(x[i], Mul::apply<C>(scale, y[i]));
      },
      BlockWriter<C>(a), BlockReader<C>(a), BlockReader<C>(b));
}

}  // namespace

void binary_cpu(BinaryOp op, const char* name, const Operand& a, const Operand& b, Tensor& out,
                Stream /*stream*/) {
  dispatch_numeric(out.dtype(), name,
                   [&]<class T>() { binary_typed<computed_t<T>>(op, name, a, b, out); });
}

void add_scaled_cpu(Tensor& a, const Tensor& b, double alpha, Stream /*stream*/) {
  dispatch_numeric(a.dtype(), "add_",
                   [&]<class T>() { add_scaled_typed<computed_t<T>>(a, b, alpha); });
}

}  // namespace weft

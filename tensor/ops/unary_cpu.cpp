#include <cmath>
#include <limits>

#include "weft/tensor/dispatch.h"

#include "ops/convert.h"
#include "ops/elementwise.h"
#include "ops/unary_kernels.h"
#include "ops/vector_math.h"

namespace weft {
namespace {

template <UnaryFunction function, class C>
C value_of(C x) {
  if constexpr (std::is_integral_v<C>) {
    // In 64 unsigned bits, which wrap around.
    const auto wide = static_cast<uint64_t>(x);
    if constexpr (function == UnaryFunction::square) return static_cast<C>(wide * wide);
    if constexpr (function == UnaryFunction::abs) return x < 0 ? static_cast<C>(-wide) : x;
    if constexpr (function == UnaryFunction::relu) return x < 0 ? C{0} : x;
  } else {
    switch (function) {
      case UnaryFunction::exp:
        return vexp(x);
      case UnaryFunction::expm1:
        return vexpm1(x);
      case UnaryFunction::log:
        return vlog(x);
      case UnaryFunction::log1p:
        return vlog1p(x);
      case UnaryFunction::sqrt:
        return std::sqrt(x);
      case UnaryFunction::rsqrt:
        return C{1} / std::sqrt(x);
      case UnaryFunction::reciprocal:
        return C{1} / x;
      case UnaryFunction::square:
        return x * x;
      case UnaryFunction::abs:
        return std::abs(x);
      case UnaryFunction::sin:
        return std::sin(x);
      case UnaryFunction::cos:
        return std::cos(x);
      case UnaryFunction::tanh:
        return vtanh(x);
      case UnaryFunction::sigmoid:
        return vsigmoid(x);
      case UnaryFunction::relu:
        return x < 0 ? C{0} : x;
      case UnaryFunction::erf:
        return verf(x);
    }
  }
  return x;
}

/// The derivative at the saved value s: the output where backward_uses_output(), else the input.
template <UnaryFunction function, class C>
C slope_of(C s) {
  switch (function) {
    case UnaryFunction::exp:
      return s;
    case UnaryFunction::expm1:
      return s + 1;
    case UnaryFunction::log:
      return C{1} / s;
    case UnaryFunction::log1p:
      return C{1} / (C{1} + s);
    case UnaryFunction::sqrt:
      return C(0.5) / s;
    case UnaryFunction::rsqrt:
      return C(-0.5) * s * s * s;
    case UnaryFunction::reciprocal:
      return -s * s;
    case UnaryFunction::square:
      return 2 * s;
    case UnaryFunction::abs:
      return s > 0 ? C{1} : s < 0 ? C{-1} : s * 0;
    case UnaryFunction::sin:
      return std::cos(s);
    case UnaryFunction::cos:
      return -std::sin(s);
    case UnaryFunction::tanh:
      return 1 - s * s;
    case UnaryFunction::sigmoid:
      return s * (1 - s);
    case UnaryFunction::relu:
      return s > 0 ? C{1} : s * 0;
    case UnaryFunction::erf:
      return C(1.1283791670955126) * vexp(-s * s);  // 2 / sqrt(pi)
  }
  return s;
}

template <StepFunction function, class C>
C step_of(C x) {
  if constexpr (function == StepFunction::sign) {
    return x > 0 ? C{1} : x < 0 ? static_cast<C>(-1) : x;
  } else if constexpr (std::is_floating_point_v<C>) {
    if constexpr (function == StepFunction::floor) return std::floor(x);
    if constexpr (function == StepFunction::ceil) return std::ceil(x);
    if constexpr (function == StepFunction::round) return std::nearbyint(x);
  }
  return x;
}

template <class C>
using MapBlock = void (*)(const C* x, C* out, int64_t count);
template <class C>
using SlopeBlock = void (*)(const C* saved, const C* grad_output, C* grad, int64_t count);

template <UnaryFunction function, class C>
void value_block(const C* x, C* out, int64_t count) {
  WEFT_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < count; ++i) out[i] = value_of<function>(x[i]);
}

template <UnaryFunction function, class C>
void slope_block(const C* saved, const C* grad_output, C* grad, int64_t count) {
  WEFT_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (function == UnaryFunction::relu) {
      // Chosen, not multiplied: an infinite gradient times 0 would be NaN.
      grad[i] = saved[i] <= 0 ? C{0} : grad_output[i];
    } else {
      grad[i] = grad_output[i] * slope_of<function>(saved[i]);
    }
  }
}

template <StepFunction function, class C>
void step_block(const C* x, C* out, int64_t count) {
  WEFT_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < count; ++i) out[i] = step_of<function>(x[i]);
}

constexpr size_t kUnaryFunctions = static_cast<size_t>(UnaryFunction::erf) + 1;

template <class C, size_t... I>
MapBlock<C> value_block_of(UnaryFunction function, std::index_sequence<I...>) {
  constexpr MapBlock<C> kBlocks[] = {&value_block<static_cast<UnaryFunction>(I), C>...};
  return kBlocks[static_cast<size_t>(function)];
}

template <class C>
MapBlock<C> value_block_of(UnaryFunction function) {
  if constexpr (std::is_integral_v<C>) {
    return function == UnaryFunction::square ? &value_block<UnaryFunction::square, C>
           : function == UnaryFunction::abs  ? &value_block<UnaryFunction::abs, C>
                                             : &value_block<UnaryFunction::relu, C>;
  } else {
    return value_block_of<C>(function, std::make_index_sequence<kUnaryFunctions>());
  }
}

template <class C, size_t... I>
SlopeBlock<C> slope_block_of(UnaryFunction function, std::index_sequence<I...>) {
  constexpr SlopeBlock<C> kBlocks[] = {&slope_block<static_cast<UnaryFunction>(I), C>...};
  return kBlocks[static_cast<size_t>(function)];
}

template <class C>
MapBlock<C> step_block_of(StepFunction function) {
  // In the order of StepFunction.
  constexpr MapBlock<C> kBlocks[] = {
      &step_block<StepFunction::sign, C>, &step_block<StepFunction::floor, C>,
      &step_block<StepFunction::ceil, C>, &step_block<StepFunction::round, C>};
  return kBlocks[static_cast<size_t>(function)];
}

/// A bound in C; for integers the outermost value within it.
template <class C>
C bound_as(double bound, bool lower) {
  if constexpr (std::is_integral_v<C>) {
    return convert<C>(lower ? std::ceil(bound) : std::floor(bound));
  } else {
    return static_cast<C>(bound);
  }
}

}  // namespace

void unary_cpu(UnaryFunction function, const char* name, const Tensor& x, Tensor& out,
               Stream /*stream*/) {
  dispatch_numeric(x.dtype(), name, [&]<class T>() {
    using C = computed_t<T>;
    map_blocks(x.numel(), value_block_of<C>(function), BlockWriter<C>(out), BlockReader<C>(x));
  });
}

void step_cpu(StepFunction function, const char* name, const Tensor& x, Tensor& out,
              Stream /*stream*/) {
  dispatch_numeric(x.dtype(), name, [&]<class T>() {
    using C = computed_t<T>;
    map_blocks(x.numel(), step_block_of<C>(function), BlockWriter<C>(out), BlockReader<C>(x));
  });
}

void clamp_cpu(const Tensor& x, double lowest, double highest, Tensor& out, Stream /*stream*/) {
  dispatch_numeric(x.dtype(), "clamp", [&]<class T>() {
    using C = computed_t<T>;
    const C low = bound_as<C>(lowest, true);
    const C high = bound_as<C>(highest, false);
    map_blocks(
        x.numel(),
        [low, high](const C* in, C* result, int64_t count) {
          WEFT_INDEPENDENT_ITERATIONS
          for (int64_t i = 0; i < count; ++i) {
            const C raised = in[i] < low ? low : in[i];
            result[i] = raised > high ? high : raised;
          }
        },
        BlockWriter<C>(out), BlockReader<C>(x));
  });
}

void unary_backward_cpu(UnaryFunction function, const Tensor& saved, const Tensor& grad_output,
                        Tensor& grad, Stream /*stream*/) {
  dispatch_floating(grad.dtype(), "unary_backward", [&]<class T>() {
    using C = accumulator_t<T>;
    map_blocks(grad.numel(),
               slope_block_of<C>(function, std::make_index_sequence<kUnaryFunctions>()),
               BlockWriter<C>(grad), BlockReader<C>(saved), BlockReader<C>(grad_output));
  });
}

void clamp_backward_cpu(const Tensor& x, double lowest, double highest, const Tensor& grad_output,
                        Tensor& grad, Stream /*stream*/) {
  dispatch_floating(grad.dtype(), "clamp_backward", [&]<class T>() {
    using C = accumulator_t<T>;
    const C low = static_cast<C>(lowest);
    const C high = static_cast<C>(highest);
    map_blocks(
        grad.numel(),
        [low, high](const C* in, const C* dy, C* dx, int64_t count) {
          for (int64_t i = 0; i < count; ++i)
            dx[i] = (in[i] >= low) & (in[i] <= high) ? dy[i] : C{0};
        },
        BlockWriter<C>(grad), BlockReader<C>(x), BlockReader<C>(grad_output));
  });
}

}  // namespace weft

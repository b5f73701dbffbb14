#include <cmath>

#include "weft/tensor/dispatch.h"

#include "cuda/elementwise.cuh"
#include "ops/convert.h"
#include "ops/host_device.h"
#include "ops/unary_kernels.h"

namespace weft {
namespace {

using cuda::Input;

/// A function as a constant, for the kernels of dense operands in the types of training, or as a
/// value, for the one that takes all types and layouts.
template <class Enum, Enum kFunction>
struct Fixed {
  static constexpr Enum get() { return kFunction; }
};
template <class Enum>
struct Any {
  Enum value;
  WEFT_HOST_DEVICE constexpr Enum get() const { return value; }
};

template <class C>
__device__ bool is_negative(C x) {
  if constexpr (std::is_unsigned_v<C>) {
    return false;
  } else {
    return x < C{0};
  }
}

template <class Which, class C>
struct Value {
  Which which;

  __device__ C operator()(C x) const {
    if constexpr (std::is_integral_v<C>) {
      // In 64 unsigned bits, which wrap around.
      const auto wide = static_cast<uint64_t>(x);
      switch (which.get()) {
        case UnaryFunction::square:
          return static_cast<C>(wide * wide);
        case UnaryFunction::abs:
          return is_negative(x) ? static_cast<C>(-wide) : x;
        default:
          return is_negative(x) ? C{0} : x;
      }
    } else {
      switch (which.get()) {
        case UnaryFunction::exp:
          return std::exp(x);
        case UnaryFunction::expm1:
          return std::expm1(x);
        case UnaryFunction::log:
          return std::log(x);
        case UnaryFunction::log1p:
          return std::log1p(x);
        case UnaryFunction::sqrt:
          return std::sqrt(x);
        case UnaryFunction::rsqrt:
          return C{1} / std::sqrt(x);
        case UnaryFunction::reciprocal:
          return C{1} / x;
        case UnaryFunction::square:
          return x * x;
        case UnaryFunction::abs:
          return std::fabs(x);
        case UnaryFunction::sin:
          return std::sin(x);
        case UnaryFunction::cos:
          return std::cos(x);
        case UnaryFunction::tanh:
          return std::tanh(x);
        case UnaryFunction::sigmoid:
          return C{1} / (C{1} + std::exp(-x));
        case UnaryFunction::relu:
          return x < C{0} ? C{0} : x;
        default:
          return std::erf(x);
      }
    }
  }
};

/// grad_output times the derivative at the saved value: the output where backward_uses_output(),
/// else the input.
template <class Which, class C>
struct Gradient {
  Which which;

  __device__ C operator()(C s, C grad_output) const {
    // Chosen, not multiplied: an infinite gradient times 0 would be NaN.
    if (which.get() == UnaryFunction::relu) return s <= C{0} ? C{0} : grad_output;
    return grad_output * slope(s);
  }

  __device__ C slope(C s) const {
    switch (which.get()) {
      case UnaryFunction::exp:
        return s;
      case UnaryFunction::expm1:
        return s + C{1};
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
        return C{2} * s;
      case UnaryFunction::abs:
        return s > C{0} ? C{1} : s < C{0} ? C{-1} : s * C{0};
      case UnaryFunction::sin:
        return std::cos(s);
      case UnaryFunction::cos:
        return -std::sin(s);
      case UnaryFunction::tanh:
        return C{1} - s * s;
      case UnaryFunction::sigmoid:
        return s * (C{1} - s);
      default:
        return C(1.1283791670955126) * std::exp(-s * s);  // 2 / sqrt(pi)
    }
  }
};

template <class C>
struct Step {
  StepFunction function;

  __device__ C operator()(C x) const {
    if constexpr (std::is_floating_point_v<C>) {
      switch (function) {
        case StepFunction::floor:
          return std::floor(x);
        case StepFunction::ceil:
          return std::ceil(x);
        case StepFunction::round:
          return std::rint(x);
        default:
          break;
      }
    }
    return x > C{0} ? C{1} : is_negative(x) ? static_cast<C>(-1) : x;
  }
};

template <class C>
struct Clamp {
  C low, high;

  __device__ C operator()(C x) const {
    const C raised = x < low ? low : x;
    return raised > high ? high : raised;
  }
};

template <class C>
struct ClampGradient {
  C low, high;

  __device__ C operator()(C x, C grad_output) const {
    return (x >= low) & (x <= high) ? grad_output : C{0};
  }
};

/// Calls body with Fixed<..., f>, f the value of `function`.
template <class Body, size_t... I>
bool with_constant(UnaryFunction function, const Body& body, std::index_sequence<I...>) {
  bool done = false;
  static_cast<void>(((function == static_cast<UnaryFunction>(I) &&
                      (done = body(Fixed<UnaryFunction, static_cast<UnaryFunction>(I)>()), true)) ||
                     ...));
  return done;
}

template <class Body>
bool with_constant(UnaryFunction function, const Body& body) {
  constexpr size_t kCount = static_cast<size_t>(UnaryFunction::erf) + 1;
  return with_constant(function, body, std::make_index_sequence<kCount>());
}

/// Whether T has kernels of its own beside those for any type.
template <class T>
inline constexpr bool kIsCommon = std::is_same_v<T, float> || std::is_same_v<T, bf16>;

}  // namespace

void unary_cuda(UnaryFunction function, const char* name, const Tensor& x, Tensor& out,
                Stream stream) {
  dispatch_numeric(x.dtype(), name, [&]<class T>() {
    using C = cuda::computed_t<T>;
    if constexpr (kIsCommon<T>) {
      if (with_constant(function, [&](auto fixed) {
            return cuda::map_vectors<T>(name, stream, Value<decltype(fixed), C>{}, out,
                                        Input<T>(x));
          }))
        return;
    }
    using A = cuda::any_t<C>;
    cuda::map_any_layout<A>(name, stream, Value<Any<UnaryFunction>, C>{{function}}, out,
                            Input<A>(x));
  });
}

void step_cuda(StepFunction function, const char* name, const Tensor& x, Tensor& out,
               Stream stream) {
  dispatch_numeric(x.dtype(), name, [&]<class T>() {
    using C = cuda::computed_t<T>;
    using A = cuda::any_t<C>;
    cuda::map_any_layout<A>(name, stream, Step<C>{function}, out, Input<A>(x));
  });
}

void clamp_cuda(const Tensor& x, double lowest, double highest, Tensor& out, Stream stream) {
  dispatch_numeric(x.dtype(), "clamp", [&]<class T>() {
    using C = cuda::computed_t<T>;
    // For integers the outermost values within the bounds.
    const bool whole = std::is_integral_v<C>;
    const Clamp<C> function{convert<C>(whole ? std::ceil(lowest) : lowest),
                            convert<C>(whole ? std::floor(highest) : highest)};
    if constexpr (kIsCommon<T>) {
      if (cuda::map_vectors<T>("clamp", stream, function, out, Input<T>(x))) return;
    }
    using A = cuda::any_t<C>;
    cuda::map_any_layout<A>("clamp", stream, function, out, Input<A>(x));
  });
}

void unary_backward_cuda(UnaryFunction function, const Tensor& saved, const Tensor& grad_output,
                         Tensor& grad, Stream stream) {
  constexpr const char* kName = "unary_backward";
  dispatch_floating(grad.dtype(), kName, [&]<class T>() {
    using C = accumulator_t<T>;
    if constexpr (kIsCommon<T>) {
      if (with_constant(function, [&](auto fixed) {
            return cuda::map_vectors<T>(kName, stream, Gradient<decltype(fixed), C>{}, grad,
                                        Input<T>(saved), Input<T>(grad_output));
          }))
        return;
    }
    using A = cuda::AnyFloat<C>;
    cuda::map_any_layout<A>(kName, stream, Gradient<Any<UnaryFunction>, C>{{function}}, grad,
                            Input<A>(saved), Input<A>(grad_output));
  });
}

void clamp_backward_cuda(const Tensor& x, double lowest, double highest, const Tensor& grad_output,
                         Tensor& grad, Stream stream) {
  constexpr const char* kName = "clamp_backward";
  dispatch_floating(grad.dtype(), kName, [&]<class T>() {
    using C = accumulator_t<T>;
    const ClampGradient<C> function{static_cast<C>(lowest), static_cast<C>(highest)};
    if constexpr (kIsCommon<T>) {
      if (cuda::map_vectors<T>(kName, stream, function, grad, Input<T>(x), Input<T>(grad_output)))
        return;
    }
    using A = cuda::AnyFloat<C>;
    cuda::map_any_layout<A>(kName, stream, function, grad, Input<A>(x), Input<A>(grad_output));
  });
}

}  // namespace weft

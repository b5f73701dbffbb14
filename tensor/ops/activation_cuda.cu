#include <numbers>

#include "ops/activation_kernels.h"
#include "ops/strided_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

template <class T>
__device__ __forceinline__ accumulator_t<T> sigmoid(accumulator_t<T> x) {
  using A = accumulator_t<T>;
  return A(1) / (A(1) + exponential<T>(-x));
}

// Each has value(x) and slope(x), the derivative, to the precision of elements stored as T.

template <class T>
struct Silu {
  using A = accumulator_t<T>;
  static __device__ A value(A x) { return x * sigmoid<T>(x); }
  static __device__ A slope(A x) {
    const A s = sigmoid<T>(x);
    return s + x * s * (A(1) - s);
  }
};

template <class T>
struct GeluExact {
  using A = accumulator_t<T>;
  static __device__ A distribution(A x) {
    constexpr A kScale = static_cast<A>(1 / std::numbers::sqrt2);
    return A(0.5) + A(0.5) * erf(x * kScale);
  }
  static __device__ A value(A x) { return x * distribution(x); }
  static __device__ A slope(A x) {
    constexpr A kScale = static_cast<A>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
    return distribution(x) + x * kScale * exponential<T>(x * x * A(-0.5));
  }
};

/// (1 + tanh(u)) / 2 is the sigmoid of 2u.
template <class T>
struct GeluTanh {
  using A = accumulator_t<T>;
  static constexpr A kLinear =
      static_cast<A>(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);  // 2 sqrt(2 / pi)
  static constexpr A kCubic = static_cast<A>(0.044715) * kLinear;
  static __device__ A gate(A x) { return sigmoid<T>(x * (kLinear + kCubic * x * x)); }
  static __device__ A value(A x) { return x * gate(x); }
  static __device__ A slope(A x) {
    const A s = gate(x);
    return s + x * s * (A(1) - s) * (kLinear + 3 * kCubic * x * x);
  }
};

template <class Function>
struct Forward {
  template <class A>
  __device__ void operator()(const A (&in)[1], A (&out)[1]) const {
    out[0] = Function::value(in[0]);
  }
};

template <class Function>
struct Backward {  // of dy and x
  template <class A>
  __device__ void operator()(const A (&in)[2], A (&out)[1]) const {
    out[0] = in[0] * Function::slope(in[1]);
  }
};

template <class T>
struct SwigluForward {  // of gate and up
  using A = accumulator_t<T>;
  __device__ void operator()(const A (&in)[2], A (&out)[1]) const {
    out[0] = Silu<T>::value(in[0]) * in[1];
  }
};

template <class T>
struct SwigluBackward {  // of dy, gate and up: dgate, dup and, where there is a third, the value
  using A = accumulator_t<T>;
  template <int kOutputs>
  __device__ void operator()(const A (&in)[3], A (&out)[kOutputs]) const {
    const A s = sigmoid<T>(in[1]);
    const A value = in[1] * s;
    out[0] = in[0] * in[2] * (s + value * (A(1) - s));
    out[1] = in[0] * value;
    if constexpr (kOutputs == 3) out[2] = value * in[2];
  }
};

/// Calls body.operator()<Function>() with the function of `activation` for elements of T.
template <class T, class Body>
void dispatch(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::silu:
      return body.template operator()<Silu<T>>();
    case Activation::gelu_exact:
      return body.template operator()<GeluExact<T>>();
    case Activation::gelu_tanh:
      return body.template operator()<GeluTanh<T>>();
  }
}

}  // namespace

void activation_forward_cuda(Activation activation, const Tensor& x, Tensor& y, Stream stream) {
  dispatch_floating(x.dtype(), "activation", [&]<class T>() {
    dispatch<T>(activation, [&]<class Function>() {
      map_tensors<T, 1, 1>("activation", {&x}, {&y}, Forward<Function>(), stream);
    });
  });
}

void activation_backward_cuda(Activation activation, const Tensor& dy, const Tensor& x, Tensor& dx,
                              Stream stream) {
  dispatch_floating(x.dtype(), "activation_backward", [&]<class T>() {
    dispatch<T>(activation, [&]<class Function>() {
      map_tensors<T, 2, 1>("activation_backward", {&dy, &x}, {&dx}, Backward<Function>(), stream);
    });
  });
}

void swiglu_forward_cuda(const Tensor& gate, const Tensor& up, Tensor& y, Stream stream) {
  dispatch_floating(gate.dtype(), "swiglu", [&]<class T>() {
    map_tensors<T, 2, 1>("swiglu", {&gate, &up}, {&y}, SwigluForward<T>(), stream);
  });
}

void swiglu_backward_cuda(const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                          Tensor& dup, Tensor& y, Stream stream) {
  dispatch_floating(gate.dtype(), "swiglu_backward", [&]<class T>() {
    const auto run = [&]<int kOutputs>(const std::array<Tensor*, kOutputs>& outputs) {
      map_tensors<T, 3, kOutputs>("swiglu_backward", {&dy, &gate, &up}, outputs,
                                  SwigluBackward<T>(), stream);
    };
    y.defined() ? run.template operator()<3>({&dgate, &dup, &y})
                : run.template operator()<2>({&dgate, &dup});
  });
}

}  // namespace weft

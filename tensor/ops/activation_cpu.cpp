#include <numbers>

#include "weft/tensor/dispatch.h"

#include "ops/activation_kernels.h"
#include "ops/simd.h"
#include "ops/simd_math.h"

namespace weft {
namespace {

using simd::load;
using simd::store;
using simd::Vec;

// Each has value(x) and slope(x), the derivative, to the precision of elements stored as T.

template <class T>
struct Silu {
  using A = accumulator_t<T>;
  static Vec<A> value(Vec<A> x) { return x * simd::sigmoid_as<T>(x); }
  static Vec<A> slope(Vec<A> x) {
    const Vec<A> s = simd::sigmoid_as<T>(x);
    return s + x * s * (A(1) - s);
  }
};

template <class T>
struct GeluExact {
  using A = accumulator_t<T>;
  static Vec<A> distribution(Vec<A> x) {
    constexpr A kScale = static_cast<A>(1 / std::numbers::sqrt2);
    return A(0.5) + A(0.5) * simd::map<A>(x * kScale, [](A lane) { return verf(lane); });
  }
  static Vec<A> value(Vec<A> x) { return x * distribution(x); }
  static Vec<A> slope(Vec<A> x) {
    constexpr A kScale = static_cast<A>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
    return distribution(x) + x * kScale * simd::exp_nonpositive(x * x * A(-0.5));
  }
};

/// (1 + tanh(u)) / 2 is simd::sigmoid_as<T>(2u).
template <class T>
struct GeluTanh {
  using A = accumulator_t<T>;
  static constexpr A kLinear =
      static_cast<A>(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);  // 2 sqrt(2 / pi)
  static constexpr A kCubic = static_cast<A>(0.044715) * kLinear;
  static Vec<A> gate(Vec<A> x) { return simd::sigmoid_as<T>(x * (kLinear + kCubic * x * x)); }
  static Vec<A> value(Vec<A> x) { return x * gate(x); }
  static Vec<A> slope(Vec<A> x) {
    const Vec<A> s = gate(x);
    return s + x * s * (A(1) - s) * (kLinear + 3 * kCubic * x * x);
  }
};

template <class Function, class T>
void forward(const Tensor& x, Tensor& y) {
  using A = accumulator_t<T>;
  const StridedLoop<2> loop(x.shape(), {x.strides(), y.strides()});
  const T* const from = x.data<T>();
  T* const to = y.data<T>();
  simd::for_each_vector<A>(loop, [&](const auto& at, auto lanes) {
    store(to + at[1], Function::value(load(from + at[0], lanes)), lanes);
  });
}

template <class Function, class T>
void backward(const Tensor& dy, const Tensor& x, Tensor& dx) {
  using A = accumulator_t<T>;
  const StridedLoop<3> loop(x.shape(), {dy.strides(), x.strides(), dx.strides()});
  const T* const grad = dy.data<T>();
  const T* const from = x.data<T>();
  T* const to = dx.data<T>();
  simd::for_each_vector<A>(loop, [&](const auto& at, auto lanes) {
    store(to + at[2], load(grad + at[0], lanes) * Function::slope(load(from + at[1], lanes)),
          lanes);
  });
}

/// Calls body with the function object type of `activation` for elements of T.
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

template <class T>
void swiglu_forward(const Tensor& gate, const Tensor& up, Tensor& y) {
  using A = accumulator_t<T>;
  const StridedLoop<3> loop(y.shape(), {gate.strides(), up.strides(), y.strides()});
  const T* const gates = gate.data<T>();
  const T* const ups = up.data<T>();
  T* const to = y.data<T>();
  simd::for_each_vector<A>(loop, [&](const auto& at, auto lanes) {
    const auto value = Silu<T>::value(load(gates + at[0], lanes));
    store(to + at[2], value * load(ups + at[1], lanes), lanes);
  });
}

template <class T, bool kValue>
void swiglu_backward(const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                     Tensor& dup, Tensor& y) {
  using A = accumulator_t<T>;
  const StridedLoop<6> loop(
      gate.shape(), {dy.strides(), gate.strides(), up.strides(), dgate.strides(), dup.strides(),
                     kValue ? y.strides() : dgate.strides()});
  const T* const grad = dy.data<T>();
  const T* const gates = gate.data<T>();
  const T* const ups = up.data<T>();
  T* const to_gate = dgate.data<T>();
  T* const to_up = dup.data<T>();
  T* const to_y = kValue ? y.data<T>() : nullptr;
  simd::for_each_vector<A>(loop, [&](const auto& at, auto lanes) {
    const auto d = load(grad + at[0], lanes);
    const auto g = load(gates + at[1], lanes);
    const auto u = load(ups + at[2], lanes);
    const auto s = simd::sigmoid_as<T>(g);
    const auto value = g * s;
    store(to_up + at[4], d * value, lanes);
    store(to_gate + at[3], d * u * (s + value * (A(1) - s)), lanes);
    if constexpr (kValue) store(to_y + at[5], value * u, lanes);
  });
}

}  // namespace

void activation_forward_cpu(Activation activation, const Tensor& x, Tensor& y, Stream /*stream*/) {
  dispatch_floating(x.dtype(), "activation", [&]<class T>() {
    dispatch<T>(activation, [&]<class Function>() { forward<Function, T>(x, y); });
  });
}

void activation_backward_cpu(Activation activation, const Tensor& dy, const Tensor& x, Tensor& dx,
                             Stream /*stream*/) {
  dispatch_floating(x.dtype(), "activation_backward", [&]<class T>() {
    dispatch<T>(activation, [&]<class Function>() { backward<Function, T>(dy, x, dx); });
  });
}

void swiglu_forward_cpu(const Tensor& gate, const Tensor& up, Tensor& y, Stream /*stream*/) {
  dispatch_floating(gate.dtype(), "swiglu", [&]<class T>() { swiglu_forward<T>(gate, up, y); });
}

void swiglu_backward_cpu(const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                         Tensor& dup, Tensor& y, Stream /*stream*/) {
  dispatch_floating(gate.dtype(), "swiglu_backward", [&]<class T>() {
    y.defined() ? swiglu_backward<T, true>(dy, gate, up, dgate, dup, y)
                : swiglu_backward<T, false>(dy, gate, up, dgate, dup, y);
  });
}

}  // namespace weft

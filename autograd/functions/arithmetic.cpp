#include "weft/autograd/functions/arithmetic.h"

#include <cmath>

#include "weft/autograd/node.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/unary.h"

namespace weft::autograd {
namespace {

using Grads = std::vector<Tensor>;

/// The value, kept only if `needed`.
SavedTensor save_if(bool needed, const Variable& x) {
  return needed ? SavedTensor(x.data()) : SavedTensor();
}

/// How one operand of maximum or minimum shares `grad`: all of it where `wins`, half of it where
/// the operands are equal.
Tensor share(const Tensor& grad, const Tensor& wins, const Tensor& ties) {
  return where(wins, grad, where(ties, weft::mul(grad, 0.5), 0.0));
}

using Comparison = Tensor (*)(const Tensor&, const Tensor&);
using ScalarComparison = Tensor (*)(const Tensor&, double);

Variable extremum(const char* name, Tensor value, const Variable& a, const Variable& b,
                  Comparison wins) {
  return record(
      name, std::move(value), {a, b},
      [x = SavedTensor(a.data()), y = SavedTensor(b.data()), wins, a_needs = a.requires_grad(),
       b_needs = b.requires_grad()](const Tensor& dy) -> Grads {
        const Tensor ties = eq(x.get(), y.get());
        Grads grads(2);
        if (a_needs)
          grads[0] = reduce_to_shape(share(dy, wins(x.get(), y.get()), ties), x.get().shape());
        if (b_needs)
          grads[1] = reduce_to_shape(share(dy, wins(y.get(), x.get()), ties), y.get().shape());
        return grads;
      });
}

Variable extremum(const char* name, Tensor value, const Variable& a, double b,
                  ScalarComparison wins) {
  return record(name, std::move(value), {a},
                [x = SavedTensor(a.data()), b, wins](const Tensor& dy) -> Grads {
                  return {share(dy, wins(x.get(), b), eq(x.get(), b))};
                });
}

}  // namespace

Variable add(const Variable& a, const Variable& b) {
  return record("add", weft::add(a.data(), b.data()), {a, b},
                [a_shape = a.shape(), b_shape = b.shape(), a_needs = a.requires_grad(),
                 b_needs = b.requires_grad()](const Tensor& dy) -> Grads {
                  return {a_needs ? reduce_to_shape(dy, a_shape) : Tensor(),
                          b_needs ? reduce_to_shape(dy, b_shape) : Tensor()};
                });
}

Variable add(const Variable& a, double b) {
  return record("add", weft::add(a.data(), b), {a}, [](const Tensor& dy) -> Grads { return {dy}; });
}

Variable add(double a, const Variable& b) {
  return add(b, a);
}

Variable sub(const Variable& a, const Variable& b) {
  return record("sub", weft::sub(a.data(), b.data()), {a, b},
                [a_shape = a.shape(), b_shape = b.shape(), a_needs = a.requires_grad(),
                 b_needs = b.requires_grad()](const Tensor& dy) -> Grads {
                  return {a_needs ? reduce_to_shape(dy, a_shape) : Tensor(),
                          b_needs ? weft::neg(reduce_to_shape(dy, b_shape)) : Tensor()};
                });
}

Variable sub(const Variable& a, double b) {
  return record("sub", weft::sub(a.data(), b), {a}, [](const Tensor& dy) -> Grads { return {dy}; });
}

Variable sub(double a, const Variable& b) {
  return record("sub", weft::sub(a, b.data()), {b},
                [](const Tensor& dy) -> Grads { return {weft::neg(dy)}; });
}

Variable mul(const Variable& a, const Variable& b) {
  const bool a_needs = a.requires_grad();
  const bool b_needs = b.requires_grad();
  return record("mul", weft::mul(a.data(), b.data()), {a, b},
                [x = save_if(b_needs, a), y = save_if(a_needs, b), a_shape = a.shape(),
                 b_shape = b.shape(), a_needs, b_needs](const Tensor& dy) -> Grads {
                  Grads grads(2);
                  if (a_needs) grads[0] = reduce_to_shape(weft::mul(dy, y.get()), a_shape);
                  if (b_needs) grads[1] = reduce_to_shape(weft::mul(dy, x.get()), b_shape);
                  return grads;
                });
}

Variable mul(const Variable& a, double b) {
  return record("mul", weft::mul(a.data(), b), {a},
                [b](const Tensor& dy) -> Grads { return {weft::mul(dy, b)}; });
}

Variable mul(double a, const Variable& b) {
  return mul(b, a);
}

Variable div(const Variable& a, const Variable& b) {
  const bool a_needs = a.requires_grad();
  const bool b_needs = b.requires_grad();
  const Tensor quotient = weft::div(a.data(), b.data());
  return record("div", quotient, {a, b},
                [y = SavedTensor(b.data()), q = b_needs ? SavedTensor(quotient) : SavedTensor(),
                 a_shape = a.shape(), a_needs, b_needs](const Tensor& dy) -> Grads {
                  const Tensor over_b = weft::div(dy, y.get());
                  Grads grads(2);
                  if (a_needs) grads[0] = reduce_to_shape(over_b, a_shape);
                  if (b_needs)
                    grads[1] =
                        weft::neg(reduce_to_shape(weft::mul(over_b, q.get()), y.get().shape()));
                  return grads;
                });
}

Variable div(const Variable& a, double b) {
  return record("div", weft::div(a.data(), b), {a},
                [b](const Tensor& dy) -> Grads { return {weft::div(dy, b)}; });
}

Variable div(double a, const Variable& b) {
  const Tensor quotient = weft::div(a, b.data());
  return record("div", quotient, {b},
                [y = SavedTensor(b.data()), q = SavedTensor(quotient)](const Tensor& dy) -> Grads {
                  return {weft::neg(weft::mul(weft::div(dy, y.get()), q.get()))};
                });
}

Variable maximum(const Variable& a, const Variable& b) {
  return extremum("maximum", weft::maximum(a.data(), b.data()), a, b, &gt);
}

Variable maximum(const Variable& a, double b) {
  return extremum("maximum", weft::maximum(a.data(), b), a, b, &gt);
}

Variable maximum(double a, const Variable& b) {
  return maximum(b, a);
}

Variable minimum(const Variable& a, const Variable& b) {
  return extremum("minimum", weft::minimum(a.data(), b.data()), a, b, &lt);
}

Variable minimum(const Variable& a, double b) {
  return extremum("minimum", weft::minimum(a.data(), b), a, b, &lt);
}

Variable minimum(double a, const Variable& b) {
  return minimum(b, a);
}

Variable pow(const Variable& a, const Variable& b) {
  const bool a_needs = a.requires_grad();
  const bool b_needs = b.requires_grad();
  const Tensor power = weft::pow(a.data(), b.data());
  return record("pow", power, {a, b},
                [x = SavedTensor(a.data()), e = SavedTensor(b.data()),
                 p = b_needs ? SavedTensor(power) : SavedTensor(), a_needs,
                 b_needs](const Tensor& dy) -> Grads {
                  Grads grads(2);
                  if (a_needs) {
                    const Tensor slope =
                        weft::mul(e.get(), weft::pow(x.get(), weft::sub(e.get(), 1.0)));
                    const Tensor grad = where(eq(e.get(), 0.0), 0.0, weft::mul(dy, slope));
                    grads[0] = reduce_to_shape(grad, x.get().shape());
                  }
                  if (b_needs) {
                    const Tensor slope = weft::mul(p.get(), weft::log(x.get()));
                    const Tensor grad = where(eq(x.get(), 0.0), 0.0, weft::mul(dy, slope));
                    grads[1] = reduce_to_shape(grad, e.get().shape());
                  }
                  return grads;
                });
}

Variable pow(const Variable& a, double b) {
  return record("pow", weft::pow(a.data(), b), {a},
                [x = SavedTensor(a.data()), b](const Tensor& dy) -> Grads {
                  if (b == 0.0) return {zeros_like(dy)};  // also at 0, where x^-1 is infinite
                  return {weft::mul(dy, weft::mul(weft::pow(x.get(), b - 1.0), b))};
                });
}

Variable pow(double a, const Variable& b) {
  const Tensor power = weft::pow(a, b.data());
  return record("pow", power, {b}, [a, p = SavedTensor(power)](const Tensor& dy) -> Grads {
    const double slope = a == 0.0 ? 0.0 : std::log(a);
    return {weft::mul(weft::mul(dy, p.get()), slope)};
  });
}

Variable neg(const Variable& x) {
  return record("neg", weft::neg(x.data()), {x},
                [](const Tensor& dy) -> Grads { return {weft::neg(dy)}; });
}

}  // namespace weft::autograd

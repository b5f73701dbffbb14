#include "weft/autograd/functions/unary.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/unary.h"

namespace weft::autograd {
namespace {

Variable unary(const char* name, UnaryFunction function, const Variable& x, const Tensor& output) {
  const Tensor& saved = backward_uses_output(function) ? output : x.data();
  return record(name, output, {x},
                [function, saved = SavedTensor(saved)](const Tensor& dy) -> std::vector<Tensor> {
                  return {unary_backward(function, saved.get(), dy)};
                });
}

}  // namespace

Variable exp(const Variable& x) {
  return unary("exp", UnaryFunction::exp, x, weft::exp(x.data()));
}
Variable expm1(const Variable& x) {
  return unary("expm1", UnaryFunction::expm1, x, weft::expm1(x.data()));
}
Variable log(const Variable& x) {
  return unary("log", UnaryFunction::log, x, weft::log(x.data()));
}
Variable log1p(const Variable& x) {
  return unary("log1p", UnaryFunction::log1p, x, weft::log1p(x.data()));
}
Variable sqrt(const Variable& x) {
  return unary("sqrt", UnaryFunction::sqrt, x, weft::sqrt(x.data()));
}
Variable rsqrt(const Variable& x) {
  return unary("rsqrt", UnaryFunction::rsqrt, x, weft::rsqrt(x.data()));
}
Variable reciprocal(const Variable& x) {
  return unary("reciprocal", UnaryFunction::reciprocal, x, weft::reciprocal(x.data()));
}
Variable square(const Variable& x) {
  return unary("square", UnaryFunction::square, x, weft::square(x.data()));
}
Variable abs(const Variable& x) {
  return unary("abs", UnaryFunction::abs, x, weft::abs(x.data()));
}
Variable sin(const Variable& x) {
  return unary("sin", UnaryFunction::sin, x, weft::sin(x.data()));
}
Variable cos(const Variable& x) {
  return unary("cos", UnaryFunction::cos, x, weft::cos(x.data()));
}
Variable tanh(const Variable& x) {
  return unary("tanh", UnaryFunction::tanh, x, weft::tanh(x.data()));
}
Variable sigmoid(const Variable& x) {
  return unary("sigmoid", UnaryFunction::sigmoid, x, weft::sigmoid(x.data()));
}
Variable relu(const Variable& x) {
  return unary("relu", UnaryFunction::relu, x, weft::relu(x.data()));
}
Variable erf(const Variable& x) {
  return unary("erf", UnaryFunction::erf, x, weft::erf(x.data()));
}

Variable clamp(const Variable& x, double lowest, double highest) {
  return record(
      "clamp", weft::clamp(x.data(), lowest, highest), {x},
      [x = SavedTensor(x.data()), lowest, highest](const Tensor& dy) -> std::vector<Tensor> {
        return {clamp_backward(x.get(), lowest, highest, dy)};
      });
}

}  // namespace weft::autograd

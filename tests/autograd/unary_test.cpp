#include "weft/autograd/functions/unary.h"

#include <cmath>

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/unary.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

struct Unary {
  const char* name;
  Variable (*function)(const Variable&);
  UnaryFunction id;
  double low, high;  // of smooth inputs
};

const Unary kUnaries[] = {
    {"exp", &exp, UnaryFunction::exp, -2, 2},
    {"expm1", &expm1, UnaryFunction::expm1, -2, 2},
    {"log", &log, UnaryFunction::log, 0.2, 5},
    {"log1p", &log1p, UnaryFunction::log1p, -0.7, 5},
    {"sqrt", &sqrt, UnaryFunction::sqrt, 0.2, 5},
    {"rsqrt", &rsqrt, UnaryFunction::rsqrt, 0.2, 5},
    {"reciprocal", &reciprocal, UnaryFunction::reciprocal, 0.3, 5},
    {"square", &square, UnaryFunction::square, -3, 3},
    {"abs", &abs, UnaryFunction::abs, -3, 3},
    {"sin", &sin, UnaryFunction::sin, -4, 4},
    {"cos", &cos, UnaryFunction::cos, -4, 4},
    {"tanh", &tanh, UnaryFunction::tanh, -2, 2},
    {"sigmoid", &sigmoid, UnaryFunction::sigmoid, -4, 4},
    {"relu", &relu, UnaryFunction::relu, -3, 3},
    {"erf", &erf, UnaryFunction::erf, -2, 2},
};

Variable leaf(const Tensor& value) {
  return Variable(value, true);
}

class UnaryGrad : public testing::TestWithParam<Unary> {};

TEST_P(UnaryGrad, PassesTheGradientCheck) {
  const Unary& op = GetParam();
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{15}, Shape{3, 63}, Shape{0, 2}}) {
    const Variable x = leaf(test::random_tensor(shape, DType::f64, 4, op.low, op.high));
    const auto result =
        grad_check([&](const std::vector<Variable>& in) { return op.function(in[0]); }, {x});
    EXPECT_TRUE(result) << op.name << " " << result.message;
  }
}

TEST_P(UnaryGrad, AgreesAcrossTypesAndLayouts) {
  const Unary& op = GetParam();
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Tensor value = test::random_tensor({15, 63}, dtype, 5, op.low, op.high);
    const Tensor seed = test::random_tensor({15, 63}, dtype, 6, 0.5, 1.5);
    const Variable x = leaf(value);
    const Variable view = leaf(test::scattered(value));
    const Variable x64 = leaf(value.to(DType::f64));
    op.function(x).backward(seed);
    op.function(view).backward(test::scattered(seed));
    op.function(x64).backward(seed.to(DType::f64));
    EXPECT_EQ(x.grad().dtype(), dtype);
    EXPECT_EQ(view.grad().to_vector<double>(), x.grad().to_vector<double>());
    // The rounded output that some backwards start from costs two more units where the slope
    // depends on it strongly, as 1 - y^2 and y^3 do.
    const double unit = test::rounding_error(dtype);
    test::expect_near(x.grad(), x64.grad().to_vector<double>(), 6 * unit, 4 * unit, op.name);
  }
}

TEST_P(UnaryGrad, KeepsTheOutputRatherThanTheInputWhereItCan) {
  const Unary& op = GetParam();
  Variable x = leaf(test::random_tensor({4}, DType::f64, 7, op.low, op.high));
  const Variable y = op.function(x);
  x.mutable_data().fill_(1);
  if (backward_uses_output(op.id)) {
    EXPECT_NO_THROW(y.backward(ones({4}, DType::f64))) << op.name;
  } else {
    EXPECT_THROW(y.backward(ones({4}, DType::f64)), AutogradError) << op.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, UnaryGrad, testing::ValuesIn(kUnaries),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(UnaryGrad, KinksHaveTheDocumentedSlope) {
  const Variable x = leaf(from_vector<double>({-1, 0, 1}, {3}));
  const Variable y = leaf(from_vector<double>({-1, 0, 1}, {3}));
  abs(x).backward(full({3}, 2, DType::f64));
  relu(y).backward(from_vector<double>({INFINITY, INFINITY, 2}, {3}));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{-2, 0, 2}));
  EXPECT_EQ(y.grad().to_vector<double>(), (std::vector<double>{0, 0, 2}));
}

TEST(ClampGrad, PassesTheGradientWithinTheBounds) {
  const Variable x = leaf(from_vector<double>({-3, -1, 0.5, 2, 5}, {5}));
  clamp(x, -1, 2).backward(from_vector<double>({1, 2, 3, 4, INFINITY}, {5}));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{0, 2, 3, 4, 0}));
  const Variable smooth = leaf(test::random_tensor({63}, DType::f64, 8, -3, 3));
  EXPECT_TRUE(
      grad_check([](const std::vector<Variable>& in) { return clamp(in[0], -1, 2); }, {smooth}));
}

}  // namespace
}  // namespace weft::autograd

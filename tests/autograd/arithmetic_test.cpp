#include "weft/autograd/functions/arithmetic.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/autograd/node.h"
#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

struct Binary {
  const char* name;
  Variable (*variables)(const Variable&, const Variable&);
  Variable (*with_scalar)(const Variable&, double);
  Variable (*scalar_first)(double, const Variable&);
};

const Binary kBinaries[] = {
    {"add", &add, &add, &add},
    {"sub", &sub, &sub, &sub},
    {"mul", &mul, &mul, &mul},
    {"div", &div, &div, &div},
    {"maximum", &maximum, &maximum, &maximum},
    {"minimum", &minimum, &minimum, &minimum},
    {"pow", &pow, &pow, &pow},
};

struct Shapes {
  Shape a, b;
};
const Shapes kShapes[] = {{{}, {}},      {{1}, {1}},       {{15}, {15}},
                          {{3, 5}, {5}}, {{3, 1}, {1, 7}}, {{2, 1, 3}, {4, 1}},
                          {{}, {2, 3}},  {{1, 1}, {3}},    {{0, 3}, {3}}};

Variable leaf(const Tensor& value) {
  return Variable(value, true);
}

/// Positive, and distinct between operands, so that powers are smooth and extrema have no ties.
Variable operand(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return leaf(test::random_tensor(shape, dtype, seed, 0.4, 2.5));
}

class BinaryGrad : public testing::TestWithParam<Binary> {};

TEST_P(BinaryGrad, PassesTheGradientCheckWithBroadcasting) {
  const Binary& op = GetParam();
  for (const Shapes& shapes : kShapes) {
    const auto both = [&](const std::vector<Variable>& in) { return op.variables(in[0], in[1]); };
    const auto result = grad_check(both, {operand(shapes.a, 1), operand(shapes.b, 2)});
    EXPECT_TRUE(result) << op.name << to_string(shapes.a) << result.message;
    // One operand alone.
    const Variable constant(test::random_tensor(shapes.b, DType::f64, 3, 0.4, 2.5));
    EXPECT_TRUE(
        grad_check([&](const std::vector<Variable>& in) { return op.variables(in[0], constant); },
                   {operand(shapes.a, 1)}));
    EXPECT_TRUE(
        grad_check([&](const std::vector<Variable>& in) { return op.variables(constant, in[0]); },
                   {operand(shapes.a, 1)}));
  }
}

TEST_P(BinaryGrad, PassesTheGradientCheckWithScalarsAndItself) {
  const Binary& op = GetParam();
  const Variable x = operand({3, 5}, 1);
  for (double scalar : {1.3, 2.0, -1.0, 0.5}) {
    EXPECT_TRUE(grad_check(
        [&](const std::vector<Variable>& in) { return op.with_scalar(in[0], scalar); }, {x}))
        << op.name << scalar;
    if (std::string(op.name) == "pow" && scalar < 0) continue;
    EXPECT_TRUE(grad_check(
        [&](const std::vector<Variable>& in) { return op.scalar_first(scalar, in[0]); }, {x}))
        << op.name << scalar;
  }
  EXPECT_TRUE(grad_check(
      [&](const std::vector<Variable>& in) { return op.variables(in[0], mul(in[0], 0.9)); }, {x}));
}

TEST_P(BinaryGrad, AgreesAcrossTypes) {
  const Binary& op = GetParam();
  const Shape a_shape{7, 15}, b_shape{15};
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Variable a = operand(a_shape, 1, dtype);
    const Variable b = operand(b_shape, 2, dtype);
    const Variable a64 = leaf(a.data().to(DType::f64));
    const Variable b64 = leaf(b.data().to(DType::f64));
    const Tensor seed = test::random_tensor(a_shape, dtype, 3, 0.5, 1.5);
    op.variables(a, b).backward(seed);
    op.variables(a64, b64).backward(seed.to(DType::f64));
    EXPECT_EQ(a.grad().dtype(), dtype);
    EXPECT_EQ(b.grad().dtype(), dtype);
    // A handful of roundings each, and a sum of seven for the broadcast operand.
    const double unit = test::rounding_error(dtype);
    test::expect_near(a.grad(), a64.grad().to_vector<double>(), 6 * unit, 4 * unit, op.name);
    test::expect_near(b.grad(), b64.grad().to_vector<double>(), 10 * unit, 20 * unit, op.name);
  }
}

TEST_P(BinaryGrad, AcceptsViewsAndNonContiguousGradients) {
  const Binary& op = GetParam();
  const Tensor a = test::random_tensor({5, 7}, DType::f64, 1, 0.4, 2.5);
  const Tensor b = test::random_tensor({5, 7}, DType::f64, 2, 0.4, 2.5);
  const Tensor seed = test::random_tensor({5, 7}, DType::f64, 3);
  const Variable dense_a = leaf(a), dense_b = leaf(b);
  const Variable view_a = leaf(test::scattered(a)), view_b = leaf(test::with_gaps(b));
  op.variables(dense_a, dense_b).backward(seed);
  op.variables(view_a, view_b).backward(test::scattered(seed));
  EXPECT_EQ(view_a.grad().to_vector<double>(), dense_a.grad().to_vector<double>());
  EXPECT_EQ(view_b.grad().to_vector<double>(), dense_b.grad().to_vector<double>());
}

TEST_P(BinaryGrad, NoticesDamageToWhatItSaved) {
  const Binary& op = GetParam();
  if (std::string(op.name) == "add" || std::string(op.name) == "sub") return;  // they save nothing
  const Variable a = operand({3}, 1);
  Variable b = operand({3}, 2);
  const Variable y = op.variables(a, b);
  b.mutable_data().fill_(1);
  EXPECT_THROW(y.backward(ones({3}, DType::f64)), AutogradError);
}

INSTANTIATE_TEST_SUITE_P(All, BinaryGrad, testing::ValuesIn(kBinaries),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ArithmeticGrad, TiesShareTheGradient) {
  const Variable a = leaf(from_vector<double>({1, 2, 3}, {3}));
  const Variable b = leaf(from_vector<double>({1, 3, 2}, {3}));
  maximum(a, b).backward(ones({3}, DType::f64));
  EXPECT_EQ(a.grad().to_vector<double>(), (std::vector<double>{0.5, 0, 1}));
  EXPECT_EQ(b.grad().to_vector<double>(), (std::vector<double>{0.5, 1, 0}));
  Variable c = leaf(from_vector<double>({1, 2, 3}, {3}));
  minimum(c, 2).backward(ones({3}, DType::f64));
  EXPECT_EQ(c.grad().to_vector<double>(), (std::vector<double>{1, 0.5, 0}));
}

TEST(ArithmeticGrad, PowersAtZeroHaveFiniteGradients) {
  for (double exponent : {0.0, 1.0, 2.0, 3.0}) {
    const Variable x = leaf(zeros({1}, DType::f64));
    pow(x, exponent).backward();
    EXPECT_EQ(x.grad().item<double>(), exponent == 1 ? 1 : 0) << exponent;
    const Variable base = leaf(zeros({1}, DType::f64));
    const Variable power = leaf(full({1}, exponent, DType::f64));
    pow(base, power).backward();
    EXPECT_EQ(base.grad().item<double>(), exponent == 1 ? 1 : 0) << exponent;
    EXPECT_EQ(power.grad().item<double>(), 0) << exponent;
  }
  const Variable exponent = leaf(ones({1}, DType::f64));
  pow(0.0, exponent).backward();
  EXPECT_EQ(exponent.grad().item<double>(), 0);
}

TEST(ArithmeticGrad, NegAndOperators) {
  const Variable x = operand({2, 3}, 1);
  const Variable y = operand({3}, 2);
  EXPECT_TRUE(grad_check([](const std::vector<Variable>& in) { return neg(in[0]); }, {x}));
  EXPECT_TRUE(grad_check(
      [](const std::vector<Variable>& in) {
        const Variable& a = in[0];
        const Variable& b = in[1];
        return (a + b) * (a - b) / b + 2.0 * -a - 1.0 / b + (a * 3.0 - 1.0) / 2.0 + (1.0 - b) +
               (0.5 + a);
      },
      {x, y}));
}

TEST(ArithmeticGrad, KeepsOnlyWhatBackwardReads) {
  const auto uses = [](const Tensor& t) { return t.storage().use_count(); };
  const Tensor constant = ones({4});
  const Tensor value = ones({4});
  {
    const Variable x(value, true);
    const Variable c(constant);
    const long value_before = uses(value);
    const long constant_before = uses(constant);
    const Variable product = mul(x, c);  // backward reads the constant alone
    EXPECT_EQ(uses(value), value_before);
    EXPECT_EQ(uses(constant), constant_before + 1);
    const Variable total = add(x, x);
    EXPECT_EQ(uses(value), value_before);
    const NoGradGuard guard;
    const Variable unrecorded = div(x, c);
    EXPECT_FALSE(unrecorded.requires_grad());
  }
}

TEST(ArithmeticGrad, RefusesOperandsThatDoNotFit) {
  EXPECT_THROW(add(operand({2}, 1), operand({3}, 1)), ShapeError);
  EXPECT_THROW(mul(operand({2}, 1), operand({2}, 1, DType::f32)), DTypeError);
  EXPECT_THROW(mul(Variable(), operand({2}, 1)), AutogradError);
}

}  // namespace
}  // namespace weft::autograd

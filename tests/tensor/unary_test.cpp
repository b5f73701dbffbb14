#include "weft/tensor/ops/unary.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

struct Unary {
  const char* name;
  Tensor (*function)(const Tensor&);
  double (*reference)(double);
  double low, high;  // of the inputs
  bool takes_integers = false;
};

const Unary kUnaries[] = {
    {"exp", &exp, &std::exp, -5, 5},
    {"expm1", &expm1, &std::expm1, -3, 3},
    {"log", &log, &std::log, 0.01, 50},
    {"log1p", &log1p, &std::log1p, -0.9, 50},
    {"sqrt", &sqrt, &std::sqrt, 0, 50},
    {"rsqrt", &rsqrt, [](double x) { return 1 / std::sqrt(x); }, 0.01, 50},
    {"reciprocal", &reciprocal, [](double x) { return 1 / x; }, 0.01, 50},
    {"square", &square, [](double x) { return x * x; }, -15, 15, true},
    {"abs", &abs, [](double x) { return std::abs(x); }, -50, 50, true},
    {"sign", &sign, [](double x) { return x > 0   ? 1.0
                                          : x < 0 ? -1.0
                                                  : 0.0; }, -3, 3, true},
    {"sin", &sin, &std::sin, -9, 9},
    {"cos", &cos, &std::cos, -9, 9},
    {"tanh", &tanh, &std::tanh, -5, 5},
    {"sigmoid", &sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -9, 9},
    {"relu", &relu, [](double x) { return x > 0 ? x : 0.0; }, -5, 5, true},
    {"erf", &erf, &std::erf, -3, 3},
    {"floor", &floor, &std::floor, -9, 9},
    {"ceil", &ceil, &std::ceil, -9, 9},
    {"round", &round, &std::nearbyint, -9, 9},
};

std::vector<double> reference(const Unary& op, const Tensor& x) {
  std::vector<double> values = x.to_vector<double>();
  for (double& value : values) value = op.reference(value);
  return values;
}

class UnaryOps : public testing::TestWithParam<Unary> {};

TEST_P(UnaryOps, MatchTheirDefinition) {
  const Unary& op = GetParam();
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (const Shape& shape :
         {Shape{}, Shape{1}, Shape{15}, Shape{63, 111}, Shape{2, 0}, Shape{40001}}) {
      const Tensor x = test::random_tensor(shape, dtype, 1, op.low, op.high);
      const Tensor y = op.function(x);
      ASSERT_EQ(y.shape(), shape);
      ASSERT_EQ(y.dtype(), dtype);
      // One rounding for the half types; a few units in the last place for the others.
      const double relative =
          (is_floating(dtype) && size_of(dtype) > 2 ? 5 : 1.01) * test::rounding_error(dtype);
      // sin and cos near their zeros lose relative accuracy with the argument's rounding alone.
      test::expect_near(y, reference(op, x), relative,
                        test::underflow_error(dtype) + (dtype == DType::f64 ? 1e-300 : 1e-30),
                        op.name);
    }
  }
}

TEST_P(UnaryOps, TakeAnyLayout) {
  const Unary& op = GetParam();
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Tensor x = test::random_tensor({31, 63}, dtype, 1, op.low, op.high);
    const auto expected = op.function(x).to_vector<double>();
    EXPECT_EQ(op.function(test::with_gaps(x)).to_vector<double>(), expected) << op.name;
    EXPECT_EQ(op.function(test::scattered(x)).to_vector<double>(), expected) << op.name;
    const Tensor row = x.slice(0, 4, 5).expand({3, 63});
    EXPECT_EQ(op.function(row).to_vector<double>(), op.function(row.clone()).to_vector<double>());
  }
}

TEST_P(UnaryOps, TakeIntegersOrSayThatTheyDoNot) {
  const Unary& op = GetParam();
  for (DType dtype : {DType::i64, DType::i32, DType::u8}) {
    const Tensor x = test::random_tensor({63}, dtype, 1, dtype == DType::u8 ? 0 : op.low, op.high);
    if (op.takes_integers) {
      EXPECT_EQ(op.function(x).to_vector<double>(), reference(op, x)) << op.name;
    } else {
      EXPECT_THAT([&] { op.function(x); },
                  ThrowsMessage<DTypeError>(testing::AllOf(HasSubstr(std::string(op.name) + ":"),
                                                           HasSubstr(describe(x)))));
    }
  }
  EXPECT_THROW(op.function(zeros({2}, DType::boolean)), DTypeError);
  EXPECT_THROW(op.function(Tensor()), ShapeError);
}

TEST_P(UnaryOps, TreatSpecialValuesLikeTheStandardLibrary) {
  const Unary& op = GetParam();
  const std::string name = op.name;
  const std::vector<double> specials = {INFINITY, -INFINITY, NAN, 0.0, -0.0, 1e30, -1e30, 1e-40};
  for (DType dtype : {DType::f64, DType::f32}) {
    const Tensor x = from_vector<double>(specials, {8}).to(dtype);
    const auto values = op.function(x).to_vector<double>();
    for (size_t i = 0; i < specials.size(); ++i) {
      const double in = x.to_vector<double>()[i];
      double expected = op.reference(in);
      if ((name == "relu" || name == "sign") && std::isnan(in)) expected = NAN;
      if (dtype == DType::f32) expected = static_cast<float>(expected);
      // The arguments of sin and cos are far outside any table of periods.
      if ((name == "sin" || name == "cos") && std::abs(in) > 1e20) continue;
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(values[i])) << name << "(" << in << ") = " << values[i];
      } else if (std::isinf(expected)) {
        EXPECT_EQ(values[i], expected) << name << "(" << in << ")";
      } else {
        EXPECT_NEAR(values[i], expected, std::abs(expected) * 3e-7 + 1e-45)
            << name << "(" << in << ")";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, UnaryOps, testing::ValuesIn(kUnaries),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Unary, RoundsHalvesToTheEvenNumber) {
  const Tensor x = from_vector<float>({0.5f, 1.5f, 2.5f, -0.5f, -1.5f}, {5});
  EXPECT_EQ(round(x).to_vector<float>(), (std::vector<float>{0, 2, 2, 0, -2}));
}

TEST(Unary, AbsOfTheLowestIntegerWraps) {
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(abs(from_vector<int64_t>({kMin, -3}, {2})).to_vector<int64_t>(),
            (std::vector<int64_t>{kMin, 3}));
}

TEST(Clamp, KeepsValuesWithinTheBounds) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32}) {
    const Tensor x = test::random_tensor({63, 15}, dtype, 1, -8, 8);
    std::vector<double> expected = x.to_vector<double>();
    for (double& value : expected) value = std::min(std::max(value, -2.0), 3.0);
    EXPECT_EQ(clamp(x, -2, 3).to_vector<double>(), expected) << to_string(dtype);
    EXPECT_EQ(clamp(test::scattered(x), -2, 3).to_vector<double>(), expected);
    EXPECT_EQ(clamp(x, -INFINITY, INFINITY).to_vector<double>(), x.to_vector<double>());
  }
}

TEST(Clamp, RoundsTheBoundsOfIntegersInward) {
  const Tensor x = from_vector<int32_t>({-5, -1, 0, 1, 5}, {5});
  EXPECT_EQ(clamp(x, -1.5, 1.5).to_vector<int32_t>(), (std::vector<int32_t>{-1, -1, 0, 1, 1}));
  EXPECT_EQ(clamp(from_vector<uint8_t>({0, 9}, {2}), -3, 1e9).to_vector<uint8_t>(),
            (std::vector<uint8_t>{0, 9}));
}

TEST(Clamp, KeepsNanAndRefusesSwappedBounds) {
  EXPECT_TRUE(std::isnan(clamp(full({1}, NAN), 0, 1).item<float>()));
  EXPECT_THAT([] { clamp(zeros({1}), 2, 1); }, ThrowsMessage<ConfigError>(HasSubstr("2 and 1")));
  EXPECT_THROW(clamp(zeros({1}), NAN, 1), ConfigError);
  EXPECT_THROW(clamp(zeros({1}, DType::boolean), 0, 1), DTypeError);
}

TEST(UnaryBackward, RefusesGradientsThatDoNotFit) {
  EXPECT_THROW(unary_backward(UnaryFunction::exp, zeros({2}), zeros({3})), ShapeError);
  EXPECT_THROW(unary_backward(UnaryFunction::exp, zeros({2}), zeros({2}, DType::f64)), DTypeError);
  EXPECT_THROW(clamp_backward(zeros({2}), 0, 1, Tensor()), ShapeError);
}

}  // namespace
}  // namespace weft

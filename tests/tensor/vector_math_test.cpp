#include "ops/vector_math.h"

#include <vector>

#include <gtest/gtest.h>

namespace weft {
namespace {

struct Function {
  const char* name;
  float (*value)(float);
  double (*reference)(double);
  double max_ulps;
};

double reference_sigmoid(double x) {
  return x > 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

const Function kFunctions[] = {
    {"exp", &vexp, &std::exp, 1.5},    {"expm1", &vexpm1, &std::expm1, 2},
    {"log", &vlog, &std::log, 1.5},    {"log1p", &vlog1p, &std::log1p, 2},
    {"tanh", &vtanh, &std::tanh, 2.5}, {"sigmoid", &vsigmoid, &reference_sigmoid, 2.5},
    {"erf", &verf, &std::erf, 1.5},
};

/// Distance in units of the float spacing at the true value.
double error_in_ulps(float value, double truth) {
  if (std::isnan(truth)) return std::isnan(value) ? 0 : INFINITY;
  const auto rounded = static_cast<float>(truth);
  if (std::isinf(rounded) || std::isinf(value)) return value == rounded ? 0 : INFINITY;
  if (std::isnan(value)) return INFINITY;
  int exponent = 0;
  std::frexp(truth, &exponent);
  return std::abs(value - truth) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

class VectorMath : public testing::TestWithParam<Function> {};

TEST_P(VectorMath, MatchesDoubleOverAllOfFloat) {
  const Function& function = GetParam();
  double worst = 0;
  float worst_at = 0;
  // A prime step over the bit patterns: every sign, exponent and region of mantissas, NaN included.
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 2003) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    const double error = error_in_ulps(function.value(x), function.reference(x));
    if (error > worst) {
      worst = error;
      worst_at = x;
    }
  }
  EXPECT_LE(worst, function.max_ulps) << function.name << " at " << worst_at;
}

TEST_P(VectorMath, KeepsSpecialValues) {
  const Function& function = GetParam();
  constexpr float kMax = std::numeric_limits<float>::max();
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  for (float x : {0.0f, -0.0f, INFINITY, -INFINITY, kMax, -kMax, kTiny, -kTiny, 100.0f, -100.0f}) {
    const float value = function.value(x);
    const auto truth = static_cast<float>(function.reference(x));
    if (std::isnan(truth)) {
      EXPECT_TRUE(std::isnan(value)) << function.name << " " << x << " " << value;
    } else {
      EXPECT_LE(error_in_ulps(value, truth), 1) << function.name << " " << x << " " << value;
      EXPECT_EQ(std::signbit(value), std::signbit(truth)) << function.name << " " << x;
    }
  }
  EXPECT_TRUE(std::isnan(function.value(NAN))) << function.name;
}

INSTANTIATE_TEST_SUITE_P(All, VectorMath, testing::ValuesIn(kFunctions),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(VectorMathTails, SigmoidKeepsItsRelativeAccuracyFarOut) {
  EXPECT_GT(vsigmoid(-100.0f), 0.0f);
  EXPECT_EQ(vsigmoid(100.0f), 1.0f);
  EXPECT_GT(vsigmoid(-700.0), 0.0);
}

TEST(VectorMathTails, ExpOverflowsAndVanishesWhereFloatDoes) {
  EXPECT_FALSE(std::isinf(vexp(88.7228317f)));
  EXPECT_TRUE(std::isinf(vexp(88.7228394f)));
  EXPECT_GT(vexp(-103.9f), 0.0f);
  EXPECT_EQ(vexp(-104.1f), 0.0f);
}

}  // namespace
}  // namespace weft

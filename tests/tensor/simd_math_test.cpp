#include "ops/simd_math.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace weft::simd {
namespace {

using Lanes = Vec<float>;

/// Calls check(x, function(x)) for numbers spread evenly over [low, high].
template <class Function, class Check>
void for_range(double low, double high, Function function, Check check) {
  constexpr int kCount = 200000;
  for (int i = 0; i < kCount; i += kLanes<float>) {
    Lanes x;
    for (int lane = 0; lane < kLanes<float>; ++lane) {
      x[lane] = static_cast<float>(low + (high - low) * (i + lane) / kCount);
    }
    const Lanes y = function(x);
    for (int lane = 0; lane < kLanes<float>; ++lane) {
      check(static_cast<double>(x[lane]), static_cast<double>(y[lane]));
      if (testing::Test::HasFailure()) return;
    }
  }
}

double exact_sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

TEST(SimdMath, ExpStaysWithinItsBound) {
  for_range(
      -87, 88.7, [](Lanes x) { return exp(x); },
      [](double x, double y) { EXPECT_NEAR(y / std::exp(x), 1, 2.5 * 0x1p-23) << x; });
  for_range(
      -69, 0, [](Lanes x) { return exp_nonpositive(x); },
      [](double x, double y) { EXPECT_NEAR(y / std::exp(x), 1, 2.5 * 0x1p-23) << x; });
  for_range(
      -1000, -69.01, [](Lanes x) { return exp_nonpositive(x); },
      [](double x, double y) { EXPECT_EQ(y, 0) << x; });
}

TEST(SimdMath, SigmoidStaysWithinItsBound) {
  for_range(
      -80, 80, [](Lanes x) { return sigmoid(x); },
      [](double x, double y) { EXPECT_NEAR(y / exact_sigmoid(x), 1, 4 * 0x1p-23) << x; });
  for_range(
      -80, 80, [](Lanes x) { return sigmoid_as<bf16>(x); },
      [](double x, double y) { EXPECT_NEAR(y / exact_sigmoid(x), 1, 0x1p-12) << x; });
}

TEST(SimdMath, EndsOfTheRange) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto first = [](Lanes v) { return v[0]; };
  EXPECT_EQ(first(exp(broadcast(kInfinity))), kInfinity);
  EXPECT_EQ(first(exp(broadcast(-kInfinity))), 0.0f);
  EXPECT_EQ(first(exp_nonpositive(broadcast(-kInfinity))), 0.0f);
  for (const float large : {1000.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(first(sigmoid(broadcast(large))), 1.0f) << large;
    EXPECT_NEAR(first(sigmoid_as<bf16>(broadcast(large))), 1.0f, 0x1p-12f) << large;
    EXPECT_EQ(first(sigmoid(broadcast(-large))), 0.0f) << large;
    EXPECT_EQ(first(sigmoid_as<bf16>(broadcast(-large))), 0.0f) << large;
  }
  const Lanes nan = broadcast(std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(std::isnan(first(exp(nan))));
  EXPECT_TRUE(std::isnan(first(exp_nonpositive(nan))));
  EXPECT_TRUE(std::isnan(first(sigmoid(nan))));
  EXPECT_TRUE(std::isnan(first(sigmoid_as<bf16>(nan))));
}

TEST(Simd, LoadsStoresAndFoldsPartialVectors) {
  float values[kLanes<float>];
  for (int i = 0; i < kLanes<float>; ++i) values[i] = static_cast<float>(i + 1);
  EXPECT_EQ(sum_lanes<float>(load(values)), kLanes<float> * (kLanes<float> + 1) / 2.0f);
  EXPECT_EQ(max_lanes<float>(load(values)), kLanes<float>);
  EXPECT_EQ(sum_lanes<float>(load(values, Tail{3})), 6.0f);
  EXPECT_EQ(sum_lanes<float>(keep(broadcast(2.0f), Tail{3})), 6.0f);
  bf16 halves[kLanes<float>] = {};
  store(halves, load(values), Tail{2});
  EXPECT_EQ(static_cast<float>(halves[1]), 2.0f);
  EXPECT_EQ(static_cast<float>(halves[2]), 0.0f);
}

/// Vectors round to bf16 and f16 as the scalar conversions do.
TEST(Simd, RoundsLikeTheScalarTypes) {
  for_range(
      -3, 3, [](Lanes x) { return round_to<bf16>(x); },
      [](double x, double y) { EXPECT_EQ(y, static_cast<float>(bf16(static_cast<float>(x)))); });
  for_range(
      -3, 3, [](Lanes x) { return round_to<f16>(x); },
      [](double x, double y) { EXPECT_EQ(y, static_cast<float>(f16(static_cast<float>(x)))); });
}

}  // namespace
}  // namespace weft::simd

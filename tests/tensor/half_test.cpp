#include "weft/tensor/half.h"

#include <cmath>

#include <gtest/gtest.h>

namespace weft {
namespace {

/// Value of an IEEE-like format with this many exponent and mantissa bits, by the definition.
double decode(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  const double fraction = mantissa / (1 << mantissa_bits);
  if (exponent == (1 << exponent_bits) - 1) return mantissa == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1 + fraction, exponent - bias);
}

template <class Half>
void expect_all_values_round_trip(int exponent_bits, int mantissa_bits) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = Half::from_bits(static_cast<uint16_t>(bits));
    const double expected = decode(static_cast<uint16_t>(bits), exponent_bits, mantissa_bits);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(static_cast<float>(Half(value)))) << bits;
    } else {
      EXPECT_EQ(value, expected) << bits;
      EXPECT_EQ(Half(value).bits, bits);
    }
  }
}

/// Between two neighbours: the midpoint goes to the even one, anything nearer to the nearer one.
template <class Half>
void expect_rounds_to_nearest_even() {
  for (uint32_t bits = 0; bits + 1 < 0x7c00; ++bits) {
    const float low = Half::from_bits(static_cast<uint16_t>(bits));
    const float high = Half::from_bits(static_cast<uint16_t>(bits + 1));
    if (std::isinf(high)) continue;
    const float middle = static_cast<float>((static_cast<double>(low) + high) / 2);
    EXPECT_EQ(Half(middle).bits, bits % 2 == 0 ? bits : bits + 1) << bits;
    EXPECT_EQ(Half(std::nextafter(middle, low)).bits, bits) << bits;
    EXPECT_EQ(Half(std::nextafter(middle, high)).bits, bits + 1) << bits;
    EXPECT_EQ(Half(-middle).bits, Half(middle).bits | 0x8000) << bits;
  }
}

TEST(Bf16, AllValuesRoundTrip) {
  expect_all_values_round_trip<bf16>(8, 7);
}
TEST(F16, AllValuesRoundTrip) {
  expect_all_values_round_trip<f16>(5, 10);
}
TEST(Bf16, RoundsToNearestEven) {
  expect_rounds_to_nearest_even<bf16>();
}
TEST(F16, RoundsToNearestEven) {
  expect_rounds_to_nearest_even<f16>();
}

TEST(F16, OverflowsToInfinityFromTheHalfwayPoint) {
  EXPECT_EQ(f16(65519.996f).bits, 0x7bff);
  EXPECT_EQ(f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(f16(-1e10f).bits, 0xfc00);
  EXPECT_EQ(f16(INFINITY).bits, 0x7c00);
}

TEST(Bf16, OverflowsToInfinityFromTheHalfwayPoint) {
  EXPECT_EQ(bf16(3.3961775e38f).bits, 0x7f80);
  EXPECT_EQ(bf16(3.39e38f).bits, 0x7f7f);
}

}  // namespace
}  // namespace weft

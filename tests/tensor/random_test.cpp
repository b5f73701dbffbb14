#include "weft/tensor/ops/random.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/ops/dropout.h"
#include "weft/tensor/parallel.h"

namespace weft {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(Philox, GivesThePublishedVectors) {
  // The known answers of philox4x32-10 that come with the authors' Random123 library.
  EXPECT_EQ(philox4x32(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint64_t all = ~uint64_t{0};
  EXPECT_EQ(philox4x32(all, all, all), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, ElementsComeFromTheirOwnBlockWhateverTheThreads) {
  Generator generator(7);
  generator.reserve(11);
  const GeneratorState before = generator.state();
  const std::vector<float> values = uniform({10007}, generator).to_vector<float>();
  EXPECT_EQ(generator.state().offset, before.offset + (10007 + 3) / 4);
  for (uint64_t i : {0u, 1u, 5u, 4096u, 10006u}) {
    EXPECT_EQ(values[i],
              static_cast<float>(philox4x32(7, before.offset + i / 4)[i % 4] >> 8) * 0x1p-24f)
        << i;
  }
  const int threads = num_threads();
  set_num_threads(threads == 1 ? 2 : 1);
  Generator again(7);
  again.set_state(before);
  EXPECT_EQ(uniform({10007}, again).to_vector<float>(), values);
  set_num_threads(threads);
}

TEST(Random, DrawsFollowOneAnotherInTheStream) {
  Generator one(3);
  Generator two(3);
  const std::vector<float> whole = uniform({16}, one).to_vector<float>();
  const std::vector<float> first = uniform({8}, two).to_vector<float>();
  const std::vector<float> second = uniform({8}, two).to_vector<float>();
  EXPECT_TRUE(std::equal(first.begin(), first.end(), whole.begin()));
  EXPECT_TRUE(std::equal(second.begin(), second.end(), whole.begin() + 8));
}

TEST(Uniform, FillsItsRangeEvenly) {
  Generator generator(1);
  Tensor x = empty({100000}, DType::f64);
  uniform_(x, -2, 3, generator);
  double sum = 0;
  double squares = 0;
  for (double v : x.to_vector<double>()) {
    EXPECT_TRUE(v >= -2 && v < 3);
    sum += v;
    squares += v * v;
  }
  EXPECT_NEAR(sum / 1e5, 0.5, 0.02);
  EXPECT_NEAR(squares / 1e5 - 0.25, 25.0 / 12, 0.03);
}

TEST(Normal, HasTheMomentsAndTailsOfTheBellCurve) {
  Generator generator(1);
  Tensor x = empty({200000}, DType::f64);
  normal_(x, 1, 2, generator);
  double moments[4] = {};
  int beyond_two = 0;
  for (double v : x.to_vector<double>()) {
    const double z = (v - 1) / 2;
    for (int k = 0; k < 4; ++k) moments[k] += std::pow(z, k + 1) / 2e5;
    beyond_two += std::abs(z) > 2;
  }
  EXPECT_NEAR(moments[0], 0, 0.01);
  EXPECT_NEAR(moments[1], 1, 0.015);
  EXPECT_NEAR(moments[2], 0, 0.03);
  EXPECT_NEAR(moments[3], 3, 0.1);
  EXPECT_NEAR(beyond_two / 2e5, 0.0455, 0.002);
}

TEST(Normal, EveryTypeAndLayoutGetsTheSameDraw) {
  Generator generator(5);
  Tensor x = empty({3, 7}, DType::f64);
  normal_(x, 0, 1, generator);
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Generator again(5);
    Tensor y = zeros({7, 3}, dtype).transpose(0, 1);
    normal_(y, 0, 1, again);
    EXPECT_EQ(y.to_vector<float>(), x.to(dtype).to_vector<float>()) << to_string(dtype);
  }
}

TEST(Randint, CoversItsRangeAndNothingElse) {
  Generator generator(1);
  std::vector<int> counts(7);
  for (int64_t v : randint(-3, 4, {70000}, generator).to_vector<int64_t>()) {
    ASSERT_TRUE(v >= -3 && v < 4);
    ++counts[static_cast<size_t>(v + 3)];
  }
  for (int count : counts) EXPECT_NEAR(count, 10000, 400);
  const auto bytes = randint(0, 256, {4096}, generator, DType::u8).to_vector<uint8_t>();
  EXPECT_EQ(*std::max_element(bytes.begin(), bytes.end()), 255);
  EXPECT_THROW(randint(3, 3, {1}, generator), ConfigError);
  EXPECT_THROW(randint(0, 257, {1}, generator, DType::u8), ConfigError);
  EXPECT_THROW(randint(0, (int64_t{1} << 32) + 1, {1}, generator), ConfigError);
  EXPECT_NO_THROW(randint(0, int64_t{1} << 32, {5}, generator));
  EXPECT_THROW(randint(0, 2, {1}, generator, DType::f32), DTypeError);
}

TEST(Bernoulli, HitsItsProbability) {
  Generator generator(1);
  const auto hits = bernoulli(0.3, {50000}, generator).to_vector<bool>();
  EXPECT_NEAR(static_cast<double>(std::count(hits.begin(), hits.end(), true)), 15000, 500);
  const auto none = bernoulli(0, {100}, generator).to_vector<bool>();
  const auto all = bernoulli(1, {100}, generator).to_vector<bool>();
  EXPECT_EQ(std::count(none.begin(), none.end(), true), 0);
  EXPECT_EQ(std::count(all.begin(), all.end(), true), 100);
  EXPECT_THROW(bernoulli(1.5, {1}, generator), ConfigError);
}

TEST(Permutation, HoldsEveryNumberOnceAndMixesThem) {
  Generator generator(1);
  for (int64_t count : {0, 1, 2, 5, 1000}) {
    auto order = permutation(count, generator).to_vector<int64_t>();
    if (count == 1000) {
      int fixed = 0;
      for (size_t i = 0; i < 1000; ++i) fixed += order[i] == static_cast<int64_t>(i);
      EXPECT_LT(fixed, 10);
    }
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, arange(0, count).to_vector<int64_t>());
  }
  EXPECT_THROW(permutation(-1, generator), ConfigError);
}

TEST(Dropout, KeepsScalesAndRepeatsItsMask) {
  Generator generator(2);
  const GeneratorState state = generator.state();
  const Tensor x = ones({4001}, DType::f64);
  const Tensor y = dropout(x, 0.2, generator);
  const std::vector<double> values = y.to_vector<double>();
  for (double v : values) EXPECT_TRUE(v == 0 || std::abs(v - 1.25) < 1e-15);
  EXPECT_NEAR(static_cast<double>(std::count(values.begin(), values.end(), 0.0)), 800, 90);
  EXPECT_EQ(dropout(x, 0.2, state).to_vector<double>(), values);
  EXPECT_EQ(generator.state().offset, state.offset + 1001);
  EXPECT_EQ(dropout(x.expand({2, 4001}).transpose(0, 1), 0.0, generator).to_vector<double>(),
            std::vector<double>(8002, 1.0));
  EXPECT_EQ(dropout(empty({0, 3}), 0.5, generator).numel(), 0);
  EXPECT_THROW(dropout(x, 1.0, generator), ConfigError);
  EXPECT_THROW(dropout(arange(0, 3), 0.5, generator), DTypeError);
}

TEST(Random, RefusesBadArguments) {
  Generator generator(1);
  Tensor integers = arange(0, 3);
  Tensor x = zeros({3});
  EXPECT_THROW(uniform_(integers, 0, 1, generator), DTypeError);
  EXPECT_THROW(normal_(integers, 0, 1, generator), DTypeError);
  EXPECT_THROW(uniform_(x, 1, 0, generator), ConfigError);
  EXPECT_THROW(normal_(x, 0, -1, generator), ConfigError);
  const uint64_t version = x.version();
  normal_(x, 0, 1, generator);
  EXPECT_GT(x.version(), version);
}

}  // namespace
}  // namespace weft

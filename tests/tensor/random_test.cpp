#include "weft/tensor/ops/random.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/parallel.h"

#include "ops/philox_run.h"
#include "ops/random_math.h"
#include "random_tensor.h"

namespace weft {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;
using Words = std::array<uint32_t, 4>;

/// Known answers of philox4x32 with 10 rounds, from the kat_vectors file of Random123 1.09.
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_EQ(philox4x32(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, RunsGiveTheSameWordsAsSingleBlocks) {
  for (uint64_t first : {uint64_t{0}, uint64_t{12345}, (uint64_t{1} << 32) - 5}) {
    for (int64_t blocks : {1, 7, 32, 33, 64, 111}) {
      std::vector<uint32_t> words(static_cast<size_t>(4 * blocks + 1), 99);
      philox_run(0xfedcba9876543210, first, blocks, words.data());
      for (int64_t i = 0; i < blocks; ++i) {
        const Words expected = philox4x32(0xfedcba9876543210, first + static_cast<uint64_t>(i));
        for (size_t k = 0; k < 4; ++k)
          ASSERT_EQ(words[static_cast<size_t>(4 * i) + k], expected[k]) << first << " " << i;
      }
      EXPECT_EQ(words.back(), 99u);
    }
  }
}

TEST(Generator, ReservesBlocksInOrder) {
  Generator generator(7);
  EXPECT_EQ(generator.reserve(3).offset, 0u);
  EXPECT_EQ(generator.reserve(1).offset, 3u);
  const GeneratorState state = generator.state();
  EXPECT_EQ(state.offset, 4u);
  Generator restored;
  restored.set_state(state);
  EXPECT_EQ(uniform({5}, restored).to_vector<float>(), uniform({5}, generator).to_vector<float>());
}

using Draw = Tensor& (*)(Tensor&, double, double, Generator&);
Tensor drawn(Draw draw, const Shape& shape, double a, double b, Generator& generator,
             DType dtype = DType::f32) {
  Tensor tensor = empty(shape, dtype);
  return draw(tensor, a, b, generator);
}

uint32_t word_of(uint64_t seed, uint64_t offset, int64_t i) {
  return philox4x32(seed, offset + static_cast<uint64_t>(i) / 4)[static_cast<size_t>(i % 4)];
}

TEST(Uniform, ElementsAreTheDocumentedFunctionOfStateAndPosition) {
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{15}, Shape{63, 111}, Shape{70001}}) {
    Generator generator(42);
    generator.reserve(1000);
    const Tensor x = uniform(shape, generator, DType::f64);
    EXPECT_EQ(generator.state().offset, 1000u + static_cast<uint64_t>(shape.numel() + 3) / 4);
    const auto values = x.to_vector<double>();
    for (int64_t i = 0; i < shape.numel(); ++i)
      ASSERT_EQ(values[static_cast<size_t>(i)], (word_of(42, 1000, i) >> 8) * 0x1p-24) << i;
  }
}

TEST(Normal, ElementsAreTheDocumentedFunctionOfStateAndPosition) {
  Generator generator(43);
  generator.reserve(77);
  const int64_t count = 5001;
  const auto values = normal({count}, generator).to_vector<double>();
  EXPECT_EQ(generator.state().offset, 77u + 1251u);
  for (int64_t i = 0; i < count; ++i) {
    const double v = ((word_of(43, 77, i / 2 * 2) >> 8) + 1) * 0x1p-24;
    const double angle = 2 * M_PI * (word_of(43, 77, i / 2 * 2 + 1) >> 8) * 0x1p-24;
    const double r = std::sqrt(-2 * std::log(v));
    const double expected = r * (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
    ASSERT_NEAR(values[static_cast<size_t>(i)], expected, 1e-6) << i;
  }
}

/// The very bits, so that a change of the mapping or of the arithmetic cannot go unseen.
TEST(Normal, PairsInFewerStepsAreTheSame) {
  for (uint32_t i = 0; i < 1u << 20; ++i) {
    // Words of all sizes, with other bits below those that count; ends and quarters among them.
    const uint32_t word0 = (i << 12) | (i >> 8);
    const uint32_t word1 = i * 0x9E3779B9u;
    for (const auto& [first, second] : {std::pair{word0, word1}, std::pair{~word1, ~word0}}) {
      std::array<float, 2> expected, actual;
      normal_pair(first, second, expected[0], expected[1]);
      lean_normal_pair(first, second, actual[0], actual[1]);
      ASSERT_EQ(std::bit_cast<uint64_t>(actual), std::bit_cast<uint64_t>(expected))
          << first << " " << second;
    }
  }
}

TEST(Normal, KeepsItsBits) {
  Generator generator(1);
  const Tensor x = normal({8}, generator);
  std::vector<uint32_t> bits;
  for (float value : x.to_vector<float>()) bits.push_back(std::bit_cast<uint32_t>(value));
  EXPECT_EQ(bits, (std::vector<uint32_t>{0x3ec2c3dd, 0xbe97b1be, 0xbe7f3711, 0xbf807dbd, 0x3f207fa3,
                                         0xbf224cc4, 0xbf2da338, 0xbf81ac9e}));
}

TEST(Randint, ElementsAreTheDocumentedFunctionOfStateAndPosition) {
  for (DType dtype : {DType::i64, DType::i32, DType::u8}) {
    Generator generator(44);
    const auto values = randint(3, 103, {1111}, generator, dtype).to_vector<int64_t>();
    for (int64_t i = 0; i < 1111; ++i)
      ASSERT_EQ(values[static_cast<size_t>(i)],
                3 + static_cast<int64_t>((word_of(44, 0, i) * uint64_t{100}) >> 32));
  }
}

TEST(Bernoulli, ElementsAreTheDocumentedFunctionOfStateAndPosition) {
  for (DType dtype : {DType::boolean, DType::f32, DType::bf16, DType::i32}) {
    for (double p : {0.0, 0.3, 0.5, 1.0}) {
      Generator generator(45);
      const Tensor x = bernoulli(p, {1111}, generator, dtype);
      EXPECT_EQ(x.dtype(), dtype);
      const auto values = x.to_vector<double>();
      for (int64_t i = 0; i < 1111; ++i)
        ASSERT_EQ(values[static_cast<size_t>(i)], (word_of(45, 0, i) >> 8) * 0x1p-24 < p ? 1 : 0);
    }
  }
}

using Fill = std::function<void(Tensor&, Generator&)>;

void expect_same_in_every_layout(const Fill& fill, DType dtype) {
  const auto make = [&](Tensor x, int threads) {
    const int before = num_threads();
    set_num_threads(threads);
    Generator generator(9);
    generator.reserve(5);
    fill(x, generator);
    set_num_threads(before);
    return x.to_vector<double>();
  };
  const Shape shape{67, 1111};
  const auto expected = make(empty(shape, dtype), 1);
  EXPECT_EQ(make(empty(shape, dtype), 3), expected);
  EXPECT_EQ(make(test::with_gaps(zeros(shape, dtype)), 2), expected);
  EXPECT_EQ(make(test::scattered(zeros(shape, dtype)), 2), expected);
  // A prefix of the stream is the stream of a smaller tensor.
  const auto prefix = make(empty({1111}, dtype), 1);
  EXPECT_TRUE(std::equal(prefix.begin(), prefix.end(), expected.begin()));
}

TEST(Random, DoesNotDependOnThreadsOrLayout) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    expect_same_in_every_layout([](Tensor& x, Generator& g) { uniform_(x, -2, 3, g); }, dtype);
    expect_same_in_every_layout([](Tensor& x, Generator& g) { normal_(x, 1, 2, g); }, dtype);
    expect_same_in_every_layout([](Tensor& x, Generator& g) { bernoulli_(x, 0.4, g); }, dtype);
  }
  expect_same_in_every_layout([](Tensor& x, Generator& g) { randint_(x, -9, 9, g); }, DType::i32);
}

TEST(Random, IsTheSameInEveryTypeButForRounding) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Generator a(3), b(3), c(3), d(3);
    test::expect_near(drawn(&uniform_, {999}, -1, 2, a, dtype),
                      drawn(&uniform_, {999}, -1, 2, b, DType::f64).to_vector<double>(),
                      1.01 * test::rounding_error(dtype), 0x1p-24);
    test::expect_near(drawn(&normal_, {999}, 0.5, 2, c, dtype),
                      drawn(&normal_, {999}, 0.5, 2, d, DType::f64).to_vector<double>(),
                      1.01 * test::rounding_error(dtype), 0x1p-24);
  }
}

TEST(Random, SeedsAndOffsetsGiveOtherNumbers) {
  Generator a(1), b(2);
  const auto first = uniform({1000}, a).to_vector<float>();
  const auto second = uniform({1000}, a).to_vector<float>();
  const auto other = uniform({1000}, b).to_vector<float>();
  int equal = 0;
  for (size_t i = 0; i < 1000; ++i) equal += first[i] == second[i] || first[i] == other[i];
  EXPECT_LT(equal, 3);
}

struct Moments {
  double mean, variance, skewness, kurtosis;
};
Moments moments(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  Moments m{std::accumulate(values.begin(), values.end(), 0.0) / n, 0, 0, 0};
  for (double value : values) {
    const double d = value - m.mean;
    m.variance += d * d / n;
    m.skewness += d * d * d / n;
    m.kurtosis += d * d * d * d / n;
  }
  m.skewness /= std::pow(m.variance, 1.5);
  m.kurtosis /= m.variance * m.variance;
  return m;
}

// Seeds are fixed, so these either hold for ever or never; bounds are 5 standard errors.
constexpr int64_t kSamples = 1'000'000;

TEST(Uniform, FillsItsIntervalEvenly) {
  Generator generator(11);
  const auto values = uniform({kSamples}, generator).to_vector<double>();
  const Moments m = moments(values);
  EXPECT_NEAR(m.mean, 0.5, 5 * std::sqrt(1 / 12.0 / kSamples));
  EXPECT_NEAR(m.variance, 1 / 12.0, 5 * std::sqrt(1 / 180.0 / kSamples));
  std::vector<double> bins(100);
  for (double value : values) {
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    bins[static_cast<size_t>(value * 100)] += 1;
  }
  double chi_squared = 0;
  for (double bin : bins) chi_squared += (bin - kSamples / 100.0) * (bin - kSamples / 100.0);
  chi_squared /= kSamples / 100.0;
  EXPECT_NEAR(chi_squared, 99, 5 * std::sqrt(2 * 99.0));
  double serial = 0;  // neighbours are independent
  for (size_t i = 0; i + 1 < values.size(); ++i)
    serial += (values[i] - 0.5) * (values[i + 1] - 0.5);
  EXPECT_NEAR(serial / kSamples * 12, 0, 5 / std::sqrt(kSamples));
}

TEST(Normal, HasTheMomentsAndTailsOfTheBellCurve) {
  Generator generator(12);
  const auto values = normal({kSamples}, generator).to_vector<double>();
  const Moments m = moments(values);
  EXPECT_NEAR(m.mean, 0, 5 / std::sqrt(kSamples));
  EXPECT_NEAR(m.variance, 1, 5 * std::sqrt(2.0 / kSamples));
  EXPECT_NEAR(m.skewness, 0, 5 * std::sqrt(6.0 / kSamples));
  EXPECT_NEAR(m.kurtosis, 3, 5 * std::sqrt(24.0 / kSamples));
  for (double bound : {-2.0, -1.0, 0.0, 0.5, 1.0, 3.0}) {
    const double expected = 0.5 * std::erfc(-bound / std::sqrt(2.0));
    const auto below =
        std::count_if(values.begin(), values.end(), [&](double v) { return v < bound; });
    EXPECT_NEAR(static_cast<double>(below) / kSamples, expected,
                5 * std::sqrt(expected * (1 - expected) / kSamples))
        << bound;
  }
  double correlation = 0;  // of the two numbers of a pair
  for (size_t i = 0; i < values.size(); i += 2) correlation += values[i] * values[i + 1];
  EXPECT_NEAR(correlation / (kSamples / 2), 0, 5 / std::sqrt(kSamples / 2));
}

TEST(Normal, ScalesAndShifts) {
  Generator a(5), b(5);
  const auto standard = drawn(&normal_, {1000}, 0, 1, a, DType::f64).to_vector<double>();
  const auto values = drawn(&normal_, {1000}, -3, 0.25, b, DType::f64).to_vector<double>();
  for (size_t i = 0; i < 1000; ++i) EXPECT_NEAR(values[i], -3 + 0.25 * standard[i], 1e-15);
  Generator c(5);
  EXPECT_EQ(drawn(&normal_, {3}, 2, 0, c).to_vector<float>(), (std::vector<float>{2, 2, 2}));
}

TEST(Randint, HitsEveryValueEvenly) {
  Generator generator(13);
  std::vector<double> counts(10);
  for (int64_t value : randint(-5, 5, {kSamples}, generator).to_vector<int64_t>())
    counts.at(static_cast<size_t>(value + 5)) += 1;
  for (double count : counts) EXPECT_NEAR(count, kSamples / 10.0, 5 * std::sqrt(kSamples * 0.09));
}

TEST(Randint, TakesTheWidestRange) {
  Generator generator(14);
  const int64_t low = -(int64_t{1} << 40);
  for (int64_t value :
       randint(low, low + (int64_t{1} << 32), {100}, generator).to_vector<int64_t>()) {
    EXPECT_GE(value, low);
    EXPECT_LT(value, low + (int64_t{1} << 32));
  }
  Generator again(14);
  EXPECT_EQ(randint(7, 8, {3}, again).to_vector<int64_t>(), (std::vector<int64_t>{7, 7, 7}));
}

TEST(Permutation, HoldsEveryIndexOnceInAReproducibleOrder) {
  for (int64_t n : {0, 1, 2, 15, 1111, 3000}) {
    Generator a(15), b(15);
    const auto order = permutation(n, a).to_vector<int64_t>();
    EXPECT_EQ(a.state().offset, static_cast<uint64_t>(n + 1) / 2);
    EXPECT_EQ(permutation(n, b).to_vector<int64_t>(), order);
    auto sorted = order;
    std::sort(sorted.begin(), sorted.end());
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(sorted[static_cast<size_t>(i)], i);
    if (n > 10) {
      EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
    }
  }
}

TEST(Permutation, SortsByTheDocumentedKeys) {
  Generator generator(16);
  generator.reserve(3);
  const auto order = permutation(700, generator).to_vector<int64_t>();
  const auto key = [](int64_t i) {
    const Words words = philox4x32(16, 3 + static_cast<uint64_t>(i) / 2);
    const size_t first = i % 2 == 0 ? 0 : 2;
    return uint64_t{words[first + 1]} << 32 | words[first];
  };
  for (size_t i = 0; i + 1 < order.size(); ++i) EXPECT_LT(key(order[i]), key(order[i + 1]));
}

TEST(Permutation, PutsEveryIndexEverywhere) {
  Generator generator(17);
  std::vector<double> first(6);
  for (int trial = 0; trial < 6000; ++trial)
    first[static_cast<size_t>(permutation(6, generator).to_vector<int64_t>()[0])] += 1;
  for (double count : first) EXPECT_NEAR(count, 1000, 5 * std::sqrt(6000 * 5 / 36.0));
}

TEST(Random, CountsAsAChangeAndLeavesEmptyTensorsAndTheStreamAlone) {
  Generator generator(1);
  Tensor x = zeros({3});
  const uint64_t version = x.version();
  uniform_(x, 0, 1, generator);
  EXPECT_EQ(x.version(), version + 1);
  const uint64_t offset = generator.state().offset;
  EXPECT_EQ(normal({0, 4}, generator).numel(), 0);
  EXPECT_EQ(generator.state().offset, offset);
}

TEST(Random, RefusesBadArguments) {
  Generator g(1);
  Tensor floats = zeros({3});
  Tensor ints = zeros({3}, DType::i32);
  Tensor repeated = zeros({1}).expand({3});
  EXPECT_THAT([&] { uniform_(floats, 2, 1, g); },
              ThrowsMessage<ConfigError>(HasSubstr("uniform_: needs finite bounds")));
  EXPECT_THROW(uniform_(floats, 0, INFINITY, g), ConfigError);
  EXPECT_THROW(normal_(floats, 0, -1, g), ConfigError);
  EXPECT_THROW(normal_(floats, NAN, 1, g), ConfigError);
  EXPECT_THAT([&] { normal_(ints, 0, 1, g); }, ThrowsMessage<DTypeError>(HasSubstr("[3] i32")));
  EXPECT_THROW(uniform_(ints, 0, 1, g), DTypeError);
  EXPECT_THROW(randint_(floats, 0, 1, g), DTypeError);
  EXPECT_THROW(randint_(ints, 3, 3, g), ConfigError);
  EXPECT_THROW(randint_(ints, 0, int64_t{1} << 32, g), ConfigError);
  EXPECT_THROW(randint(0, (int64_t{1} << 32) + 1, {2}, g), ConfigError);
  EXPECT_THROW(randint(INT64_MIN, INT64_MAX, {2}, g), ConfigError);
  EXPECT_THROW(randint(0, 257, {2}, g, DType::u8), ConfigError);
  EXPECT_THROW(randint(-1, 2, {2}, g, DType::u8), ConfigError);
  EXPECT_THROW(bernoulli_(floats, 1.1, g), ConfigError);
  EXPECT_THROW(bernoulli_(floats, NAN, g), ConfigError);
  EXPECT_THROW(permutation(-1, g), ConfigError);
  EXPECT_THROW(uniform_(repeated, 0, 1, g), ShapeError);
  Tensor undefined;
  EXPECT_THROW(normal_(undefined, 0, 1, g), ShapeError);
  EXPECT_EQ(g.state().offset, 0u);
}

}  // namespace
}  // namespace weft

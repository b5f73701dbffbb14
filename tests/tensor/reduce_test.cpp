#include "weft/tensor/ops/reduce.h"

#include <cmath>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/parallel.h"

#include "random_tensor.h"

namespace weft {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Numbers around `center`, rounded to `dtype`.
Tensor random_tensor(const Shape& shape, DType dtype = DType::f64, double center = 0) {
  return test::random_tensor(shape, dtype, 1, center - 2, center + 2);
}

using Reference = std::function<double(const std::vector<double>&)>;

/// The elements of each output, found by walking all indices.
std::vector<std::vector<double>> groups_of(const Tensor& x, const std::vector<bool>& reduced) {
  const std::vector<double> values = x.to_vector<double>();
  int64_t outputs = 1;
  for (int axis = 0; axis < x.rank(); ++axis)
    if (!reduced[static_cast<size_t>(axis)]) outputs *= x.size(axis);
  std::vector<std::vector<double>> groups(static_cast<size_t>(outputs));
  for (int64_t position = 0; position < x.numel(); ++position) {
    int64_t rest = position;
    int64_t output = 0;
    int64_t step = 1;
    for (int axis = x.rank() - 1; axis >= 0; --axis) {
      const int64_t index = rest % x.size(axis);
      rest /= x.size(axis);
      if (reduced[static_cast<size_t>(axis)]) continue;
      output += index * step;
      step *= x.size(axis);
    }
    groups[static_cast<size_t>(output)].push_back(values[static_cast<size_t>(position)]);
  }
  return groups;
}

double sum_of(const std::vector<double>& v) {
  long double total = 0;
  for (double value : v) total += value;
  return static_cast<double>(total);
}
double mean_of(const std::vector<double>& v) {
  return sum_of(v) / static_cast<double>(v.size());
}
double max_of(const std::vector<double>& v) {
  return *std::max_element(v.begin(), v.end());
}
double min_of(const std::vector<double>& v) {
  return *std::min_element(v.begin(), v.end());
}
double var_of(const std::vector<double>& v) {
  const double mean = mean_of(v);
  double total = 0;
  for (double value : v) total += (value - mean) * (value - mean);
  return total / static_cast<double>(v.size() - 1);
}
double norm_of(const std::vector<double>& v, double p) {
  double total = 0;
  if (p == kInfinity) {
    for (double value : v) total = std::max(total, std::abs(value));
    return total;
  }
  for (double value : v) total += std::pow(std::abs(value), p);
  return std::pow(total, 1 / p);
}
double logsumexp_of(const std::vector<double>& v) {
  double total = 0;
  for (double value : v) total += std::exp(value);
  return std::log(total);
}

struct Case {
  const char* name;
  std::function<Tensor(const Tensor&, const Axes&, bool)> reduce;
  Reference reference;
};

std::vector<Case> floating_cases() {
  const auto norm_case = [](const char* name, double p) {
    return Case{name, [p](const Tensor& x, const Axes& a, bool k) { return norm(x, a, p, k); },
                [p](const std::vector<double>& v) { return norm_of(v, p); }};
  };
  return {{"sum", sum, sum_of},
          {"mean", mean, mean_of},
          {"max", max, max_of},
          {"min", min, min_of},
          {"var", [](const Tensor& x, const Axes& a, bool k) { return var(x, a, 1, k); }, var_of},
          norm_case("norm 1", 1),
          norm_case("norm 2", 2),
          norm_case("norm 3.5", 3.5),
          norm_case("norm infinity", kInfinity),
          {"logsumexp", logsumexp, logsumexp_of}};
}

/// Relative to the sum of magnitudes for f32 accumulation, plus the rounding of the result.
double tolerance(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 1e-12;
    case DType::f32:
      return 2e-6;
    case DType::f16:
      return 6e-4;
    default:
      return 4.5e-3;
  }
}

void expect_reductions_match(const Tensor& x, const std::vector<int>& axes) {
  std::vector<bool> reduced(static_cast<size_t>(x.rank()), axes.empty());
  for (int axis : axes) reduced[static_cast<size_t>(axis < 0 ? axis + x.rank() : axis)] = true;
  Shape kept, with_ones;
  for (int axis = 0; axis < x.rank(); ++axis) {
    const bool is_reduced = reduced[static_cast<size_t>(axis)];
    if (!is_reduced) kept.push_back(x.size(axis));
    with_ones.push_back(is_reduced ? 1 : x.size(axis));
  }
  const std::vector<std::vector<double>> groups = groups_of(x, reduced);
  const double largest = std::max(1.0, norm(x.to(DType::f64), {}, kInfinity).item<double>());
  for (const Case& c : floating_cases()) {
    SCOPED_TRACE(testing::Message()
                 << c.name << " of " << describe(x) << " over " << testing::PrintToString(axes));
    const Tensor y = c.reduce(x, axes, false);
    EXPECT_EQ(y.shape(), kept);
    EXPECT_EQ(c.reduce(x, axes, true).shape(), with_ones);
    EXPECT_EQ(y.dtype(), x.dtype());
    std::vector<double> expected;
    for (const auto& group : groups) expected.push_back(c.reference(group));
    const std::vector<double> got = y.to_vector<double>();
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      if (std::isnan(expected[i])) {
        EXPECT_TRUE(std::isnan(got[i])) << i;
      } else {
        // A sum that cancels is as exact as its terms and their number allow.
        const double scale = c.name == std::string("sum") ? norm_of(groups[i], 2) : largest;
        ASSERT_NEAR(got[i], expected[i],
                    tolerance(x.dtype()) * std::max(scale, std::abs(expected[i])))
            << i;
      }
    }
  }
}

TEST(Reduce, MatchesLoopsForShapesAndAxes) {
  for (const Shape& shape :
       {Shape{1}, Shape{15}, Shape{63}, Shape{1025}, Shape{111, 15}, Shape{15, 111}, Shape{3, 1, 7},
        Shape{5, 63, 4}, Shape{2, 3, 15, 5}, Shape{1, 1}}) {
    const Tensor x = random_tensor(shape);
    for (unsigned mask = 1; mask < 1u << x.rank(); ++mask) {
      std::vector<int> axes;
      for (int axis = 0; axis < x.rank(); ++axis)
        if (mask >> axis & 1u) axes.push_back(axis % 2 ? axis - x.rank() : axis);
      expect_reductions_match(x, axes);
    }
  }
}

TEST(Reduce, MatchesLoopsForEveryFloatingType) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (double center : {0.0, 3.0}) {
      const Tensor x = random_tensor({5, 70, 33}, dtype, center);
      for (const auto& axes :
           std::vector<std::vector<int>>{{}, {0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}})
        expect_reductions_match(x, axes);
    }
  }
}

TEST(Reduce, MatchesLoopsForViews) {
  const Tensor x = random_tensor({7, 40, 36}, DType::f32);
  for (const Tensor& view :
       {x.transpose(0, 2), x.slice(1, 3, 40, 2), x.slice(2, 1, 36), x.select(1, 5),
        x.slice(1, 7, 8).expand({7, 20, 36}), x.slice(2, 0, 1).expand({7, 40, 9}),
        x.permute({1, 2, 0}), x.slice(2, 2, 30, 3).transpose(0, 1)}) {
    for (int axis = 0; axis < view.rank(); ++axis) expect_reductions_match(view, {axis});
    expect_reductions_match(view, {});
    expect_reductions_match(view, {0, -1});
  }
}

TEST(Reduce, MatchesLoopsWhereWorkIsCutIntoPieces) {
  expect_reductions_match(random_tensor({140000}, DType::f32), {});
  expect_reductions_match(random_tensor({2, 70001}, DType::f32), {1});
  expect_reductions_match(random_tensor({30001, 3}, DType::f32), {0});
  expect_reductions_match(random_tensor({301, 600}, DType::f32), {0});
  expect_reductions_match(random_tensor({3, 300, 77}, DType::f32), {1});
  expect_reductions_match(random_tensor({3000, 63}, DType::bf16), {0});
}

TEST(Reduce, RankZeroIsItsOwnReduction) {
  const Tensor x = scalar(-2.5, DType::f64);
  EXPECT_EQ(sum(x).item<double>(), -2.5);
  EXPECT_EQ(sum(x).shape(), Shape{});
  EXPECT_EQ(max(x).item<double>(), -2.5);
  EXPECT_EQ(norm(x).item<double>(), 2.5);
  EXPECT_EQ(logsumexp(x).item<double>(), -2.5);
  EXPECT_EQ(var(x, {}, 0).item<double>(), 0);
}

TEST(Reduce, NothingToReduceStillCopies) {
  Tensor x = ones({2, 1});
  const Tensor y = sum(x, 1, true);
  x.fill_(5);
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{1, 1}));
}

TEST(Reduce, LongSumsOfFloatsStayAccurate) {
  const int64_t n = (int64_t{1} << 24) + 12345;  // plain f32 addition of ones stops at 2^24
  EXPECT_EQ(sum(ones({1}).expand({n})).item<double>(), static_cast<double>(static_cast<float>(n)));
  const Tensor tenth = full({1}, 0.1);
  EXPECT_NEAR(mean(tenth.expand({n})).item<double>(), tenth.item<double>(), 3e-8);
  EXPECT_NEAR(sum(tenth.expand({n, 2}).clone(), 0).to_vector<double>()[1] / n, tenth.item<double>(),
              2e-8);
}

TEST(Reduce, VarianceSurvivesALargeMean) {
  const Tensor x = random_tensor({30000}, DType::f32, 1000);
  EXPECT_NEAR(var(x).item<double>(), var_of(x.to_vector<double>()), 1e-5);
}

TEST(Reduce, NormOfLargeAndSmallFloatsNeitherOverflowsNorVanishes) {
  EXPECT_NEAR(norm(full({4}, 1e30)).item<double>(), 2e30, 1e24);
  EXPECT_NEAR(norm(full({4}, 1e-30)).item<double>(), 2e-30, 1e-36);
}

TEST(Reduce, DoesNotDependOnTheNumberOfThreads) {
  const Tensor x = random_tensor({300, 1111}, DType::f32);
  const auto run = [&] {
    std::vector<float> results;
    for (const Case& c : floating_cases())
      for (const Axes& axes : {Axes{}, Axes{0}, Axes{1}})
        for (float value : c.reduce(x, axes, false).to_vector<float>()) results.push_back(value);
    return results;
  };
  const int before = num_threads();
  set_num_threads(1);
  const std::vector<float> one = run();
  for (int threads : {2, 3, 7}) {
    set_num_threads(threads);
    EXPECT_EQ(run(), one) << threads;
  }
  set_num_threads(before);
}

TEST(Reduce, IntegersAndBoolsAddUpInI64) {
  const Tensor x = full({3, 100}, 2000000000, DType::i32);
  EXPECT_EQ(sum(x).dtype(), DType::i64);
  EXPECT_EQ(sum(x).item<int64_t>(), 600000000000);
  EXPECT_EQ(sum(x, 0).to_vector<int64_t>(), std::vector<int64_t>(100, 6000000000));
  EXPECT_EQ(sum(full({300}, 255, DType::u8)).item<int64_t>(), 76500);
  EXPECT_EQ(sum(from_vector<bool>({true, false, true}, {3})).item<int64_t>(), 2);
  const int64_t large = (int64_t{1} << 53) + 1;
  const Tensor exact = from_vector<int64_t>({large, -5, large - 1}, {3});
  EXPECT_EQ(max(exact).item<int64_t>(), large);
  EXPECT_EQ(min(exact).item<int64_t>(), -5);
  EXPECT_EQ(max(full({5}, 200, DType::u8)).dtype(), DType::u8);
  EXPECT_EQ(argmax(exact, 0).item<int64_t>(), 0);
}

TEST(Reduce, EmptyAxes) {
  const Tensor x = empty({3, 0}, DType::f64);
  EXPECT_EQ(sum(x, 1).to_vector<double>(), (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(sum(x, 0).shape(), (Shape{0}));
  EXPECT_EQ(sum(x).item<double>(), 0);
  EXPECT_TRUE(std::isnan(mean(x).item<double>()));
  EXPECT_TRUE(std::isnan(var(x).item<double>()));
  EXPECT_EQ(norm(x).item<double>(), 0);
  EXPECT_EQ(logsumexp(x).item<double>(), -kInfinity);
  EXPECT_FALSE(any(x).item<int>());
  EXPECT_TRUE(all(x).item<int>());
  EXPECT_EQ(max(x, 0).shape(), (Shape{0}));
  EXPECT_THROW(max(x), ShapeError);
  EXPECT_THROW(min(x, 1), ShapeError);
  EXPECT_THROW(argmax(x, 1), ShapeError);
}

TEST(Reduce, NaNAndInfinity) {
  std::vector<double> values(3000, 1.0);
  values[2500] = kNaN;
  values[2700] = 9;
  values[2800] = kNaN;
  const Tensor x = from_vector(values, {3000});
  for (const Tensor& t : {x, x.to(DType::f32), x.to(DType::bf16)}) {
    EXPECT_TRUE(std::isnan(max(t).item<double>()));
    EXPECT_TRUE(std::isnan(min(t).item<double>()));
    EXPECT_TRUE(std::isnan(sum(t).item<double>()));
    EXPECT_TRUE(std::isnan(norm(t, {}, kInfinity).item<double>()));
    EXPECT_TRUE(std::isnan(logsumexp(t).item<double>()));
    EXPECT_EQ(argmax(t, 0).item<int64_t>(), 2500);
    EXPECT_EQ(argmin(t, 0).item<int64_t>(), 2500);
    EXPECT_TRUE(std::isnan(max(t.view({1000, 3}), 0).to_vector<double>()[1]));
    EXPECT_EQ(max(t.view({1000, 3}), 0).to_vector<double>()[0], 9);
  }
  const Tensor edges = from_vector<double>({-kInfinity, -kInfinity, 1, kInfinity}, {2, 2});
  EXPECT_EQ(logsumexp(edges, 1).to_vector<double>(), (std::vector<double>{-kInfinity, kInfinity}));
  EXPECT_EQ(logsumexp(edges, 0).to_vector<double>(), (std::vector<double>{1, kInfinity}));
  EXPECT_EQ(max(edges, 1).to_vector<double>(), (std::vector<double>{-kInfinity, kInfinity}));
  EXPECT_NEAR(logsumexp(full({2}, 1000)).item<double>(), 1000 + std::log(2), 1e-4);
}

TEST(Reduce, ArgmaxTakesTheFirstOfEquals) {
  std::vector<double> values(5000, 0.0);
  values[1700] = values[1701] = values[4400] = 3;
  const Tensor x = from_vector(values, {5000});
  EXPECT_EQ(argmax(x, 0).item<int64_t>(), 1700);
  EXPECT_EQ(argmin(x, 0).item<int64_t>(), 0);
  EXPECT_EQ(argmax(x.expand({3, -1}), 1, true).shape(), (Shape{3, 1}));
  EXPECT_EQ(argmax(x.view({1000, 5}), 0).to_vector<int64_t>(),
            (std::vector<int64_t>{340, 340, 0, 0, 0}));
  EXPECT_EQ(argmax(full({4}, -kInfinity), 0).item<int64_t>(), 0);
  EXPECT_EQ(argmax(full({4}, 7, DType::u8), 0).item<int64_t>(), 0);
}

TEST(Reduce, AnyAndAll) {
  Tensor x = zeros({2, 1500}, DType::boolean);
  EXPECT_EQ(any(x, 1).to_vector<bool>(), (std::vector<bool>{false, false}));
  x.select(0, 1).select(0, 1400).fill_(1);
  EXPECT_EQ(any(x, 1).to_vector<bool>(), (std::vector<bool>{false, true}));
  EXPECT_EQ(any(x).dtype(), DType::boolean);
  Tensor y = full({3, 4}, kNaN);
  EXPECT_TRUE(all(y).item<int>());
  y.select(0, 1).select(0, 2).fill_(0);
  EXPECT_EQ(all(y, 1).to_vector<bool>(), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(all(y, 0).to_vector<bool>(), (std::vector<bool>{true, true, false, true}));
}

TEST(Reduce, ErrorsSayWhatIsWrong) {
  const Tensor x = zeros({2, 3});
  EXPECT_THROW(sum(x, 2), ShapeError);
  EXPECT_THROW(sum(x, {0, -2}), ShapeError);
  EXPECT_THROW(sum(Tensor()), ShapeError);
  EXPECT_THROW(mean(zeros({2}, DType::i64)), DTypeError);
  EXPECT_THROW(max(zeros({2}, DType::boolean)), DTypeError);
  EXPECT_THROW(norm(x, {}, 0), ConfigError);
  EXPECT_THROW(norm(x, {}, kNaN), ConfigError);
  EXPECT_THROW(var(x, {}, -1), ConfigError);
  EXPECT_THROW(argmax(scalar(1), 0), ShapeError);
  try {
    max(empty({2, 0}), 1);
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "max: axis 1 of [2, 0] f32 cpu has no elements");
  }
}

}  // namespace
}  // namespace weft

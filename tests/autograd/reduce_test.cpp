#include "weft/autograd/functions/reduce.h"

#include <cmath>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/ops/reduce.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  const char* name;
  std::function<Variable(const Variable&, const Axes&, bool)> reduce;
};

std::vector<Case> cases() {
  const auto norm_case = [](const char* name, double p) {
    return Case{name, [p](const Variable& x, const Axes& a, bool k) { return norm(x, a, p, k); }};
  };
  return {{"sum", sum},
          {"mean", mean},
          {"max", max},
          {"min", min},
          {"var", [](const Variable& x, const Axes& a, bool k) { return var(x, a, 1, k); }},
          {"var 0", [](const Variable& x, const Axes& a, bool k) { return var(x, a, 0, k); }},
          norm_case("norm 1", 1),
          norm_case("norm 1.5", 1.5),
          norm_case("norm 2", 2),
          norm_case("norm 3", 3),
          norm_case("norm infinity", kInfinity),
          {"logsumexp", logsumexp}};
}

TEST(ReduceGrad, MatchesDifferences) {
  // Small elements of norms with p < 2 have a large third derivative.
  const GradCheckOptions options{.step = 1e-6, .relative_tolerance = 1e-5};
  for (const Case& c : cases()) {
    for (const Axes& axes : {Axes{}, Axes{0}, Axes{-1}, Axes{0, 2}, Axes{1, 2}}) {
      for (bool keepdim : {false, true}) {
        const auto result = grad_check(
            [&](const std::vector<Variable>& v) { return c.reduce(v[0], axes, keepdim); },
            {Variable(random_tensor({3, 4, 5}, DType::f64), true)}, options);
        EXPECT_TRUE(result) << c.name << ": " << result.message;
      }
    }
    const auto rank_zero =
        grad_check([&](const std::vector<Variable>& v) { return c.reduce(v[0], {}, false); },
                   {Variable(scalar(1.5, DType::f64), true)}, options);
    const bool has_gradient = std::string(c.name) != "var";  // NaN with one element
    EXPECT_EQ(rank_zero.ok, has_gradient) << c.name << rank_zero.message;
  }
}

Tensor gradient(const std::function<Variable(const Variable&)>& f, std::vector<double> values) {
  const auto count = static_cast<int64_t>(values.size());
  Variable x(from_vector(values, {count}), true);
  f(x).backward();
  return x.grad();
}

TEST(ReduceGrad, TiesShareTheGradientOfMaxAndMin) {
  EXPECT_EQ(gradient([](const Variable& x) { return max(x); }, {3, 1, 3, 2}).to_vector<double>(),
            (std::vector<double>{0.5, 0, 0.5, 0}));
  EXPECT_EQ(gradient([](const Variable& x) { return min(x); }, {5, 5, 5, 5}).to_vector<double>(),
            std::vector<double>(4, 0.25));
  EXPECT_EQ(gradient([](const Variable& x) { return norm(x, {}, kInfinity); }, {-2, 1, 2, 0})
                .to_vector<double>(),
            (std::vector<double>{-0.5, 0, 0.5, 0}));
  Variable rows(from_vector<double>({1, 1, 2, 3}, {2, 2}), true);
  max(rows, 1).backward(from_vector<double>({4, 5}, {2}));
  EXPECT_EQ(rows.grad().to_vector<double>(), (std::vector<double>{2, 2, 0, 5}));
}

TEST(ReduceGrad, NormsHaveNoGradientAtZero) {
  for (double p : {1.0, 1.5, 2.0, 3.0, kInfinity}) {
    EXPECT_EQ(
        gradient([p](const Variable& x) { return norm(x, {}, p); }, {0, 0, 0}).to_vector<double>(),
        std::vector<double>(3, 0))
        << p;
    test::expect_near(gradient([p](const Variable& x) { return norm(x, {}, p); }, {0, 4, 0}),
                      {0, 1, 0}, 1e-15, 0);
  }
}

TEST(ReduceGrad, LogsumexpOfMaskedElements) {
  EXPECT_EQ(gradient([](const Variable& x) { return logsumexp(x); }, {-kInfinity, -kInfinity})
                .to_vector<double>(),
            (std::vector<double>{0, 0}));
  EXPECT_EQ(
      gradient([](const Variable& x) { return logsumexp(x); }, {-kInfinity, 7}).to_vector<double>(),
      (std::vector<double>{0, 1}));
}

TEST(ReduceGrad, EmptyAxesGiveEmptyGradients) {
  for (const auto& reduce : {sum, mean, logsumexp}) {
    Variable x(empty({3, 0}, DType::f64), true);
    reduce(x, 1, false).backward(ones({3}, DType::f64));
    EXPECT_EQ(x.grad().shape(), (Shape{3, 0}));
  }
}

TEST(ReduceGrad, ExpandedAndHalfInputs) {
  Variable x(random_tensor({1, 6}, DType::bf16), true);
  Variable wide(x.data().expand({64, 6}), true);
  mean(wide, 0).backward(ones({6}, DType::bf16));
  EXPECT_EQ(wide.grad().dtype(), DType::bf16);
  EXPECT_EQ(wide.grad().to_vector<double>(), std::vector<double>(64 * 6, 1.0 / 64));
}

TEST(ReduceGrad, OneElementHasNoUnbiasedVariance) {
  EXPECT_TRUE(std::isnan(gradient([](const Variable& x) { return var(x); }, {2}).item<double>()));
}

}  // namespace
}  // namespace weft::autograd

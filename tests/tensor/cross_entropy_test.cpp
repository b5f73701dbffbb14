#include "weft/tensor/ops/cross_entropy.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/parallel.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;
using test::rounding_error;

Tensor random_targets(int64_t n, int64_t classes, uint64_t seed, double ignored = 0.2) {
  const std::vector<double> draws =
      random_tensor({2, n}, DType::f64, seed, 0, 1).to_vector<double>();
  std::vector<int64_t> targets;
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    targets.push_back(draws[i] < ignored ? kIgnoreIndex
                                         : static_cast<int64_t>(draws[static_cast<size_t>(n) + i] *
                                                                static_cast<double>(classes)));
  }
  return from_vector(targets, {n});
}

struct Reference {
  std::vector<double> losses, logsumexp, dlogits;  // dlogits for losses that count 1 each
  double mean = 0;
  double counted = 0;
};

Reference reference(const Tensor& logits, const Tensor& targets, double smoothing) {
  Reference result;
  const auto x = logits.to_vector<double>();
  const auto t = targets.to_vector<int64_t>();
  const auto classes = static_cast<size_t>(logits.size(1));
  for (size_t row = 0; row < t.size(); ++row) {
    const double* const in = x.data() + row * classes;
    double highest = in[0];
    for (size_t i = 0; i < classes; ++i) highest = std::max(highest, in[i]);
    double sum = 0;
    for (size_t i = 0; i < classes; ++i) sum += std::exp(in[i] - highest);
    const double lse = highest + std::log(sum);
    double loss = 0;
    const bool counts = t[row] != kIgnoreIndex;
    for (size_t i = 0; i < classes; ++i) {
      const double q = smoothing / static_cast<double>(classes) +
                       (static_cast<int64_t>(i) == t[row] ? 1 - smoothing : 0);
      if (q > 0) loss += q * (lse - in[i]);
      result.dlogits.push_back(counts ? std::exp(in[i] - lse) - q : 0);
    }
    result.logsumexp.push_back(lse);
    result.losses.push_back(counts ? loss : 0);
    result.mean += result.losses.back();
    result.counted += counts;
  }
  if (result.counted > 0) result.mean /= result.counted;
  return result;
}

class CrossEntropy : public testing::TestWithParam<DType> {
 protected:
  DType dtype() const { return GetParam(); }
  bool is_double() const { return dtype() == DType::f64; }
};

TEST_P(CrossEntropy, MatchesTheReference) {
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 2}, Shape{5, 15}, Shape{7, 111}, Shape{33, 256},
                             Shape{4, 2048}, Shape{3, 2049}, Shape{2, 5003}}) {
    for (const double smoothing : {0.0, 0.1, 1.0}) {
      SCOPED_TRACE(to_string(shape) + " smoothing " + std::to_string(smoothing));
      const Tensor logits = random_tensor(shape, dtype(), 1, -9, 9);
      const Tensor targets = random_targets(shape[0], shape[1], 2);
      const Reference expected = reference(logits, targets, smoothing);
      const CrossEntropyResult result =
          cross_entropy_forward(logits, targets, kIgnoreIndex, smoothing);
      const double relative = is_double() ? 1e-13 : 1e-6;
      EXPECT_EQ(result.losses.dtype(), is_double() ? DType::f64 : DType::f32);
      EXPECT_NEAR(result.share.item<double>(), 1 / std::max(1.0, expected.counted), 1e-8);
      expect_near(result.losses, expected.losses, relative, 5 * relative, "losses");
      expect_near(result.logsumexp, expected.logsumexp, relative, relative, "logsumexp");
      expect_near(cross_entropy(logits, targets.to(DType::i32), kIgnoreIndex, smoothing),
                  {expected.mean}, relative, 5 * relative, "mean");
      EXPECT_EQ(
          cross_entropy_per_token(logits, targets, kIgnoreIndex, smoothing).to_vector<double>(),
          result.losses.to_vector<double>());
      const Tensor dlogits =
          cross_entropy_backward(ones({shape[0]}, result.losses.dtype()), logits, targets,
                                 result.logsumexp, kIgnoreIndex, smoothing);
      EXPECT_EQ(dlogits.dtype(), dtype());
      expect_near(dlogits, expected.dlogits, is_double() ? 1e-12 : rounding_error(dtype()) + 1e-6,
                  is_double() ? 1e-13 : 2e-6 + test::underflow_error(dtype()), "dlogits");
    }
  }
}

TEST_P(CrossEntropy, ScalesRowsAndReadsEveryLayout) {
  const Tensor logits = random_tensor({6, 37}, dtype(), 1);
  const Tensor targets = random_targets(6, 37, 2);
  const CrossEntropyResult dense = cross_entropy_forward(logits, targets);
  const Tensor scales = random_tensor({6}, dense.losses.dtype(), 3);
  const Tensor dlogits = cross_entropy_backward(scales, logits, targets, dense.logsumexp);
  for (const auto& layout : {test::with_gaps, test::scattered}) {
    const CrossEntropyResult result = cross_entropy_forward(layout(logits), layout(targets));
    EXPECT_EQ(result.losses.to_vector<double>(), dense.losses.to_vector<double>());
    EXPECT_EQ(cross_entropy_backward(layout(scales), layout(logits), layout(targets),
                                     layout(dense.logsumexp))
                  .to_vector<double>(),
              dlogits.to_vector<double>());
  }
  Reference expected = reference(logits, targets, 0);
  const std::vector<double> factors = scales.to_vector<double>();
  for (size_t i = 0; i < expected.dlogits.size(); ++i) expected.dlogits[i] *= factors[i / 37];
  expect_near(dlogits, expected.dlogits, is_double() ? 1e-12 : rounding_error(dtype()) + 1e-6,
              is_double() ? 1e-13 : 2e-6);
}

/// Errors of products in low precision: hidden and weight are exact there, logits are f32, and
/// dlogits are rounded once.
TEST_P(CrossEntropy, LinearFormEqualsTheProductOfItsParts) {
  const DType master = is_double() ? DType::f64 : DType::f32;
  for (const DType weight_dtype : {dtype(), master}) {
    for (const auto& [n, classes, width] :
         {std::array<int64_t, 3>{1, 1, 1}, {7, 15, 9}, {40, 300, 33}, {129, 2100, 16}}) {
      SCOPED_TRACE(testing::Message() << n << " x " << classes << " x " << width);
      const Tensor hidden = random_tensor({n, width}, dtype(), 1);
      // Values that every type holds, so that the low-precision copy of the weight is exact.
      const Tensor weight = random_tensor({classes, width}, DType::bf16, 2, -1, 1).to(weight_dtype);
      const Tensor targets = random_targets(n, classes, 3);
      const auto h = hidden.to_vector<double>();
      const auto w = weight.to_vector<double>();
      const auto rows = static_cast<size_t>(n);
      const auto columns = static_cast<size_t>(width);
      const auto labels = static_cast<size_t>(classes);
      std::vector<double> logits(rows * labels);
      for (size_t i = 0; i < rows; ++i) {
        for (size_t v = 0; v < labels; ++v) {
          for (size_t e = 0; e < columns; ++e)
            logits[i * labels + v] += h[i * columns + e] * w[v * columns + e];
        }
      }
      const double smoothing = 0.1;
      const Reference expected = reference(from_vector(logits, {n, classes}), targets, smoothing);
      const double share = expected.counted > 0 ? 1 / expected.counted : 0;
      std::vector<double> dhidden(h.size());
      std::vector<double> dweight(w.size());
      for (size_t i = 0; i < rows; ++i) {
        for (size_t v = 0; v < labels; ++v) {
          const double d = expected.dlogits[i * labels + v] * share;
          for (size_t e = 0; e < columns; ++e) {
            dhidden[i * columns + e] += d * w[v * columns + e];
            dweight[v * columns + e] += d * h[i * columns + e];
          }
        }
      }
      for (const int64_t chunk : {int64_t{0}, (n + 2) / 3}) {
        const LinearCrossEntropyResult result =
            linear_cross_entropy_forward(hidden, weight, targets,
                                         {.label_smoothing = smoothing,
                                          .want_dhidden = true,
                                          .want_dweight = true,
                                          .chunk_rows = chunk});
        const double relative = is_double() ? 1e-12 : 1e-5;
        expect_near(result.losses, expected.losses, relative, relative, "losses");
        expect_near(result.loss, {expected.mean}, relative, relative, "loss");
        EXPECT_EQ(result.dhidden.dtype(), dtype());
        EXPECT_EQ(result.dweight.dtype(), master);
        // Each dlogit errs by its rounding; a row of them adds up to at most 2.
        const double unit = is_double() ? 1e-12 : rounding_error(dtype()) + 1e-5;
        expect_near(result.dhidden, dhidden, unit, 2 * unit * share, "dhidden");
        expect_near(result.dweight, dweight, unit, 2 * unit, "dweight");
      }
      const Tensor losses =
          linear_cross_entropy_per_token(hidden, weight, targets, kIgnoreIndex, smoothing);
      expect_near(losses, expected.losses, is_double() ? 1e-12 : 1e-5, is_double() ? 1e-12 : 1e-5);
      expect_near(linear_cross_entropy(hidden, weight, targets, kIgnoreIndex, smoothing),
                  {expected.mean}, is_double() ? 1e-12 : 1e-5, is_double() ? 1e-12 : 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CrossEntropy,
                         testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(CrossEntropyEdges, NothingCounted) {
  const Tensor logits = random_tensor({3, 5}, DType::f32);
  const Tensor targets = full({3}, 4, DType::i64);
  EXPECT_EQ(cross_entropy(logits, targets, /*ignore_index=*/4).item<float>(), 0.0f);
  EXPECT_EQ(cross_entropy(empty({0, 5}), empty({0}, DType::i64)).item<float>(), 0.0f);
  const LinearCrossEntropyOptions options{
      .ignore_index = 4, .want_dhidden = true, .want_dweight = true};
  const Tensor weight = random_tensor({5, 2}, DType::f32);
  for (const int64_t n : {3, 0}) {
    const LinearCrossEntropyResult result = linear_cross_entropy_forward(
        random_tensor({n, 2}, DType::f32), weight, targets.slice(0, 0, n), options);
    EXPECT_EQ(result.loss.item<float>(), 0.0f);
    EXPECT_EQ(result.dhidden.to_vector<float>(), std::vector<float>(static_cast<size_t>(2 * n)));
    EXPECT_EQ(result.dweight.to_vector<float>(), std::vector<float>(10));
  }
}

TEST(CrossEntropyEdges, AGivenScaleReplacesTheMean) {
  const int64_t n = 17;
  const int64_t classes = 37;
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(to_string(dtype));
    const DType accumulator = dtype == DType::f64 ? DType::f64 : DType::f32;
    const Tensor hidden = random_tensor({n, 9}, dtype, 1);
    const Tensor weight = random_tensor({classes, 9}, DType::bf16, 2).to(accumulator);
    const Tensor targets = random_targets(n, classes, 3);
    LinearCrossEntropyOptions options{.want_dhidden = true, .want_dweight = true, .chunk_rows = 5};
    const LinearCrossEntropyResult mean =
        linear_cross_entropy_forward(hidden, weight, targets, options);
    double counted = 0;
    for (const int64_t target : targets.to_vector<int64_t>()) counted += target != kIgnoreIndex;
    options.scale = scalar(3 / counted);  // f32 for all of them
    const LinearCrossEntropyResult scaled =
        linear_cross_entropy_forward(hidden, weight, targets, options);
    const auto expect_times_three = [&](const Tensor& actual, const Tensor& of, double error) {
      std::vector<double> expected = of.to_vector<double>();
      for (double& value : expected) value *= 3;
      expect_near(actual, expected, error, error);
    };
    EXPECT_EQ(scaled.losses.to_vector<double>(), mean.losses.to_vector<double>());
    expect_times_three(scaled.loss, mean.loss, 1e-6);
    expect_times_three(scaled.dweight, mean.dweight, 1e-6);
    expect_times_three(scaled.dhidden, mean.dhidden, 2 * rounding_error(dtype) + 1e-6);
  }
  const Tensor hidden = zeros({2, 3});
  const Tensor weight = zeros({4, 3});
  const Tensor targets = zeros({2}, DType::i64);
  EXPECT_THROW(linear_cross_entropy_forward(hidden, weight, targets, {.scale = ones({1})}),
               ShapeError);
  EXPECT_THROW(
      linear_cross_entropy_forward(hidden, weight, targets, {.scale = scalar(1, DType::f64)}),
      DTypeError);
}

TEST(CrossEntropyEdges, ExtremeLogits) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // Beyond the range of exp in both directions, and classes that are masked out.
  Tensor logits = full({4, 3000}, -5000);
  logits.select(0, 1).fill_(5000);
  logits.select(0, 2).fill_(-kInfinity);
  logits.select(0, 2).slice(0, 2500, 2502).fill_(7);
  logits.select(0, 3).slice(0, 0, 1).fill_(4000);
  const Tensor targets = from_vector<int64_t>({3, 2999, 2500, 0}, {4});
  const CrossEntropyResult result = cross_entropy_forward(logits, targets);
  expect_near(result.losses, {std::log(3000), std::log(3000), std::log(2), 0}, 1e-4, 0);
  const std::vector<float> dlogits =
      cross_entropy_backward(ones({4}), logits, targets, result.logsumexp).to_vector<float>();
  for (const float d : dlogits) ASSERT_TRUE(std::isfinite(d));
  EXPECT_NEAR(dlogits[2 * 3000 + 2500], -0.5f, 1e-6f);
  EXPECT_EQ(dlogits[2 * 3000], 0.0f);
  EXPECT_EQ(dlogits[3 * 3000], 0.0f);

  // A target that cannot be: an infinite loss, finite gradients.
  const CrossEntropyResult impossible =
      cross_entropy_forward(logits.slice(0, 2, 3), zeros({1}, DType::i64));
  EXPECT_EQ(impossible.losses.item<float>(), kInfinity);
}

TEST(CrossEntropyEdges, NanReachesItsLossAlone) {
  for (const int64_t at : {0, 1000, 2999}) {
    Tensor logits = random_tensor({3, 3000}, DType::f32);
    logits.select(0, 1).slice(0, at, at + 1).fill_(std::nan(""));
    const Tensor targets = full({3}, 5, DType::i64);
    const std::vector<float> losses = cross_entropy_per_token(logits, targets).to_vector<float>();
    EXPECT_FALSE(std::isnan(losses[0]));
    EXPECT_TRUE(std::isnan(losses[1])) << at;
    EXPECT_FALSE(std::isnan(losses[2]));
  }
}

TEST(CrossEntropyBits, DoNotDependOnTheNumberOfThreads) {
  const int before = num_threads();
  const Tensor logits = random_tensor({301, 500}, DType::f32);
  const Tensor targets = random_targets(301, 500, 1);
  std::vector<std::vector<double>> gradients;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    const CrossEntropyResult result = cross_entropy_forward(logits, targets);
    gradients.push_back(cross_entropy_backward(result.losses, logits, targets, result.logsumexp)
                            .to_vector<double>());
  }
  set_num_threads(before);
  EXPECT_EQ(gradients[0], gradients[1]);
  EXPECT_EQ(gradients[0], gradients[2]);
}

TEST(CrossEntropyErrors, NameTheArgument) {
  const Tensor logits = zeros({2, 5});
  const Tensor targets = zeros({2}, DType::i64);
  EXPECT_THROW(cross_entropy(zeros({5}), targets), ShapeError);
  EXPECT_THROW(cross_entropy(zeros({2, 0}), targets), ShapeError);
  EXPECT_THROW(cross_entropy(logits, zeros({3}, DType::i64)), ShapeError);
  EXPECT_THROW(cross_entropy(logits, zeros({2})), DTypeError);
  EXPECT_THROW(cross_entropy(zeros({2, 5}, DType::i64), targets), DTypeError);
  EXPECT_THROW(cross_entropy(logits, targets, kIgnoreIndex, 1.5), ConfigError);
  EXPECT_THROW(cross_entropy(logits, targets, kIgnoreIndex, std::nan("")), ConfigError);
  EXPECT_THROW(cross_entropy(logits, from_vector<int64_t>({0, -1}, {2})), IndexError);
  EXPECT_THROW(linear_cross_entropy(logits, zeros({7, 4}), targets), ShapeError);
  EXPECT_THROW(linear_cross_entropy(logits, zeros({7, 5}, DType::bf16), targets), DTypeError);
  EXPECT_THROW(linear_cross_entropy(logits, zeros({7, 5}), full({2}, 7, DType::i64)), IndexError);
  try {
    cross_entropy(logits, from_vector<int32_t>({0, 5}, {2}));
    FAIL();
  } catch (const IndexError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("target 5 at position 1 is not one of V = 5"));
  }
}

}  // namespace
}  // namespace weft

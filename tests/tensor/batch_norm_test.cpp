#include "weft/tensor/ops/batch_norm.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;
using test::rounding_error;
using test::scattered;

struct Reference {
  std::vector<double> y, mean, variance, rstd, dx, dgain, dbias;
};

/// Plain loops over x [N, C, inner]; with `given` statistics instead of those of the batch.
Reference reference(const Tensor& x, const Tensor& gain, const Tensor& bias, const Tensor& dy,
                    double eps, const Reference* given = nullptr) {
  const auto N = static_cast<size_t>(x.size(0)), C = static_cast<size_t>(x.size(1));
  const size_t inner = static_cast<size_t>(x.numel()) / (N * C);
  const auto xs = x.to_vector<double>(), gs = gain.to_vector<double>(),
             bs = bias.to_vector<double>();
  const auto ds = dy.to_vector<double>();
  Reference out;
  out.y.resize(xs.size());
  out.dx.resize(xs.size());
  const double count = static_cast<double>(N * inner);
  for (size_t c = 0; c < C; ++c) {
    const auto for_each = [&](auto body) {
      for (size_t n = 0; n < N; ++n) {
        for (size_t i = 0; i < inner; ++i) body((n * C + c) * inner + i);
      }
    };
    double mean = 0, variance = 0, sum = 0, products = 0;
    for_each([&](size_t i) { mean += xs[i] / count; });
    for_each([&](size_t i) { variance += (xs[i] - mean) * (xs[i] - mean) / count; });
    if (given != nullptr) {
      mean = given->mean[c];
      variance = given->variance[c];
    }
    const double rstd = 1 / std::sqrt(variance + eps);
    for_each([&](size_t i) {
      const double normalized = (xs[i] - mean) * rstd;
      out.y[i] = normalized * gs[c] + bs[c];
      sum += ds[i];
      products += ds[i] * normalized;
    });
    for_each([&](size_t i) {
      const double through_statistics =
          given != nullptr ? 0 : (sum + (xs[i] - mean) * rstd * products) / count;
      out.dx[i] = gs[c] * rstd * (ds[i] - through_statistics);
    });
    out.mean.push_back(mean);
    out.variance.push_back(variance);
    out.rstd.push_back(rstd);
    out.dgain.push_back(products);
    out.dbias.push_back(sum);
  }
  return out;
}

class BatchNormOfType : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, BatchNormOfType,
                         testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(BatchNormOfType, MatchesLoops) {
  const DType dtype = GetParam();
  const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
  for (const Shape& shape : {Shape{2, 1}, Shape{5, 3}, Shape{3, 2, 15}, Shape{2, 3, 5, 7},
                             Shape{1, 4, 63}, Shape{2, 2, 3, 4, 5}, Shape{7, 63, 111}}) {
    SCOPED_TRACE(to_string(shape));
    const Tensor x = random_tensor(shape, dtype, 1), dy = random_tensor(shape, dtype, 2);
    const Tensor gain = random_tensor({shape[1]}, wide, 3),
                 bias = random_tensor({shape[1]}, wide, 4);
    const Reference expected = reference(x, gain, bias, dy, 1e-3);
    const double relative = rounding_error(dtype);
    const double absolute = dtype == DType::f64 ? 1e-11 : 2e-4;
    for (const Tensor& input : {x, scattered(x)}) {
      const BatchNormResult result = batch_norm_train(input, gain, bias, {}, 0.1, 1e-3);
      EXPECT_EQ(result.y.dtype(), dtype);
      EXPECT_EQ(result.mean.dtype(), wide);
      expect_near(result.y, expected.y, relative, absolute);
      expect_near(result.mean, expected.mean, 1e-6, 1e-6);
      expect_near(result.rstd, expected.rstd, 1e-5, 0);
      const BatchNormGrads grads = batch_norm_backward(dy, input, gain, result.mean, result.rstd);
      expect_near(grads.dx, expected.dx, relative, 10 * absolute);
      expect_near(grads.dgain, expected.dgain, 1e-5, 10 * absolute);
      expect_near(grads.dbias, expected.dbias, 1e-5, absolute);
    }
  }
}

TEST_P(BatchNormOfType, EvaluatesWithRunningStatistics) {
  const DType dtype = GetParam();
  const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
  const Tensor x = random_tensor({4, 3, 17}, dtype, 1), dy = random_tensor({4, 3, 17}, dtype, 2);
  const Tensor gain = random_tensor({3}, wide, 3), bias = random_tensor({3}, wide, 4);
  RunningStatistics running{random_tensor({3}, wide, 5), random_tensor({3}, wide, 6, 0.5, 2)};
  Reference given;
  given.mean = running.mean.to_vector<double>();
  given.variance = running.variance.to_vector<double>();
  const Reference expected = reference(x, gain, bias, dy, 1e-5, &given);
  const double absolute = dtype == DType::f64 ? 1e-12 : 1e-4;
  expect_near(batch_norm_eval(x, gain, bias, running), expected.y, rounding_error(dtype), absolute);
  std::vector<double> rstd;
  for (const double variance : given.variance) rstd.push_back(1 / std::sqrt(variance + 1e-5));
  const BatchNormGrads grads =
      batch_norm_backward(dy, x, gain, running.mean, from_vector(rstd, {3}).to(wide),
                          /*constant_statistics=*/true);
  expect_near(grads.dx, expected.dx, rounding_error(dtype), absolute);
  expect_near(grads.dgain, expected.dgain, 1e-5, 10 * absolute);
}

TEST(BatchNorm, UpdatesRunningStatistics) {
  const Tensor x = from_vector<double>({1, 10, 3, 10, 5, 40}, {3, 2});
  RunningStatistics running{full({2}, 1, DType::f64), full({2}, 2, DType::f64)};
  batch_norm_train(x, {}, {}, running, 0.25);
  expect_near(running.mean, {0.75 + 0.25 * 3, 0.75 + 0.25 * 20}, 1e-12, 0);
  expect_near(running.variance, {1.5 + 0.25 * 4, 1.5 + 0.25 * 300}, 1e-12, 0);
}

TEST(BatchNorm, WithoutGainAndBiasNormalises) {
  const Tensor x = from_vector<double>({-1, 1}, {2, 1});
  expect_near(batch_norm_train(x, {}, {}, {}, 0.1, 0).y, {-1, 1}, 1e-12, 0);
}

TEST(BatchNorm, LargeOffsetsDoNotDrownTheVariance) {
  Tensor x = random_tensor({2, 1, 1000}, DType::f32, 1, 4096, 4097);
  const Tensor unit = ones({1});
  const Reference expected = reference(x, unit, zeros({1}), x, 1e-5);
  expect_near(batch_norm_train(x, unit, {}).rstd, expected.rstd, 1e-3, 0);
}

TEST(BatchNorm, EmptySizes) {
  EXPECT_EQ(batch_norm_train(empty({4, 0, 3}), {}, {}).y.shape(), (Shape{4, 0, 3}));
  const RunningStatistics running{zeros({3}), ones({3})};
  EXPECT_EQ(batch_norm_eval(empty({0, 3, 2}), {}, {}, running).shape(), (Shape{0, 3, 2}));
  EXPECT_EQ(batch_norm_backward(empty({0, 3}), empty({0, 3}), {}, zeros({3}), ones({3}))
                .dgain.to_vector<float>(),
            std::vector<float>(3, 0.0f));
}

TEST(BatchNorm, RefusesWhatDoesNotFit) {
  const Tensor x = zeros({4, 3, 2});
  EXPECT_THROW(batch_norm_train(zeros({4}), {}, {}), ShapeError);
  EXPECT_THROW(batch_norm_train(Tensor(), {}, {}), ShapeError);
  EXPECT_THROW(batch_norm_train(zeros({1, 3}), {}, {}), ShapeError);
  EXPECT_THROW(batch_norm_train(x, zeros({4}), {}), ShapeError);
  EXPECT_THROW(batch_norm_train(x, zeros({3}, DType::f64), {}), DTypeError);
  EXPECT_THROW(batch_norm_train(zeros({4, 3}, DType::i64), {}, {}), DTypeError);
  EXPECT_THROW(batch_norm_train(x, {}, {}, {}, 1.5), ConfigError);
  EXPECT_THROW(batch_norm_train(x, {}, {}, {}, 0.1, -1), ConfigError);
  EXPECT_THROW(batch_norm_train(x, {}, {}, {zeros({3}), {}}), ShapeError);
  EXPECT_THROW(batch_norm_eval(x, {}, {}, {}), ShapeError);
  EXPECT_THROW(batch_norm_eval(x, {}, {}, {zeros({3}, DType::f64), ones({3})}), DTypeError);
  EXPECT_THROW(batch_norm_backward(zeros({4, 3}), x, {}, zeros({3}), ones({3})), ShapeError);
  EXPECT_THROW(batch_norm_backward(x, x, {}, zeros({2}), ones({3})), ShapeError);
}

}  // namespace
}  // namespace weft

#include "weft/tensor/ops/layer_norm.h"

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/parallel.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;
using test::rounding_error;

struct Reference {
  std::vector<double> y, mean, rstd, dx, dgain, dbias;
};

Reference reference(const Tensor& x, const Tensor& gain, const Tensor& bias, double eps,
                    const Tensor& dy) {
  const size_t length = static_cast<size_t>(x.size(-1));
  const double n = static_cast<double>(length);
  const std::vector<double> in = x.to_vector<double>();
  const std::vector<double> g = gain.to_vector<double>();
  const std::vector<double> b =
      bias.defined() ? bias.to_vector<double>() : std::vector<double>(length);
  const std::vector<double> d = dy.to_vector<double>();
  Reference result;
  result.dgain.assign(length, 0);
  result.dbias.assign(length, 0);
  for (size_t start = 0; start < in.size(); start += length) {
    double mean = 0;
    double variance = 0;
    for (size_t i = 0; i < length; ++i) mean += in[start + i] / n;
    for (size_t i = 0; i < length; ++i) variance += std::pow(in[start + i] - mean, 2) / n;
    const double rstd = 1 / std::sqrt(variance + eps);
    result.mean.push_back(mean);
    result.rstd.push_back(rstd);
    double mean_u = 0;
    double mean_uh = 0;
    for (size_t i = 0; i < length; ++i) {
      const double h = (in[start + i] - mean) * rstd;
      result.y.push_back(h * g[i] + b[i]);
      mean_u += d[start + i] * g[i] / n;
      mean_uh += d[start + i] * g[i] * h / n;
      result.dgain[i] += d[start + i] * h;
      result.dbias[i] += d[start + i];
    }
    for (size_t i = 0; i < length; ++i) {
      const double h = (in[start + i] - mean) * rstd;
      result.dx.push_back(rstd * (d[start + i] * g[i] - mean_u - h * mean_uh));
    }
  }
  return result;
}

struct Case {
  DType dtype;
  DType parameter_dtype;
};

class LayerNorm : public testing::TestWithParam<Case> {};

TEST_P(LayerNorm, MatchesTheReferenceForwardAndBackward) {
  const auto [dtype, parameter_dtype] = GetParam();
  const bool is_double = dtype == DType::f64;
  const double relative = is_double ? 1e-14 : rounding_error(dtype) + 1e-6;
  const double absolute = is_double ? 1e-12 : test::underflow_error(dtype) + 2e-5;
  for (const Shape& shape : {Shape{3, 15}, Shape{2, 3, 16}, Shape{7, 63}, Shape{5, 111},
                             Shape{130, 192}, Shape{67, 1024}}) {
    SCOPED_TRACE(to_string(shape));
    // An offset that would cancel if the squares were not summed about the mean.
    const Tensor x = random_tensor(shape, dtype, 1, 7, 11);
    const Tensor gain = random_tensor({shape.back()}, parameter_dtype, 2, 0.5, 1.5);
    const Tensor bias = random_tensor({shape.back()}, parameter_dtype, 3);
    const Tensor dy = random_tensor(shape, dtype, 4);
    for (const Tensor& maybe_bias : {bias, Tensor()}) {
      const LayerNormResult result = layer_norm_forward(x, gain, maybe_bias, 1e-5);
      const Reference expected = reference(x, gain, maybe_bias, 1e-5, dy);
      EXPECT_EQ(result.y.dtype(), dtype);
      expect_near(result.y, expected.y, relative, absolute, "y");
      expect_near(result.mean, expected.mean, is_double ? 1e-14 : 1e-6, 0, "mean");
      expect_near(result.rstd, expected.rstd, is_double ? 1e-13 : 2e-6, 0, "rstd");
      const LayerNormGrads grads = layer_norm_backward(dy, x, gain, result.mean, result.rstd);
      const double unit = rounding_error(parameter_dtype);
      expect_near(grads.dx, expected.dx, relative, absolute, "dx");
      expect_near(grads.dgain, expected.dgain, unit + 10 * relative * is_double, 20 * absolute,
                  "dgain");
      expect_near(grads.dbias, expected.dbias, unit + 10 * relative * is_double, 20 * absolute,
                  "dbias");
      EXPECT_EQ(grads.dgain.dtype(), parameter_dtype);
    }
  }
}

TEST_P(LayerNorm, LayoutsGiveTheSameBits) {
  const auto [dtype, parameter_dtype] = GetParam();
  const Tensor x = random_tensor({6, 5, 37}, dtype, 1);
  const Tensor dy = random_tensor({6, 5, 37}, dtype, 3);
  const Tensor gain = random_tensor({37}, parameter_dtype, 2);
  const Tensor bias = random_tensor({37}, parameter_dtype, 4);
  const LayerNormResult dense = layer_norm_forward(x, gain, bias);
  const LayerNormGrads dense_grads = layer_norm_backward(dy, x, gain, dense.mean, dense.rstd);
  for (const auto& layout : {test::with_gaps, test::scattered}) {
    const LayerNormResult result = layer_norm_forward(layout(x), layout(gain), layout(bias));
    EXPECT_EQ(result.y.to_vector<double>(), dense.y.to_vector<double>());
    const LayerNormGrads grads = layer_norm_backward(layout(dy), layout(x), layout(gain),
                                                     layout(dense.mean), layout(dense.rstd));
    EXPECT_EQ(grads.dx.to_vector<double>(), dense_grads.dx.to_vector<double>());
    EXPECT_EQ(grads.dgain.to_vector<double>(), dense_grads.dgain.to_vector<double>());
    EXPECT_EQ(grads.dbias.to_vector<double>(), dense_grads.dbias.to_vector<double>());
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LayerNorm,
                         testing::Values(Case{DType::f64, DType::f64}, Case{DType::f32, DType::f32},
                                         Case{DType::bf16, DType::f32},
                                         Case{DType::bf16, DType::bf16},
                                         Case{DType::f16, DType::f32}),
                         [](const auto& info) {
                           return std::string(to_string(info.param.dtype)) + "_parameters_" +
                                  std::string(to_string(info.param.parameter_dtype));
                         });

TEST(LayerNormBits, DoNotDependOnTheNumberOfThreads) {
  const int before = num_threads();
  const Tensor x = random_tensor({777, 96}, DType::f32, 1);
  const Tensor dy = random_tensor({777, 96}, DType::f32, 2);
  const Tensor gain = random_tensor({96}, DType::f32, 3);
  std::vector<std::vector<double>> sums;
  for (int threads : {1, 2, 3}) {
    set_num_threads(threads);
    const LayerNormResult result = layer_norm_forward(x, gain);
    const LayerNormGrads grads = layer_norm_backward(dy, x, gain, result.mean, result.rstd);
    sums.push_back(grads.dgain.to_vector<double>());
  }
  set_num_threads(before);
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_EQ(sums[0], sums[2]);
}

TEST(LayerNormEdges, EmptyBatchConstantRowsAndWants) {
  const LayerNormResult none = layer_norm_forward(empty({0, 8}), ones({8}));
  EXPECT_EQ(none.y.shape(), (Shape{0, 8}));
  const LayerNormGrads zero =
      layer_norm_backward(empty({0, 8}), empty({0, 8}), ones({8}), none.mean, none.rstd);
  EXPECT_EQ(zero.dbias.to_vector<double>(), std::vector<double>(8, 0.0));
  EXPECT_EQ(layer_norm(full({2, 5}, 3), ones({5}), full({5}, 2)).to_vector<double>(),
            std::vector<double>(10, 2.0));
  EXPECT_EQ(layer_norm(full({1}, 3), ones({1})).item<float>(), 0.0f);
  const Tensor x = random_tensor({3, 4}, DType::f32);
  const LayerNormResult result = layer_norm_forward(x, ones({4}));
  const LayerNormGrads grads = layer_norm_backward(x, x, ones({4}), result.mean, result.rstd,
                                                   {.dgain = false, .dbias = true});
  EXPECT_FALSE(grads.dgain.defined());
  EXPECT_TRUE(grads.dbias.defined());
}

TEST(LayerNormErrors, NameTheArgument) {
  const Tensor x = zeros({2, 4});
  EXPECT_THROW(layer_norm(x, ones({5})), ShapeError);
  EXPECT_THROW(layer_norm(x, ones({4}), ones({3})), ShapeError);
  EXPECT_THROW(layer_norm(x, ones({4}), ones({4}, DType::f64)), DTypeError);
  EXPECT_THROW(layer_norm(zeros({2, 4}, DType::i32), ones({4})), DTypeError);
  EXPECT_THROW(layer_norm(zeros({0}), ones({0})), ShapeError);
  EXPECT_THROW(layer_norm(x, ones({4}), {}, -1), ConfigError);
  EXPECT_THROW(layer_norm_backward(x, x, ones({4}), zeros({2}), zeros({1})), ShapeError);
  EXPECT_THROW(layer_norm_backward(x.to(DType::bf16), x, ones({4}), zeros({2}), zeros({2})),
               DTypeError);
}

}  // namespace
}  // namespace weft

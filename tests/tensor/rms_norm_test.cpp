#include "weft/tensor/ops/rms_norm.h"

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
  std::vector<double> y, inverse_rms, dx, dgain;
};

Reference reference(const Tensor& x, const Tensor& gain, double eps, const Tensor& dy = {},
                    const Tensor& dsum = {}) {
  const size_t length = static_cast<size_t>(x.size(-1));
  const std::vector<double> in = x.to_vector<double>();
  const std::vector<double> g = gain.to_vector<double>();
  const size_t rows = in.size() / length;
  Reference result;
  result.y.resize(in.size());
  result.inverse_rms.resize(rows);
  result.dx.resize(in.size());
  result.dgain.assign(length, 0);
  const auto d = dy.defined() ? dy.to_vector<double>() : std::vector<double>(in.size());
  const auto extra = dsum.defined() ? dsum.to_vector<double>() : std::vector<double>(in.size());
  for (size_t row = 0; row < rows; ++row) {
    const size_t start = row * length;
    double squares = 0;
    for (size_t i = 0; i < length; ++i) squares += in[start + i] * in[start + i];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(length) + eps);
    result.inverse_rms[row] = inverse;
    double mean = 0;
    for (size_t i = 0; i < length; ++i) {
      result.y[start + i] = in[start + i] * inverse * g[i];
      mean += d[start + i] * g[i] * in[start + i] * inverse / static_cast<double>(length);
    }
    for (size_t i = 0; i < length; ++i) {
      const double h = in[start + i] * inverse;
      result.dx[start + i] = inverse * (d[start + i] * g[i] - h * mean) + extra[start + i];
      result.dgain[i] += d[start + i] * h;
    }
  }
  return result;
}

std::vector<double> sum_of(const Tensor& a, const Tensor& b) {
  std::vector<double> values = a.to_vector<double>();
  const std::vector<double> other = b.to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i) values[i] += other[i];
  return values;
}

struct Case {
  DType dtype;
  DType gain_dtype;
};

class RmsNorm : public testing::TestWithParam<Case> {};

TEST_P(RmsNorm, MatchesTheReferenceForwardAndBackward) {
  const auto [dtype, gain_dtype] = GetParam();
  const double unit = rounding_error(dtype);
  for (const Shape& shape : {Shape{1}, Shape{1, 1}, Shape{3, 15}, Shape{2, 3, 16}, Shape{7, 63},
                             Shape{5, 111}, Shape{130, 192}, Shape{67, 1024}}) {
    SCOPED_TRACE(to_string(shape));
    const Tensor x = random_tensor(shape, dtype, 1);
    const Tensor gain = random_tensor({shape.back()}, gain_dtype, 2, 0.5, 1.5);
    const Tensor dy = random_tensor(shape, dtype, 3);
    const Tensor dsum = random_tensor(shape, dtype, 4);
    const RmsNormResult result = rms_norm_forward(x, gain, 1e-5);
    const Reference expected = reference(x, gain, 1e-5, dy, dsum);
    EXPECT_EQ(result.y.dtype(), dtype);
    EXPECT_EQ(result.y.shape(), shape);
    // f32 sums err by a few units of f32 even where the stored type is finer or coarser.
    const double relative = dtype == DType::f64 ? 1e-14 : unit + 1e-6;
    expect_near(result.y, expected.y, relative, test::underflow_error(dtype), "y");
    expect_near(result.inverse_rms, expected.inverse_rms, dtype == DType::f64 ? 1e-14 : 1e-6, 0);

    const RmsNormGrads grads = rms_norm_backward(dy, x, gain, result.inverse_rms, dsum);
    expect_near(grads.dx, expected.dx, relative, dtype == DType::f64 ? 1e-13 : 1e-5, "dx");
    EXPECT_EQ(grads.dgain.dtype(), gain_dtype);
    const double gain_unit = gain_dtype == DType::f64 ? 0 : rounding_error(gain_dtype);
    expect_near(grads.dgain, expected.dgain, gain_unit + (dtype == DType::f64 ? 1e-13 : 1e-6),
                dtype == DType::f64 ? 1e-12 : 1e-4, "dgain");

    const Reference plain = reference(x, gain, 1e-5, dy);
    const RmsNormGrads without =
        rms_norm_backward(dy, x, gain, result.inverse_rms, {}, /*want_dgain=*/false);
    expect_near(without.dx, plain.dx, relative, dtype == DType::f64 ? 1e-13 : 1e-5, "dx alone");
    EXPECT_FALSE(without.dgain.defined());
  }
}

TEST_P(RmsNorm, ResidualFormNormalisesTheRoundedSum) {
  const auto [dtype, gain_dtype] = GetParam();
  for (const Shape& shape : {Shape{1, 1}, Shape{9, 63}, Shape{33, 192}}) {
    const Tensor x = random_tensor(shape, dtype, 1);
    const Tensor residual = random_tensor(shape, dtype, 5);
    const Tensor gain = random_tensor({shape.back()}, gain_dtype, 2, 0.5, 1.5);
    const RmsNormResidualResult result = rms_norm_residual(x, residual, gain, 1e-5);
    expect_near(result.sum, sum_of(x, residual), rounding_error(dtype),
                test::underflow_error(dtype), "sum");
    const RmsNormResult norm = rms_norm_forward(result.sum, gain, 1e-5);
    EXPECT_EQ(result.y.to_vector<double>(), norm.y.to_vector<double>());
    EXPECT_EQ(result.inverse_rms.to_vector<double>(), norm.inverse_rms.to_vector<double>());
  }
}

TEST_P(RmsNorm, LayoutsGiveTheSameBits) {
  const auto [dtype, gain_dtype] = GetParam();
  const Tensor x = random_tensor({6, 5, 37}, dtype, 1);
  const Tensor dy = random_tensor({6, 5, 37}, dtype, 3);
  const Tensor gain = random_tensor({37}, gain_dtype, 2);
  const RmsNormResidualResult dense = rms_norm_residual(x, dy, gain);
  const RmsNormGrads dense_grads = rms_norm_backward(dy, x, gain, dense.inverse_rms, x);
  for (const auto& layout : {test::with_gaps, test::scattered}) {
    const RmsNormResidualResult result = rms_norm_residual(layout(x), layout(dy), layout(gain));
    EXPECT_EQ(result.sum.to_vector<double>(), dense.sum.to_vector<double>());
    EXPECT_EQ(result.y.to_vector<double>(), dense.y.to_vector<double>());
    const RmsNormGrads grads = rms_norm_backward(layout(dy), layout(x), layout(gain),
                                                 layout(dense.inverse_rms), layout(x));
    EXPECT_EQ(grads.dx.to_vector<double>(), dense_grads.dx.to_vector<double>());
    EXPECT_EQ(grads.dgain.to_vector<double>(), dense_grads.dgain.to_vector<double>());
  }
  const Tensor row = x.select(0, 0).select(0, 0);
  EXPECT_EQ(rms_norm(row.unsqueeze(0).expand({3, 37}), gain).select(0, 2).to_vector<double>(),
            rms_norm(row, gain).to_vector<double>());
}

INSTANTIATE_TEST_SUITE_P(Types, RmsNorm,
                         testing::Values(Case{DType::f64, DType::f64}, Case{DType::f32, DType::f32},
                                         Case{DType::bf16, DType::f32},
                                         Case{DType::bf16, DType::bf16},
                                         Case{DType::f16, DType::f32}),
                         [](const auto& info) {
                           return std::string(to_string(info.param.dtype)) + "_gain_" +
                                  std::string(to_string(info.param.gain_dtype));
                         });

TEST(RmsNormBits, DoNotDependOnTheNumberOfThreads) {
  const int before = num_threads();
  const Tensor x = random_tensor({777, 96}, DType::f32, 1);
  const Tensor dy = random_tensor({777, 96}, DType::f32, 2);
  const Tensor gain = random_tensor({96}, DType::f32, 3);
  std::vector<std::vector<double>> dgains;
  for (int threads : {1, 2, 3}) {
    set_num_threads(threads);
    const Tensor inverse = rms_norm_forward(x, gain).inverse_rms;
    dgains.push_back(rms_norm_backward(dy, x, gain, inverse).dgain.to_vector<double>());
  }
  set_num_threads(before);
  EXPECT_EQ(dgains[0], dgains[1]);
  EXPECT_EQ(dgains[0], dgains[2]);
}

TEST(RmsNormEdges, EmptyBatchAndZeroRows) {
  const RmsNormResult none = rms_norm_forward(empty({0, 8}), ones({8}));
  EXPECT_EQ(none.y.shape(), (Shape{0, 8}));
  EXPECT_EQ(none.inverse_rms.shape(), (Shape{0}));
  const RmsNormGrads grads =
      rms_norm_backward(empty({0, 8}), empty({0, 8}), ones({8}), none.inverse_rms);
  EXPECT_EQ(grads.dgain.to_vector<double>(), std::vector<double>(8, 0.0));
  EXPECT_EQ(rms_norm(zeros({2, 4}), ones({4})).to_vector<double>(), std::vector<double>(8, 0.0));
}

TEST(RmsNormEdges, NanStaysInItsRow) {
  Tensor x = ones({3, 20});
  x.select(0, 1).fill_(std::nan(""));
  const std::vector<float> y = rms_norm(x, ones({20})).to_vector<float>();
  EXPECT_FALSE(std::isnan(y[0]));
  EXPECT_TRUE(std::isnan(y[20]));
  EXPECT_FALSE(std::isnan(y[40]));
}

TEST(RmsNormErrors, NameTheArgument) {
  const Tensor x = zeros({2, 4});
  EXPECT_THROW(rms_norm(x, ones({5})), ShapeError);
  EXPECT_THROW(rms_norm(scalar(1), ones({1})), ShapeError);
  EXPECT_THROW(rms_norm(zeros({2, 0}), ones({0})), ShapeError);
  EXPECT_THROW(rms_norm(Tensor(), ones({4})), ShapeError);
  EXPECT_THROW(rms_norm(x, ones({4}, DType::bf16)), DTypeError);
  EXPECT_THROW(rms_norm(x.to(DType::f64), ones({4})), DTypeError);
  EXPECT_THROW(rms_norm(zeros({2, 4}, DType::i64), ones({4})), DTypeError);
  EXPECT_THROW(rms_norm(x, ones({4}), -1), ConfigError);
  EXPECT_THROW(rms_norm_residual(x, zeros({2, 3}), ones({4})), ShapeError);
  EXPECT_THROW(rms_norm_residual(x, zeros({2, 4}, DType::bf16), ones({4})), DTypeError);
  EXPECT_THROW(rms_norm_backward(zeros({4, 2}), x, ones({4}), zeros({2})), ShapeError);
  EXPECT_THROW(rms_norm_backward(x, x, ones({4}), zeros({3})), ShapeError);
  try {
    rms_norm(x, ones({5}));
  } catch (const ShapeError& error) {
    EXPECT_NE(std::string(error.what()).find("rms_norm: gain must have shape [4]"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace weft

#include "weft/tensor/ops/decode_linear.h"

#include <cmath>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::random_tensor;

/// rows w^T in double, the rows normed where there is a gain.
std::vector<double> product(const DecodeRows& rows, const Tensor& weight,
                            std::vector<double>* sums) {
  const auto m = static_cast<size_t>(rows.x.size(0)), k = static_cast<size_t>(rows.x.size(1));
  std::vector<double> x = rows.x.to_vector<double>();
  if (rows.residual.defined()) {
    const std::vector<double> residual = rows.residual.to_vector<double>();
    for (size_t i = 0; i < x.size(); ++i) x[i] += residual[i];
  }
  *sums = x;
  if (rows.gain.defined()) {
    const std::vector<double> gain = rows.gain.to_vector<double>();
    for (size_t i = 0; i < m; ++i) {
      double squares = 0;
      for (size_t e = 0; e < k; ++e) squares += x[i * k + e] * x[i * k + e];
      const double scale = 1 / std::sqrt(squares / static_cast<double>(k) + rows.eps);
      for (size_t e = 0; e < k; ++e) x[i * k + e] *= scale * gain[e];
    }
  }
  const std::vector<double> w = weight.to_vector<double>();
  std::vector<double> y;
  for (size_t i = 0; i < m; ++i) {
    for (size_t n = 0; n < static_cast<size_t>(weight.size(0)); ++n) {
      double sum = 0;
      for (size_t e = 0; e < k; ++e) sum += x[i * k + e] * w[n * k + e];
      y.push_back(sum);
    }
  }
  return y;
}

TEST(DecodeLinear, IsTheProductOfTheNormedSum) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const double tolerance = dtype == DType::f64 ? 1e-12 : 2e-5;
    for (const int64_t m : {1, 3}) {
      const int64_t k = 17, n = 6;
      const Tensor x = random_tensor({m, k}, dtype, 1), residual = random_tensor({m, k}, dtype, 2);
      const Tensor gain = random_tensor({k}, dtype, 3);
      const Tensor w = random_tensor({n, k}, dtype, 4), up = random_tensor({n, k}, dtype, 5);
      for (const bool adds : {false, true}) {
        for (const bool norms : {false, true}) {
          const DecodeRows rows{.x = x,
                                .residual = adds ? residual : Tensor(),
                                .gain = norms ? gain : Tensor(),
                                .eps = norms ? 0.1 : 0};
          std::vector<double> sums;
          std::vector<double> expected = product(rows, w, &sums);
          const DecodeProduct linear = decode_linear(rows, w);
          test::expect_near(linear.y, expected, tolerance, tolerance, "linear");
          test::expect_near(linear.sum, sums, tolerance, tolerance, "sum");
          const std::vector<double> ups = product(rows, up, &sums);
          for (size_t i = 0; i < ups.size(); ++i)
            expected[i] *= ups[i] / (1 + std::exp(-expected[i]));
          const DecodeProduct gated = decode_swiglu(rows, w, up, /*settled=*/true);
          test::expect_near(gated.y, expected, 4 * tolerance, 20 * tolerance, "swiglu");
          test::expect_near(gated.sum, sums, tolerance, tolerance, "sum");
        }
      }
    }
  }
}

TEST(DecodeLinear, RefusesWhatDoesNotFit) {
  const Tensor x = ones({2, 4}), w = ones({3, 4});
  EXPECT_EQ(decode_linear({.x = x}, w).y.shape(), Shape({2, 3}));
  EXPECT_THROW(decode_linear({.x = ones({4})}, w), ShapeError);
  EXPECT_THROW(decode_linear({.x = ones({2, 4}, DType::i64)}, w), DTypeError);
  EXPECT_THROW(decode_linear({.x = x, .residual = ones({2, 3})}, w), ShapeError);
  EXPECT_THROW(decode_linear({.x = x, .gain = ones({3})}, w), ShapeError);
  EXPECT_THROW(decode_linear({.x = x}, ones({3, 5})), ShapeError);
  EXPECT_THROW(decode_linear({.x = x}, ones({3, 4}, DType::f64)), DTypeError);
  EXPECT_THROW(decode_swiglu({.x = x}, w, ones({2, 4})), ShapeError);
}

}  // namespace
}  // namespace weft

// Products of few rows, which have kernels of their own, against sums in double.
#include <cmath>
#include <string>

#include <fmt/format.h>

#include "weft/tensor/ops/decode_linear.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/stream.h"

#include "devices.h"

namespace weft {
namespace {

using test::mirrored;
using test::random_tensor;
using test::rounding_error;

class CudaFewRows : public test::CudaTest {};

constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16};

std::vector<double> values_of(const Tensor& x) {
  return x.to_vector<double>();
}

/// x [M, K] times w [N, K] transposed, plus bias [N] where there is one.
std::vector<double> product(const std::vector<double>& x, const std::vector<double>& w, int64_t m,
                            int64_t n, int64_t k, const std::vector<double>& bias = {}) {
  std::vector<double> y(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias.empty() ? 0 : bias[static_cast<size_t>(j)];
      for (int64_t e = 0; e < k; ++e)
        sum += x[static_cast<size_t>(i * k + e)] * w[static_cast<size_t>(j * k + e)];
      y[static_cast<size_t>(i * n + j)] = sum;
    }
  }
  return y;
}

/// Within the rounding of sums in f32 of k terms of size up to 4 and that of the result, some times
/// over where a result is made of rounded ones.
void expect_sums(const Tensor& actual, const std::vector<double>& expected, int64_t k,
                 const std::string& what, double roundings = 1.01) {
  const double unit = rounding_error(actual.dtype());
  const std::vector<double> got = values_of(actual);
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    const double bound = roundings * unit * (std::fabs(expected[i]) + (roundings > 2 ? 1 : 0)) +
                         4 * 0x1p-23 * static_cast<double>(k + 1);
    ASSERT_LE(std::fabs(got[i] - expected[i]), bound)
        << what << ": element " << i << " of " << describe(actual) << " is " << got[i]
        << ", expected " << expected[i];
  }
}

TEST_F(CudaFewRows, LinearEqualsSumsInDouble) {
  struct Size {
    int64_t n, k;
  };
  // Below a warp's loads, one and several rounds of them, ragged ends, what no 16 bytes divide, and
  // more columns than warps run at a time.
  constexpr Size kSizes[] = {{1, 1},      {7, 17},    {3, 8},      {33, 64},
                             {130, 1000}, {64, 1024}, {65, 2816},  {9, 4096},
                             {5, 4097},   {3, 7000},  {9001, 256}, {4097, 1024}};
  for (const DType dtype : kTypes) {
    for (const auto& [n, k] : kSizes) {
      const Tensor w = random_tensor({n, k}, dtype, 2);
      const Tensor w_on = mirrored(w);
      const std::vector<double> weights = values_of(w);
      const bool is_large = n * k > 300000;
      for (int64_t m = 1; m <= 9; m += is_large ? 3 : 1) {
        const Tensor x = random_tensor({m, k}, dtype, static_cast<uint64_t>(10 + m));
        expect_sums(linear(mirrored(x), w_on), product(values_of(x), weights, m, n, k), k,
                    fmt::format("{} M {} N {} K {}", to_string(dtype), m, n, k));
      }
    }
  }
}

TEST_F(CudaFewRows, LinearReadsEveryLayoutAndAddsABias) {
  for (const DType dtype : kTypes) {
    const int64_t m = 3, n = 50, k = 96;
    const Tensor x = random_tensor({m, k}, dtype, 1), w = random_tensor({n, k}, dtype, 2);
    const Tensor bias = random_tensor({n}, dtype, 3);
    const std::vector<double> expected =
        product(values_of(x), values_of(w), m, n, k, values_of(bias));
    for (const Tensor& xs : test::in_all_layouts(x)) {
      for (const Tensor& ws : test::in_all_layouts(w)) {
        expect_sums(linear(mirrored(xs), mirrored(ws), mirrored(bias)), expected, k, "layouts", 3);
      }
    }
  }
}

TEST_F(CudaFewRows, ReadsTheCopyOfAWeightInF32) {
  const Tensor x = random_tensor({2, 64}, DType::bf16, 1);
  Tensor w = mirrored(random_tensor({24, 64}, DType::f32, 2));
  for (const double change : {0.0, 0.5}) {
    if (change != 0) w.fill_(change);
    const std::vector<double> rounded = values_of(w.to(DType::bf16));
    expect_sums(linear(mirrored(x), w), product(values_of(x), rounded, 2, 24, 64), 64, "f32");
  }
}

TEST_F(CudaFewRows, ARowDoesNotDependOnTheOthers) {
  for (const DType dtype : kTypes) {
    const Tensor x = mirrored(random_tensor({8, 1024}, dtype, 1));
    const Tensor w = mirrored(random_tensor({300, 1024}, dtype, 2));
    const Tensor all = linear(x, w);
    for (int64_t m = 1; m < 8; ++m) {
      test::expect_same(linear(x.slice(0, 0, m), w), all.slice(0, 0, m).to(kCpu), "rows");
    }
  }
}

/// rms_norm(x + residual), with the sum and the result rounded as they are stored.
std::vector<double> normed(const Tensor& x, const Tensor& residual, const Tensor& gain, double eps,
                           std::vector<double>& sum) {
  const int64_t m = x.size(0), k = x.size(1);
  sum = values_of(x);
  if (residual.defined()) {
    const std::vector<double> added = values_of(residual);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += added[i];
    sum = values_of(from_vector(sum, x.shape()).to(DType::f32).to(x.dtype()));
  }
  const std::vector<double> gains = values_of(gain);
  std::vector<double> y(sum.size());
  for (int64_t i = 0; i < m; ++i) {
    double squares = 0;
    for (int64_t e = 0; e < k; ++e) {
      const double value = sum[static_cast<size_t>(i * k + e)];
      squares += value * value;
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(k) + eps);
    for (int64_t e = 0; e < k; ++e) {
      const auto at = static_cast<size_t>(i * k + e);
      y[at] = sum[at] * scale * gains[static_cast<size_t>(e)];
    }
  }
  return y;
}

/// What an error of one rounding in each of k inputs of a product with weights up to 2 may do, seen
/// as a random walk of six standard deviations.
double spread(DType dtype, int64_t k) {
  return 6 * 2 * 3 * rounding_error(dtype) * std::sqrt(static_cast<double>(k));
}

TEST_F(CudaFewRows, NormsAndAddsOnTheWay) {
  for (const DType dtype : kTypes) {
    for (const bool settled : {false, true}) {
      for (const int64_t m : {1, 2, 5, 8, 11}) {
        for (const int64_t k : {16, 256, 1024, 1032, 2816, 4097}) {
          const int64_t n = 77;
          const Tensor x = random_tensor({m, k}, dtype, 1), w = random_tensor({n, k}, dtype, 2);
          const Tensor residual = random_tensor({m, k}, dtype, 3);
          const Tensor gain = random_tensor({k}, DType::f32, 4);
          for (const bool adds : {false, true}) {
            std::vector<double> sum;
            const std::vector<double> rows = normed(x, adds ? residual : Tensor(), gain, 1e-5, sum);
            const DecodeRows rows_on{.x = mirrored(x),
                                     .residual = adds ? mirrored(residual) : Tensor(),
                                     .gain = mirrored(gain),
                                     .eps = 1e-5};
            const Tensor w_on = mirrored(w);
            current_stream(test::kGpu).synchronize();  // what is settled has been written
            const DecodeProduct got = decode_linear(rows_on, w_on, settled);
            const std::string what = fmt::format("{} M {} K {}", to_string(dtype), m, k);
            ASSERT_EQ(values_of(got.sum), sum) << what;
            const std::vector<double> expected = product(rows, values_of(w), m, n, k);
            const std::vector<double> actual = values_of(got.y);
            for (size_t i = 0; i < actual.size(); ++i) {
              const double bound = spread(dtype, k) + 0x1p-20 * static_cast<double>(k) +
                                   2 * rounding_error(dtype) * std::fabs(expected[i]);
              ASSERT_LE(std::fabs(actual[i] - expected[i]), bound) << what << " element " << i;
            }
          }
        }
      }
    }
  }
}

TEST_F(CudaFewRows, EqualsTheStepsOneByOne) {
  for (const DType dtype : kTypes) {
    for (const int64_t m : {1, 3, 8}) {
      const int64_t k = 512, f = 340;
      const Tensor x = mirrored(random_tensor({m, k}, dtype, 1));
      const Tensor gate = mirrored(random_tensor({f, k}, dtype, 2, -0.1, 0.1));
      const Tensor up = mirrored(random_tensor({f, k}, dtype, 3, -0.1, 0.1));
      const Tensor y = decode_swiglu({.x = x}, gate, up).y;
      const std::vector<double> g = values_of(linear(x, gate)), u = values_of(linear(x, up));
      std::vector<double> expected(g.size());
      for (size_t i = 0; i < g.size(); ++i) expected[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
      test::expect_near(y, expected, 1.5 * rounding_error(dtype) + 1e-5, 1e-6, "swiglu");
      const Tensor residual = mirrored(random_tensor({m, k}, dtype, 4));
      const DecodeProduct plain = decode_linear({.x = x, .residual = residual}, gate);
      test::expect_same(plain.y, linear(plain.sum, gate).to(kCpu), "linear of a sum");
    }
  }
}

}  // namespace
}  // namespace weft

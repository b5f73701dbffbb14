#include "weft/tensor/ops/matmul.h"

#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/parallel.h"

#include "message_of.h"
#include "random_tensor.h"

namespace weft {
namespace {

using test::message_of;
using test::random_tensor;
using test::scattered;
using test::with_gaps;

/// Products in double with, for each element, the sum of magnitudes that bounds its rounding error.
struct Reference {
  std::vector<double> values;
  std::vector<double> magnitudes;
};

/// [batch, m, k] x [batch, k, n], both with the same batch size.
Reference multiply(const Tensor& a, const Tensor& b) {
  const int64_t batch = a.size(0), m = a.size(1), k = a.size(2), n = b.size(2);
  const std::vector<double> left = a.to_vector<double>(), right = b.to_vector<double>();
  Reference result;
  for (int64_t p = 0; p < batch; ++p) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0, magnitude = 0;
        for (int64_t l = 0; l < k; ++l) {
          const double term = left[static_cast<size_t>((p * m + i) * k + l)] *
                              right[static_cast<size_t>((p * k + l) * n + j)];
          sum += term;
          magnitude += std::fabs(term);
        }
        result.values.push_back(sum);
        result.magnitudes.push_back(magnitude);
      }
    }
  }
  return result;
}

Reference multiply_matrices(const Tensor& a, const Tensor& b) {
  return multiply(a.unsqueeze(0), b.unsqueeze(0));
}

double sum_rounding(DType operands) {
  return operands == DType::f64 ? 0x1p-53 : 0x1p-24;
}

/// A sum of k terms is off by at most k roundings of the magnitudes; storing it rounds once more.
void expect_product(const Tensor& actual, const Reference& expected, int64_t k, DType operands) {
  const std::vector<double> values = actual.to_vector<double>();
  ASSERT_EQ(values.size(), expected.values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const double bound =
        static_cast<double>(k + 1) * sum_rounding(operands) * expected.magnitudes[i] +
        test::rounding_error(actual.dtype()) * std::fabs(expected.values[i]) +
        test::underflow_error(actual.dtype());
    ASSERT_LE(std::fabs(values[i] - expected.values[i]), bound)
        << "element " << i << " of " << describe(actual) << ": " << values[i] << ", expected "
        << expected.values[i];
  }
}

constexpr DType kDTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

struct Sizes {
  int64_t m, n, k;
};

/// Below and above every threshold between loops and libraries; ragged, and matrix times vector.
constexpr Sizes kSizes[] = {{1, 1, 1},     {1, 7, 5},     {9, 1, 6},     {3, 17, 2},
                            {15, 63, 31},  {63, 15, 111}, {111, 64, 63}, {1, 300, 257},
                            {300, 1, 257}, {64, 96, 128}, {5, 200, 300}, {130, 3, 600},
                            {8, 65, 40},   {7, 300, 96},  {9, 64, 40},   {8, 16, 512}};

class MatmulOfType : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, MatmulOfType, testing::ValuesIn(kDTypes),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(MatmulOfType, MatchesDoubleForAllSizesAndLayouts) {
  for (const auto [m, n, k] : kSizes) {
    SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k);
    const Tensor a = random_tensor({m, k}, GetParam(), 1), b = random_tensor({k, n}, GetParam(), 2);
    const Reference expected = multiply_matrices(a, b);
    const Tensor a_columns = a.transpose(0, 1).contiguous().transpose(0, 1);
    const Tensor b_columns = b.transpose(0, 1).contiguous().transpose(0, 1);
    for (const Tensor& left :
         {a, a_columns, with_gaps(a), with_gaps(a.transpose(0, 1)).transpose(0, 1), scattered(a)}) {
      for (const Tensor& right : {b, b_columns, with_gaps(b),
                                  with_gaps(b.transpose(0, 1)).transpose(0, 1), scattered(b)}) {
        SCOPED_TRACE(testing::Message() << to_string(left.strides()) << to_string(right.strides()));
        expect_product(matmul(left, right), expected, k, GetParam());
      }
    }
  }
}

TEST_P(MatmulOfType, WritesIntoAnyLayoutAndAccumulates) {
  for (const auto [m, n, k] : kSizes) {
    SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k);
    const Tensor a = random_tensor({m, k}, GetParam(), 3), b = random_tensor({k, n}, GetParam(), 4);
    const Tensor old = random_tensor({m, n}, GetParam(), 5);
    Reference expected = multiply_matrices(a, b);
    const std::vector<double> before = old.to_vector<double>();
    for (size_t i = 0; i < before.size(); ++i) {
      expected.values[i] = 0.75 * expected.values[i] - 1.5 * before[i];
      expected.magnitudes[i] += 3 * std::fabs(before[i]) + std::fabs(expected.values[i]);
    }
    const Tensor columns = old.transpose(0, 1).contiguous().transpose(0, 1);
    for (const Tensor& start : {old, columns, with_gaps(old), scattered(old)}) {
      Tensor out = start;
      const Tensor copy = start.clone();
      const uint64_t version = out.version();
      matmul_into(out, a, b, -1.5, {.alpha = 0.75});
      expect_product(out, expected, k, GetParam());
      EXPECT_GT(out.version(), version);
      out.copy_(copy);
    }
  }
}

TEST_P(MatmulOfType, BetaZeroIgnoresOldValues) {
  for (const auto [m, n, k] : {Sizes{3, 4, 5}, Sizes{64, 96, 128}, Sizes{64, 1, 5}}) {
    const Tensor a = random_tensor({m, k}, GetParam(), 3), b = random_tensor({k, n}, GetParam(), 4);
    Tensor out = full({m, n}, std::numeric_limits<double>::quiet_NaN(), GetParam());
    matmul_into(out, a, b);
    expect_product(out, multiply_matrices(a, b), k, GetParam());
  }
}

TEST_P(MatmulOfType, TransposeOptionsSwapTheLastAxes) {
  const Tensor a = random_tensor({2, 70, 40}, GetParam(), 6);
  const Tensor b = random_tensor({2, 50, 70}, GetParam(), 7);
  const Tensor product = matmul(a, b, {.transpose_a = true, .transpose_b = true});
  EXPECT_EQ(product.shape(), (Shape{2, 40, 50}));
  expect_product(product, multiply(a.transpose(1, 2), b.transpose(1, 2)), 70, GetParam());
}

TEST_P(MatmulOfType, BatchAxesBroadcast) {
  for (const int64_t size : {4, 40}) {  // loops and libraries
    SCOPED_TRACE(size);
    const Tensor a = random_tensor({3, 1, size, size + 3}, GetParam(), 8);
    const Tensor b = random_tensor({2, size + 3, size + 1}, GetParam(), 9);
    const Tensor product = matmul(a, b);
    ASSERT_EQ(product.shape(), (Shape{3, 2, size, size + 1}));
    const Tensor wide_a = a.expand({3, 2, size, size + 3}).contiguous();
    const Tensor wide_b = b.expand({3, 2, size + 3, size + 1}).contiguous();
    expect_product(product,
                   multiply(wide_a.view({6, size, size + 3}), wide_b.view({6, size + 3, size + 1})),
                   size + 3, GetParam());
  }
}

TEST_P(MatmulOfType, BatchedViewsOfHeads) {
  // q [B, T, H, D] seen as [B, H, T, D]: batch axes that cannot be merged.
  for (const int64_t T : {5, 48}) {
    const int64_t B = 2, H = 3, D = 24;
    const Tensor q = random_tensor({B, T, H, D}, GetParam(), 10).transpose(1, 2);
    const Tensor k = random_tensor({B, T, H, D}, GetParam(), 11).transpose(1, 2);
    const Tensor scores = matmul(q, k, {.transpose_b = true});
    ASSERT_EQ(scores.shape(), (Shape{B, H, T, T}));
    expect_product(scores,
                   multiply(q.reshape({B * H, T, D}), k.transpose(2, 3).reshape({B * H, D, T})), D,
                   GetParam());
  }
}

TEST_P(MatmulOfType, OneMatrixForTheWholeBatch) {
  const Tensor x = random_tensor({3, 17, 65}, GetParam(), 12);
  const Tensor w = random_tensor({33, 65}, GetParam(), 13);
  const Tensor wide = w.transpose(0, 1).expand({3, 65, 33}).contiguous();
  for (const Tensor& input : {x, with_gaps(x), x.transpose(0, 1).contiguous().transpose(0, 1)})
    expect_product(matmul(input, w, {.transpose_b = true}), multiply(x, wide), 65, GetParam());
  // The matrix on the left, repeated by expand.
  const Tensor left = w.expand({3, 33, 65});
  expect_product(matmul(left, x.transpose(1, 2)), multiply(left, x.transpose(1, 2)), 65,
                 GetParam());
  // A repeated operand without a dense axis.
  expect_product(matmul(scattered(w).expand({3, 33, 65}), x.transpose(1, 2)),
                 multiply(left, x.transpose(1, 2)), 65, GetParam());
}

TEST_P(MatmulOfType, FewRowsAreSummedAsOneRowIs) {
  // A sequence decodes to the same bits alone and in a batch.
  for (const auto& [n, k] : {std::pair{32, 1}, {8, 512}, {33, 15}, {64, 48}, {100, 300}}) {
    const Tensor weight = random_tensor({n, k}, GetParam(), 1);  // its rows are read as they lie
    const Tensor x = random_tensor({8, k}, GetParam(), 2);
    std::vector<double> rows;
    for (int64_t m = 0; m < 8; ++m) {
      const Tensor row = matmul(x.slice(0, m, m + 1), weight, {.transpose_b = true});
      for (const double value : row.to_vector<double>()) rows.push_back(value);
      const Tensor first = matmul(x.slice(0, 0, m + 1), weight, {.transpose_b = true});
      EXPECT_EQ(first.to_vector<double>(), rows) << m + 1 << " rows of " << k << " for " << n;
    }
  }
}

TEST_P(MatmulOfType, EmptyAndInnerSizeZero) {
  for (const auto [m, n, k] : {Sizes{6, 40, 0}, Sizes{40, 6, 0}, Sizes{1, 9, 0}, Sizes{9, 1, 0}}) {
    const Tensor sum = matmul(empty({m, k}, GetParam()), empty({k, n}, GetParam()));
    EXPECT_EQ(sum.to_vector<double>(), std::vector<double>(static_cast<size_t>(m * n)));
  }
  const DType dtype = GetParam();
  EXPECT_EQ(matmul(empty({0, 3}, dtype), empty({3, 4}, dtype)).shape(), (Shape{0, 4}));
  EXPECT_EQ(matmul(empty({5, 0, 3}, dtype), empty({3, 0}, dtype)).shape(), (Shape{5, 0, 0}));
  EXPECT_EQ(matmul(empty({0, 2, 3}, dtype), empty({1, 3, 2}, dtype)).shape(), (Shape{0, 2, 2}));
  const Tensor zeros_expected = matmul(empty({2, 0}, dtype), empty({0, 3}, dtype));
  EXPECT_EQ(zeros_expected.shape(), (Shape{2, 3}));
  EXPECT_EQ(zeros_expected.to_vector<double>(), std::vector<double>(6, 0.0));
  EXPECT_EQ(matmul(empty({0}, dtype), empty({0}, dtype)).item<double>(), 0.0);
  Tensor out = full({2, 3}, 4, dtype);
  matmul_into(out, empty({2, 0}, dtype), empty({0, 3}, dtype), 0.5);
  EXPECT_EQ(out.to_vector<double>(), std::vector<double>(6, 2.0));
}

TEST_P(MatmulOfType, ResultsDoNotDependOnTheNumberOfThreads) {
  const int threads = num_threads();
  for (const auto [m, n, k] : {Sizes{111, 63, 200}, Sizes{7, 5, 3}, Sizes{1, 400, 300},
                               Sizes{1500, 1, 64}, Sizes{200, 1000, 70}}) {
    const Tensor a = random_tensor({2, m, k}, GetParam(), 14);
    const Tensor b = random_tensor({2, k, n}, GetParam(), 15);
    set_num_threads(1);
    const Tensor alone = matmul(a, b);
    set_num_threads(2);
    const Tensor shared = matmul(a, b);
    set_num_threads(threads);
    EXPECT_EQ(alone.to_vector<double>(), shared.to_vector<double>()) << m << " " << n << " " << k;
  }
}

TEST_P(MatmulOfType, WorksInsideAParallelLoop) {
  const Tensor a = random_tensor({100, 70}, GetParam(), 16);
  const Tensor b = random_tensor({70, 90}, GetParam(), 17);
  const Reference expected = multiply_matrices(a, b);
  std::vector<Tensor> results(6);
  parallel_for(0, 6, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) results[static_cast<size_t>(i)] = matmul(a, b);
  });
  for (const Tensor& result : results) expect_product(result, expected, 70, GetParam());
}

TEST_P(MatmulOfType, WorksInSeveralThreadsAtOnce) {
  const Tensor a = random_tensor({100, 70}, GetParam(), 16);
  const Tensor b = random_tensor({70, 90}, GetParam(), 17);
  const Reference expected = multiply_matrices(a, b);
  std::vector<Tensor> results(4);
  {
    std::vector<std::jthread> threads;
    for (Tensor& result : results) {
      threads.emplace_back([&] {
        for (int i = 0; i < 10; ++i) result = matmul(a, b);
      });
    }
  }
  for (const Tensor& result : results) expect_product(result, expected, 70, GetParam());
}

TEST(Matmul, VectorsFollowTheRankRules) {
  const Tensor v = from_vector<double>({1, 2, 3}, {3});
  const Tensor matrix = from_vector<double>({1, 0, 0, 0, 1, 1}, {3, 2});
  EXPECT_EQ(matmul(v, v).shape(), Shape{});
  EXPECT_EQ(matmul(v, v).item<double>(), 14);
  EXPECT_EQ(matmul(v, matrix).to_vector<double>(), (std::vector<double>{4, 3}));
  EXPECT_EQ(matmul(matrix.transpose(0, 1), v).to_vector<double>(), (std::vector<double>{4, 3}));
  const Tensor batch = matrix.expand({4, 3, 2});
  EXPECT_EQ(matmul(v, batch).shape(), (Shape{4, 2}));
  EXPECT_EQ(matmul(batch.transpose(1, 2), v).shape(), (Shape{4, 2}));
  EXPECT_EQ(matmul(v, batch).to_vector<double>(), (std::vector<double>{4, 3, 4, 3, 4, 3, 4, 3}));
  Tensor out = full({2}, 1, DType::f64);
  matmul_into(out, v, matrix, 10);
  EXPECT_EQ(out.to_vector<double>(), (std::vector<double>{14, 13}));
  Tensor dot = full({}, 1, DType::f64);
  matmul_into(dot, v, v, 1);
  EXPECT_EQ(dot.item<double>(), 15);
}

TEST(Matmul, HalfOperandsGiveUnroundedF32Sums) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const auto [m, n, k] : {Sizes{3, 5, 7}, Sizes{96, 64, 128}, Sizes{50, 1, 99}}) {
      const Tensor a = random_tensor({m, k}, dtype, 18), b = random_tensor({k, n}, dtype, 19);
      const Tensor product = matmul(a, b, {.out_dtype = DType::f32});
      EXPECT_EQ(product.dtype(), DType::f32);
      expect_product(product, multiply_matrices(a, b), k, dtype);

      Tensor total = full({m, n}, 2, DType::f32);
      matmul_into(total, a, b, 1);
      Reference expected = multiply_matrices(a, b);
      for (double& value : expected.values) value += 2;
      for (double& magnitude : expected.magnitudes) magnitude += 2;
      expect_product(total, expected, k, dtype);
    }
  }
}

/// A library may complete inner sizes in its scratch: what lay there before must not matter.
TEST(Matmul, InnerSizesAroundBlocksOfTheLibrary) {
  for (const int64_t k : {31, 33, 61, 62, 63, 64, 65, 95, 127}) {
    for (const auto& [m, n] : {std::pair{37, 45}, {53, 23}, {34, 130}, {300, 64}}) {
      SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k);
      const Tensor a = random_tensor({m, k}, DType::bf16, 24);
      const Tensor b = random_tensor({k, n}, DType::bf16, 25);
      const Reference expected = multiply_matrices(a, b);
      const Tensor turned_a = a.transpose(0, 1).contiguous(), weight = b.to(DType::f32);
      const auto leave_huge_values = [] {
        std::vector<Tensor> blocks;
        for (int64_t bytes = 64; bytes < (1 << 20); bytes *= 2)
          blocks.push_back(full({bytes}, 0xda, DType::u8));
      };
      leave_huge_values();
      expect_product(matmul(a, b, {.out_dtype = DType::f32}), expected, k, DType::bf16);
      leave_huge_values();
      expect_product(matmul(turned_a, b, {.transpose_a = true, .out_dtype = DType::f32}), expected,
                     k, DType::bf16);
      leave_huge_values();
      expect_product(linear(a, weight.transpose(0, 1)), expected, k, DType::bf16);
    }
  }
}

TEST(Matmul, HugeAndTinyValuesKeepTheirScale) {
  for (const int64_t size : {6, 80}) {
    for (const double scale : {1e-30, 1e15}) {
      const Tensor a = random_tensor({size, size}, DType::f32, 20, -scale, scale);
      const Tensor b = random_tensor({size, size}, DType::f32, 21);
      expect_product(matmul(a, b), multiply_matrices(a, b), size, DType::f32);
    }
    const Tensor large = full({size, size}, 1e30, DType::f32);
    for (const float value : matmul(large, large).to_vector<float>())
      EXPECT_EQ(value, std::numeric_limits<float>::infinity());
    Tensor poisoned = ones({size, size});
    poisoned.slice(0, 2, 3).fill_(std::numeric_limits<double>::quiet_NaN());
    const Tensor result = matmul(poisoned, ones({size, size}));
    EXPECT_TRUE(std::isnan(result.select(0, 2).select(0, 0).item<float>()));
    EXPECT_EQ(result.select(0, 1).select(0, 0).item<float>(), static_cast<float>(size));
  }
}

TEST(Matmul, LongSums) {
  const Tensor a = random_tensor({40, 5000}, DType::bf16, 22),
               b = random_tensor({5000, 30}, DType::bf16, 23);
  expect_product(matmul(a, b, {.out_dtype = DType::f32}), multiply_matrices(a, b), 5000,
                 DType::bf16);
  expect_product(matmul(a.to(DType::f16), b.to(DType::f16), {.out_dtype = DType::f32}),
                 multiply_matrices(a.to(DType::f16), b.to(DType::f16)), 5000, DType::f16);
}

TEST(Matmul, RefusesBadOperandsByName) {
  using testing::HasSubstr;
  EXPECT_THAT(message_of<ShapeError>([] {
                matmul(zeros({2, 3}), zeros({4, 5}));
              }),
              testing::AllOf(HasSubstr("matmul"), HasSubstr("inner sizes 3 and 4"),
                             HasSubstr("[2, 3]"), HasSubstr("[4, 5]")));
  EXPECT_THAT(message_of<ShapeError>([] {
                matmul(zeros({2, 2, 3}), zeros({3, 3, 5}));
              }),
              HasSubstr("matmul"));
  EXPECT_THAT(message_of<DTypeError>([] {
                matmul(zeros({2, 3}), zeros({3, 2}, DType::bf16));
              }),
              testing::AllOf(HasSubstr("f32"), HasSubstr("bf16")));
  EXPECT_THROW(matmul(zeros({2, 2}, DType::i64), zeros({2, 2}, DType::i64)), DTypeError);
  EXPECT_THROW(matmul(scalar(1), zeros({1})), ShapeError);
  EXPECT_THROW(matmul(Tensor(), zeros({1})), ShapeError);
  EXPECT_THROW(matmul(zeros({3}), zeros({3, 2}), {.transpose_a = true}), ShapeError);
  EXPECT_THAT(message_of<DTypeError>([] {
                matmul(zeros({2, 2}), zeros({2, 2}), {.out_dtype = DType::bf16});
              }),
              HasSubstr("bf16"));
  EXPECT_THROW(
      matmul(zeros({2, 2}, DType::f64), zeros({2, 2}, DType::f64), {.out_dtype = DType::f32}),
      DTypeError);
}

TEST(MatmulInto, RefusesBadOutputs) {
  const Tensor a = zeros({2, 3}), b = zeros({3, 4});
  Tensor wrong = zeros({4, 2});
  EXPECT_THROW(matmul_into(wrong, a, b), ShapeError);
  Tensor undefined;
  EXPECT_THROW(matmul_into(undefined, a, b), ShapeError);
  Tensor doubles = zeros({2, 4}, DType::f64);
  EXPECT_THROW(matmul_into(doubles, a, b), DTypeError);
  Tensor right = zeros({2, 4});
  EXPECT_THROW(matmul_into(right, a, b, 0, {.out_dtype = DType::bf16}), DTypeError);
  Tensor repeated = zeros({2, 1}).expand({2, 4});
  EXPECT_THROW(matmul_into(repeated, a, b), ShapeError);
  Tensor square = zeros({3, 3});
  EXPECT_THROW(matmul_into(square, square, square), ConfigError);
  Tensor both = zeros({6, 3});
  Tensor upper = both.slice(0, 0, 3);
  EXPECT_NO_THROW(matmul_into(upper, both.slice(0, 3, 6), square));
}

}  // namespace
}  // namespace weft

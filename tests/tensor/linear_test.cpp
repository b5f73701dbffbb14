#include "weft/tensor/ops/linear.h"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/ops/low_precision_copies.h"
#include "weft/tensor/ops/matmul.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;
using test::rounding_error;
using test::scattered;
using test::with_gaps;

struct Reference {
  std::vector<double> y, dx, dweight, dbias;
};

/// Plain loops over x [M, K], weight [N, K], bias [N] and dy [M, N].
Reference reference(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& dy) {
  const auto M = static_cast<size_t>(x.size(0)), K = static_cast<size_t>(x.size(1));
  const auto N = static_cast<size_t>(weight.size(0));
  const auto xs = x.to_vector<double>(), ws = weight.to_vector<double>();
  const auto bs = bias.to_vector<double>(), gs = dy.to_vector<double>();
  Reference out{std::vector<double>(M * N), std::vector<double>(M * K), std::vector<double>(N * K),
                std::vector<double>(N)};
  for (size_t m = 0; m < M; ++m) {
    for (size_t n = 0; n < N; ++n) {
      double sum = bs[n];
      for (size_t k = 0; k < K; ++k) {
        sum += xs[m * K + k] * ws[n * K + k];
        out.dx[m * K + k] += gs[m * N + n] * ws[n * K + k];
        out.dweight[n * K + k] += gs[m * N + n] * xs[m * K + k];
      }
      out.y[m * N + n] = sum;
      out.dbias[n] += gs[m * N + n];
    }
  }
  return out;
}

class LinearOfType : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, LinearOfType,
                         testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(LinearOfType, MatchesLoops) {
  struct Sizes {
    int64_t M, N, K;
  };
  for (const auto [M, N, K] : {Sizes{1, 1, 1}, Sizes{1, 63, 111}, Sizes{15, 1, 63},
                               Sizes{63, 15, 1}, Sizes{111, 96, 64}, Sizes{2, 200, 300}}) {
    SCOPED_TRACE(testing::Message() << M << " " << N << " " << K);
    const DType dtype = GetParam();
    const Tensor x = random_tensor({M, K}, dtype, 1), weight = random_tensor({N, K}, dtype, 2);
    const Tensor bias = random_tensor({N}, dtype, 3), dy = random_tensor({M, N}, dtype, 4);
    const Reference expected = reference(x, weight, bias, dy);
    // Sums of up to 300 products of magnitude 4 in f32 (f64).
    const double absolute = dtype == DType::f64 ? 1e-11 : 300 * 300 * 4 * 0x1p-24;
    const double relative = rounding_error(dtype);
    for (const Tensor& input : {x, with_gaps(x), scattered(x)})
      expect_near(linear(input, weight, bias), expected.y, relative, absolute);
    for (const Tensor& w : {weight, with_gaps(weight), scattered(weight)}) {
      expect_near(linear(x, w, bias), expected.y, relative, absolute);
      expect_near(linear_backward_input(dy, w), expected.dx, relative, absolute);
    }
    for (const Tensor& gradient : {dy, with_gaps(dy), scattered(dy)}) {
      expect_near(linear_backward_weight(gradient, x), expected.dweight, relative, absolute);
      expect_near(linear_backward_bias(gradient), expected.dbias, relative, absolute);
      const LinearParameterGrads both = linear_backward_parameters(gradient, x);
      expect_near(both.dweight, expected.dweight, relative, absolute);
      expect_near(both.dbias, expected.dbias, relative, absolute);
    }
    expect_near(linear(x, weight, scattered(bias)), expected.y, relative, absolute);
  }
}

TEST_P(LinearOfType, LeadingAxesAndVectors) {
  const DType dtype = GetParam();
  const Tensor weight = random_tensor({5, 7}, dtype, 1), bias = random_tensor({5}, dtype, 2);
  const Tensor x = random_tensor({2, 3, 7}, dtype, 3);
  const Tensor y = linear(x, weight, bias);
  EXPECT_EQ(y.shape(), (Shape{2, 3, 5}));
  EXPECT_EQ(y.to_vector<double>(), linear(x.view({6, 7}), weight, bias).to_vector<double>());
  const Tensor swapped = x.transpose(0, 1);
  EXPECT_EQ(linear(swapped, weight).to_vector<double>(),
            linear(swapped.contiguous(), weight).to_vector<double>());
  EXPECT_EQ(linear(x.select(0, 0).select(0, 0), weight).shape(), (Shape{5}));
  EXPECT_EQ(linear_backward_input(y, weight).shape(), x.shape());
  EXPECT_EQ(linear_backward_weight(y, x).shape(), weight.shape());
  EXPECT_EQ(linear_backward_bias(y).shape(), bias.shape());
}

TEST_P(LinearOfType, EmptySizes) {
  const DType dtype = GetParam();
  EXPECT_EQ(linear(empty({0, 7}, dtype), empty({5, 7}, dtype)).shape(), (Shape{0, 5}));
  const Tensor bias = random_tensor({3}, dtype, 1);
  const Tensor y = linear(empty({2, 0}, dtype), empty({3, 0}, dtype), bias);
  const std::vector<double> b = bias.to_vector<double>();
  EXPECT_EQ(y.to_vector<double>(), (std::vector<double>{b[0], b[1], b[2], b[0], b[1], b[2]}));
  const Tensor dweight = linear_backward_weight(empty({0, 2}, dtype), empty({0, 3}, dtype));
  EXPECT_EQ(dweight.to_vector<double>(), std::vector<double>(6, 0.0));
  EXPECT_EQ(linear_backward_parameters(empty({0, 2}, dtype), empty({0, 3}, dtype))
                .dbias.to_vector<double>(),
            std::vector<double>(2, 0.0));
  EXPECT_EQ(linear_backward_bias(empty({4, 0, 2}, dtype)).to_vector<double>(),
            std::vector<double>(2, 0.0));
}

class LinearMixed : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, LinearMixed, testing::Values(DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(LinearMixed, RoundsMasterWeightsOnceAndBiasNever) {
  const DType dtype = GetParam();
  const Tensor x = random_tensor({37, 64}, dtype, 1), dy = random_tensor({37, 48}, dtype, 2);
  const Tensor weight = random_tensor({48, 64}, DType::f32, 3);
  const Tensor bias = random_tensor({48}, DType::f32, 4);
  const Reference expected = reference(x, weight.to(dtype), bias, dy);
  const double rounding = rounding_error(dtype);
  EXPECT_EQ(linear(x, weight, bias).dtype(), dtype);
  expect_near(linear(x, weight, bias), expected.y, rounding, 1e-3);
  expect_near(linear_backward_input(dy, weight), expected.dx, rounding, 1e-3);
  const Tensor dweight = linear_backward_weight(dy, x, DType::f32);
  EXPECT_EQ(dweight.dtype(), DType::f32);
  expect_near(dweight, expected.dweight, 1e-6, 1e-4);
  expect_near(linear_backward_bias(dy, DType::f32), expected.dbias, 1e-6, 1e-4);
  Tensor total = dweight.clone();
  linear_backward_weight_into(total, dy, x);
  std::vector<double> twice = expected.dweight;
  for (double& value : twice) value *= 2;
  expect_near(total, twice, 1e-6, 2e-4);
}

TEST(LowPrecisionCopy, IsMadeOncePerVersion) {
  clear_low_precision_copies();
  Tensor weight = random_tensor({6, 5}, DType::f32, 1);
  const Tensor first = low_precision_copy(weight, DType::bf16);
  EXPECT_EQ(first.to_vector<float>(), weight.to(DType::bf16).to_vector<float>());
  EXPECT_EQ(low_precision_copy(weight, DType::bf16).storage(), first.storage());
  EXPECT_NE(low_precision_copy(weight, DType::f16).dtype(), first.dtype());
  EXPECT_EQ(low_precision_copy(weight.transpose(0, 1), DType::bf16).shape(), (Shape{5, 6}));
  EXPECT_EQ(low_precision_copy(weight.slice(0, 1, 3), DType::bf16).to_vector<float>(),
            weight.slice(0, 1, 3).to(DType::bf16).to_vector<float>());
  EXPECT_EQ(low_precision_copy(weight, DType::f32).storage(), weight.storage());
  weight.fill_(3);
  EXPECT_EQ(low_precision_copy(weight, DType::bf16).to_vector<float>(),
            std::vector<float>(30, 3.0f));
  EXPECT_EQ(low_precision_copy(weight, DType::bf16).raw_data(), first.raw_data());
  EXPECT_THROW(low_precision_copy(Tensor(), DType::bf16), ShapeError);
}

TEST(LowPrecisionCopy, KeepsNoStorageAliveAndForgetsTheDead) {
  clear_low_precision_copies();
  std::weak_ptr<Storage> copy;
  {
    const Tensor weight = random_tensor({6, 5}, DType::f32, 1);
    const std::weak_ptr<Storage> original = weight.storage();
    copy = low_precision_copy(weight, DType::bf16).storage();
    EXPECT_EQ(weight.storage().use_count(), 1);
    EXPECT_FALSE(copy.expired());
  }
  const Tensor other = random_tensor({2, 2}, DType::f32, 2);
  low_precision_copy(other, DType::bf16);
  EXPECT_TRUE(copy.expired());
  copy = low_precision_copy(other, DType::bf16).storage();
  clear_low_precision_copies();
  EXPECT_TRUE(copy.expired());
}

bool is_current(const Tensor& weight, const Tensor& copy) {
  const uint64_t version = copy.version();
  const Tensor again = low_precision_copy(weight, copy.dtype());
  EXPECT_EQ(again.raw_data(), copy.raw_data());
  EXPECT_EQ(again.to_vector<float>(), weight.to(copy.dtype()).to_vector<float>());
  return again.version() == version;
}

/// Writes new values to weights and what is kept of them.
void rewrite(std::vector<Tensor> weights, double value) {
  LowPrecisionCopies copies(weights);
  for (size_t i = 0; i < weights.size(); ++i) {
    // Not in place: that would grow the version, which mark_written() does.
    float* const elements = weights[i].data<float>();
    std::fill(elements, elements + weights[i].numel(), static_cast<float>(value) + 0.5f * i);
    for (Tensor copy : copies.of(i)) {
      EXPECT_EQ(copy.shape(), weights[i].shape());
      copy.copy_(weights[i]);
    }
  }
  copies.mark_written();
}

TEST(LowPrecisionCopies, AreWrittenInPlaceOfBeingMadeAgain) {
  clear_low_precision_copies();
  const Tensor weight = random_tensor({6, 5}, DType::f32, 1);
  const Tensor bf = low_precision_copy(weight, DType::bf16);
  const Tensor half = low_precision_copy(weight.transpose(0, 1), DType::f16);
  const uint64_t version = weight.version();
  rewrite({weight}, 3);
  EXPECT_GT(weight.version(), version);
  EXPECT_EQ(bf.to_vector<float>(), std::vector<float>(30, 3.0f));
  EXPECT_TRUE(is_current(weight, bf));
  EXPECT_TRUE(is_current(weight.transpose(0, 1), half));
}

TEST(LowPrecisionCopies, CoverSlicesOfWhatIsKept) {
  clear_low_precision_copies();
  const Tensor packed = random_tensor({9, 4}, DType::f32, 1);
  const Tensor q = packed.slice(0, 0, 4), k = packed.slice(0, 4, 6), v = packed.slice(0, 6, 9);
  const Tensor all = low_precision_copy(packed, DType::bf16);
  const Tensor of_k = low_precision_copy(k, DType::bf16);
  const Tensor of_part = low_precision_copy(q.slice(0, 1, 3), DType::bf16);
  const Tensor of_columns = low_precision_copy(packed.slice(1, 0, 2), DType::bf16);
  rewrite({v, q, k}, 1);
  EXPECT_TRUE(is_current(packed, all));
  EXPECT_TRUE(is_current(k, of_k));
  EXPECT_FALSE(is_current(q.slice(0, 1, 3), of_part));
  EXPECT_FALSE(is_current(packed.slice(1, 0, 2), of_columns));
  rewrite({q, v}, 2);  // what is kept of k alone was not changed
  EXPECT_TRUE(is_current(packed, all));
  EXPECT_TRUE(is_current(k, of_k));
}

TEST(LowPrecisionCopies, LeaveOutWhatIsOutOfDate) {
  clear_low_precision_copies();
  Tensor packed = random_tensor({4, 4}, DType::f32, 1);
  const Tensor copy = low_precision_copy(packed, DType::bf16);
  packed.fill_(7);
  const std::vector<Tensor> weights = {packed.slice(0, 0, 2)};
  EXPECT_TRUE(LowPrecisionCopies(weights).of(0).empty());
  rewrite(weights, 2);
  EXPECT_FALSE(is_current(packed, copy));
  rewrite({packed.slice(0, 0, 2), packed.slice(0, 1, 3)}, 3);  // overlapping weights
  EXPECT_FALSE(is_current(packed, copy));
  rewrite({packed, packed}, 4);
  EXPECT_FALSE(is_current(packed, copy));
  rewrite({packed.slice(0, 2, 2), packed.slice(0, 2, 4)}, 5);  // an empty one
  EXPECT_TRUE(is_current(packed, copy));
}

TEST(LowPrecisionCopies, MarkReplaysOfAllGraphs) {
  clear_low_precision_copies();
  Tensor a = random_tensor({3, 3}, DType::f32, 1), b = random_tensor({3, 3}, DType::f32, 2);
  const std::vector<Tensor> weights = {a, b};
  const Tensor of_a = low_precision_copy(a, DType::bf16);
  std::vector<LowPrecisionCopies> captured = {LowPrecisionCopies(weights)};
  const Tensor of_b = low_precision_copy(b, DType::bf16);  // the first graph does not write it
  LowPrecisionCopies::mark_replayed(captured);
  EXPECT_TRUE(is_current(a, of_a));
  EXPECT_FALSE(is_current(b, of_b));
  captured.emplace_back(weights);
  EXPECT_FALSE(captured[0] == captured[1]);
  EXPECT_TRUE(captured[1] == LowPrecisionCopies(weights));
  LowPrecisionCopies::mark_replayed(captured);
  EXPECT_TRUE(is_current(a, of_a));
  EXPECT_FALSE(is_current(b, of_b));  // the first graph may be the one that is replayed
  // Something else changes a weight: its copy is right before the replay reads it.
  a.fill_(9);
  LowPrecisionCopies::mark_replayed(captured);
  EXPECT_EQ(of_a.to_vector<float>(), std::vector<float>(9, 9.0f));
  EXPECT_TRUE(is_current(a, of_a));
}

TEST(LowPrecisionCopies, ForgetWeightsThatAreGone) {
  clear_low_precision_copies();
  std::weak_ptr<Storage> copy;
  {
    const std::vector<Tensor> weights = {random_tensor({3, 3}, DType::f32, 1)};
    copy = low_precision_copy(weights[0], DType::bf16).storage();
    LowPrecisionCopies copies(weights);
    EXPECT_EQ(copies.of(0).size(), 1u);
  }
  low_precision_copy(random_tensor({3, 3}, DType::f32, 2), DType::bf16);
  EXPECT_TRUE(copy.expired());
}

TEST(LowPrecisionCopy, ServesSeveralThreads) {
  clear_low_precision_copies();
  std::vector<Tensor> weights;
  for (uint64_t i = 0; i < 8; ++i) weights.push_back(random_tensor({16, 16}, DType::f32, i));
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        for (const Tensor& weight : weights) {
          const Tensor copy = low_precision_copy(weight, DType::bf16);
          ASSERT_EQ(static_cast<float>(copy.data<bf16>()[3]),
                    static_cast<float>(bf16(weight.data<float>()[3])));
        }
      }
    });
  }
}

TEST(Linear, RefusesWhatDoesNotFit) {
  const Tensor x = zeros({2, 3}), weight = zeros({4, 3});
  EXPECT_THROW(linear(x, zeros({4, 2})), ShapeError);
  EXPECT_THROW(linear(x, zeros({3})), ShapeError);
  EXPECT_THROW(linear(scalar(1), weight), ShapeError);
  EXPECT_THROW(linear(Tensor(), weight), ShapeError);
  EXPECT_THROW(linear(x, Tensor()), ShapeError);
  EXPECT_THROW(linear(x, weight, zeros({3})), ShapeError);
  EXPECT_THROW(linear(x, weight, zeros({1, 4})), ShapeError);
  EXPECT_THROW(linear(x, weight, zeros({4}, DType::f64)), DTypeError);
  EXPECT_THROW(linear(x, zeros({4, 3}, DType::bf16)), DTypeError);
  EXPECT_THROW(linear(zeros({2, 3}, DType::f64), weight), DTypeError);
  EXPECT_THROW(linear(zeros({2, 3}, DType::i64), zeros({4, 3}, DType::i64)), DTypeError);
  EXPECT_THROW(linear_backward_input(zeros({2, 3}), weight), ShapeError);
  EXPECT_THROW(linear_backward_weight(zeros({2, 4}), zeros({3, 3})), ShapeError);
  EXPECT_THROW(linear_backward_weight(zeros({2, 4}), zeros({1, 2, 3})), ShapeError);
  EXPECT_THROW(linear_backward_bias(Tensor()), ShapeError);
  Tensor wrong = zeros({3, 4});
  EXPECT_THROW(linear_backward_weight_into(wrong, zeros({2, 4}), x), ShapeError);
}

}  // namespace
}  // namespace weft

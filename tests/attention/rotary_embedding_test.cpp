#include "weft/attention/kernels/rotary_embedding.h"

#include <cmath>

#include "attention_test_data.h"

namespace weft::attention {
namespace {

using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;

/// The definition, in doubles.
Tensor rotated(const Tensor& x, int64_t position, double theta) {
  const Shape s = x.shape();
  const std::vector<double> u = x.to_vector<double>();
  std::vector<double> y(u.size());
  const int64_t dim = s[3], half = dim / 2;
  for (int64_t row = 0; row < x.numel() / std::max<int64_t>(dim, 1); ++row) {
    const int64_t p = position + row / s[2] % s[1];
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * std::pow(theta, -2.0 * i / dim);
      const double a = u[row * dim + i], b = u[row * dim + half + i];
      y[row * dim + i] = a * std::cos(angle) - b * std::sin(angle);
      y[row * dim + half + i] = a * std::sin(angle) + b * std::cos(angle);
    }
  }
  return from_vector(y, s);
}

TEST(RotaryEmbedding, MatchesDefinition) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    const double tolerance = dtype == DType::f64   ? 1e-14
                             : dtype == DType::f32 ? 1e-6
                             : dtype == DType::f16 ? 3e-3
                                                   : 2e-2;
    for (const Shape& shape : {Shape{2, 3, 4, 2}, Shape{1, 17, 3, 34}, Shape{3, 1, 1, 64}}) {
      for (const int64_t position : {0, 5, 3000}) {
        const Tensor x = random_tensor(shape, dtype, 4);
        Tensor y = x.clone();
        rotary_embedding_(y, position, 10000);
        EXPECT_LE(largest_difference(y, rotated(x, position, 10000)), tolerance)
            << to_string(dtype) << " " << to_string(shape) << " at " << position;
      }
    }
  }
}

TEST(RotaryEmbedding, InverseUndoesIt) {
  const Tensor x = random_tensor({2, 9, 3, 16}, DType::f64, 4);
  Tensor y = x.clone();
  rotary_embedding_(y, 7, 500);
  EXPECT_GT(largest_difference(y, x), 0.1);
  rotary_embedding_(y, 7, 500, /*inverse=*/true);
  EXPECT_LE(largest_difference(y, x), 1e-14);
}

TEST(RotaryEmbedding, ViewsAreRotatedInPlace) {
  const Tensor x = random_tensor({2, 9, 3, 16}, DType::f32, 4);
  Tensor expected = x.clone();
  rotary_embedding_(expected, 2, 10000);
  const Tensor gaps = testing::scattered(x);
  Tensor view = gaps;
  const uint64_t version = view.version();
  rotary_embedding_(view, 2, 10000);
  EXPECT_TRUE(same_bits(gaps, expected));
  EXPECT_GT(view.version(), version);
  Tensor columns = x.transpose(0, 3).contiguous().transpose(0, 3);  // last axis not dense
  rotary_embedding_(columns, 2, 10000);
  EXPECT_TRUE(same_bits(columns, expected));
}

TEST(RotaryEmbedding, ScoresDependOnDistanceAlone) {
  const Tensor q = random_tensor({1, 1, 1, 32}, DType::f64, 1);
  const Tensor k = random_tensor({1, 1, 1, 32}, DType::f64, 2);
  const auto score = [&](int64_t at_q, int64_t at_k) {
    Tensor a = q.clone(), b = k.clone();
    rotary_embedding_(a, at_q, 10000);
    rotary_embedding_(b, at_k, 10000);
    double sum = 0;
    for (int i = 0; i < 32; ++i) sum += a.to_vector<double>()[i] * b.to_vector<double>()[i];
    return sum;
  };
  EXPECT_NEAR(score(5, 2), score(1005, 1002), 1e-10);
  EXPECT_GT(std::abs(score(5, 2) - score(6, 2)), 1e-3);
}

TEST(RotaryEmbedding, RefusesWhatDoesNotFit) {
  Tensor odd = zeros({1, 2, 1, 7}), flat = zeros({2, 8}), good = zeros({1, 2, 1, 8});
  Tensor integers = zeros({1, 2, 1, 8}, DType::i64);
  EXPECT_EQ(message_of<ShapeError>([&] { rotary_embedding_(odd, 0, 10000); }),
            "rotary_embedding_: the head dim must be even, got [1, 2, 1, 7] f32 cpu");
  message_of<ShapeError>([&] { rotary_embedding_(flat, 0, 10000); });
  message_of<DTypeError>([&] { rotary_embedding_(integers, 0, 10000); });
  message_of<ConfigError>([&] { rotary_embedding_(good, -1, 10000); });
  message_of<ConfigError>([&] { rotary_embedding_(good, 0, 0); });
}

}  // namespace
}  // namespace weft::attention

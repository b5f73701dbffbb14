#include "weft/attention/kernels/decode_attention.h"

#include <cmath>
#include <vector>

#include "attention_test_data.h"

namespace weft::attention {
namespace {

using testing::random_tensor;

/// What the step is to give, in double: keys and values [B, Hk, D] of every token are kept whole.
struct Reference {
  QkvSplit split;
  double theta;
  int64_t slots;
  std::vector<std::vector<double>> keys, values;  // by token: [B, Hk, D or Dv]

  std::vector<double> turned(const std::vector<double>& x, size_t begin, int64_t position) const {
    const auto dim = static_cast<size_t>(split.head_dim), half = dim / 2;
    std::vector<double> y(x.begin() + static_cast<ptrdiff_t>(begin),
                          x.begin() + static_cast<ptrdiff_t>(begin + dim));
    if (theta == 0) return y;
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) *
                           std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
      const double a = y[i], b = y[i + half];
      y[i] = a * std::cos(angle) - b * std::sin(angle);
      y[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
    return y;
  }

  std::vector<double> step(const Tensor& packed) {
    const std::vector<double> x = packed.to_vector<double>();
    const auto position = static_cast<int64_t>(keys.size());
    const auto batch = static_cast<size_t>(packed.size(0));
    const auto width = static_cast<size_t>(split.width());
    const auto heads = static_cast<size_t>(split.heads), kv = static_cast<size_t>(split.kv_heads);
    const auto dim = static_cast<size_t>(split.head_dim), dv = static_cast<size_t>(split.dv());
    keys.emplace_back();
    values.emplace_back();
    for (size_t b = 0; b < batch; ++b) {
      for (size_t h = 0; h < kv; ++h) {
        const auto k = turned(x, b * width + (heads + h) * dim, position);
        keys.back().insert(keys.back().end(), k.begin(), k.end());
        const size_t v = b * width + (heads + kv) * dim + h * dv;
        for (size_t e = 0; e < dv; ++e) values.back().push_back(x[v + e]);
      }
    }
    std::vector<double> o;
    const auto first = static_cast<size_t>(std::max<int64_t>(0, position + 1 - slots));
    for (size_t b = 0; b < batch; ++b) {
      for (size_t h = 0; h < heads; ++h) {
        const auto q = turned(x, b * width + h * dim, position);
        const size_t of = b * kv + h / (heads / kv);
        std::vector<double> sums(dv);
        double total = 0;
        for (size_t t = first; t < keys.size(); ++t) {
          double score = 0;
          for (size_t e = 0; e < dim; ++e) score += q[e] * keys[t][of * dim + e];
          const double weight = std::exp(score / std::sqrt(static_cast<double>(dim)));
          total += weight;
          for (size_t e = 0; e < dv; ++e) sums[e] += weight * values[t][of * dv + e];
        }
        for (const double sum : sums) o.push_back(sum / total);
      }
    }
    return o;
  }
};

struct Case {
  int64_t batch, slots, steps;
  QkvSplit split;
  double theta = 10000;
};

TEST(DecodeAttention, EqualsSoftmaxOverTheRowsKept) {
  for (const Case& c :
       {Case{1, 40, 40, {.heads = 4, .kv_heads = 4, .head_dim = 16}},
        Case{2, 9, 30, {.heads = 6, .kv_heads = 2, .head_dim = 8}},
        Case{1, 1, 4, {.heads = 2, .kv_heads = 1, .head_dim = 6}},
        Case{2, 20, 12, {.heads = 2, .kv_heads = 2, .head_dim = 10, .value_head_dim = 7}},
        Case{1, 16, 20, {.heads = 3, .kv_heads = 3, .head_dim = 5}, 0}}) {
    Tensor keys = full({c.batch, c.split.kv_heads, c.slots, c.split.head_dim}, NAN, DType::f64);
    Tensor values = full({c.batch, c.split.kv_heads, c.slots, c.split.dv()}, NAN, DType::f64);
    Tensor position = zeros({1}, DType::i64);
    const Tensor table =
        c.theta == 0 ? Tensor() : rope_table(c.theta, c.split.head_dim, c.steps, DType::f64);
    const DecodeScratch scratch(c.batch, c.slots, c.split, DType::f64, kCpu);
    Reference reference{c.split, c.theta, c.slots, {}, {}};
    for (int64_t t = 0; t < c.steps; ++t) {
      const Tensor packed =
          random_tensor({c.batch, c.split.width()}, DType::f64, static_cast<uint64_t>(100 + t));
      position.fill_(static_cast<double>(t));
      const Tensor o = decode_attention(packed, c.split, keys, values, position, table, scratch);
      ASSERT_EQ(o.shape(), Shape({c.batch, c.split.heads * c.split.dv()}));
      const std::vector<double> expected = reference.step(packed), actual = o.to_vector<double>();
      for (size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(actual[i], expected[i], 1e-12) << "token " << t << " element " << i;
    }
  }
}

TEST(DecodeAttention, RefusesWhatDoesNotFit) {
  const QkvSplit split{.heads = 4, .kv_heads = 2, .head_dim = 8};
  const Tensor packed = zeros({1, split.width()});
  Tensor keys = zeros({1, 2, 5, 8}), values = zeros({1, 2, 5, 8});
  const Tensor position = zeros({1}, DType::i64);
  const Tensor table = rope_table(10000, 8, 5);
  const DecodeScratch scratch(1, 5, split, DType::f32, kCpu);
  const auto run = [&](const Tensor& x, Tensor k, const Tensor& at, const Tensor& angles) {
    decode_attention(x, split, k, values, at, angles, scratch);
  };
  run(packed, keys, position, table);
  EXPECT_THROW(run(zeros({1, 65}), keys, position, table), ShapeError);
  EXPECT_THROW(run(zeros({1, split.width()}, DType::i64), keys, position, table), DTypeError);
  EXPECT_THROW(run(packed, zeros({2, 2, 5, 8}), position, table), ShapeError);
  EXPECT_THROW(run(packed, zeros({1, 2, 0, 8}), position, table), ShapeError);
  EXPECT_THROW(run(packed, keys.to(DType::bf16), position, table), DTypeError);
  EXPECT_THROW(run(packed, keys, zeros({2}, DType::i64), table), ShapeError);
  EXPECT_THROW(run(packed, keys, zeros({1}, DType::i32), table), DTypeError);
  EXPECT_THROW(run(packed, keys, position, rope_table(10000, 6, 5)), ShapeError);
  EXPECT_THROW(run(packed, keys, position, rope_table(10000, 8, 5, DType::f64)), DTypeError);
  EXPECT_THROW(run(packed, keys, full({1}, 5, DType::i64), table), IndexError);
}

}  // namespace
}  // namespace weft::attention

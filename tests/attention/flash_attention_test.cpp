#include "weft/attention/kernels/flash_attention.h"

#include <limits>

#include "weft/tensor/parallel.h"

#include "attention_test_data.h"
#include "reference/attention_reference.h"

namespace weft::attention {
namespace {

using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::root_mean_square;
using testing::same_bits;
using testing::scattered;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  int64_t batch, queries, keys, heads, kv_heads, dim, value_dim;
  FlashAttentionOptions options{};
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << "B" << c.batch << " T" << c.queries << " S" << c.keys << " H" << c.heads << " Hk"
       << c.kv_heads << " D" << c.dim << " Dv" << c.value_dim
       << (c.options.causal ? " causal" : " full") << " window" << c.options.window << " position"
       << c.options.position.value_or(-1) << " key " << c.options.key_length << "/"
       << c.options.key_stride;
}

struct Data {
  explicit Data(const Case& c, DType dtype, uint64_t seed = 1, double deviation = 1)
      : q(random_tensor({c.batch, c.queries, c.heads, c.dim}, dtype, seed, deviation)),
        k(random_tensor({c.batch, c.keys, c.kv_heads, c.dim}, dtype, seed + 1)),
        v(random_tensor({c.batch, c.keys, c.kv_heads, c.value_dim}, dtype, seed + 2)),
        dout(random_tensor({c.batch, c.queries, c.heads, c.value_dim}, dtype, seed + 3)) {}
  Tensor q, k, v, dout;
};

struct Results {
  Results(const Data& x, const FlashAttentionOptions& options)
      : out(flash_attention_forward(x.q, x.k, x.v, options)),
        grads(flash_attention_backward(x.dout, x.q, x.k, x.v, out.o, out.lse, options)) {}
  std::vector<Tensor> all() const { return {out.o, out.lse, grads.dq, grads.dk, grads.dv}; }
  FlashAttentionOutput out;
  FlashAttentionGradients grads;
};

/// Results of the kernel against the oracle, within `tolerance` of elements of order one.
void expect_matches_oracle(const Case& c, DType dtype, double tolerance, uint64_t seed = 1) {
  const Data x(c, dtype, seed);
  const Results run(x, c.options);
  const auto out = reference::attention_forward(x.q, x.k, x.v, c.options);
  const auto grads = reference::attention_backward(x.dout, x.q, x.k, x.v, c.options);
  const std::vector<Tensor> expected{out.o, out.lse, grads.dq, grads.dk, grads.dv};
  const char* const names[] = {"o", "lse", "dq", "dk", "dv"};
  for (size_t i = 0; i < expected.size(); ++i) {
    // Rounding grows with the elements; statistics are as exact as they are large.
    const double size = i == 1 ? 1 : std::max(1.0, testing::largest_magnitude(expected[i]));
    EXPECT_LE(largest_difference(run.all()[i], expected[i]), tolerance * size)
        << names[i] << " of " << ::testing::PrintToString(c) << " " << to_string(dtype);
  }
}

TEST(FlashAttentionOracle, AgreesWithHandComputedRow) {
  // One query, two keys with scores 0 and ln 3: weights 1/4 and 3/4.
  const Tensor q = from_vector<double>({1}, {1, 1, 1, 1});
  const Tensor k = from_vector<double>({0, std::log(3.0)}, {1, 2, 1, 1});
  const Tensor v = from_vector<double>({4, 8}, {1, 2, 1, 1});
  const auto out = reference::attention_forward(q, k, v, {});
  EXPECT_NEAR(out.o.item<double>(), 7, 1e-14);
  EXPECT_NEAR(out.lse.item<double>(), std::log(4.0), 1e-14);
  // do/ds_j = p_j (v_j - o) = (1/4)(-3), (3/4)(1); dq = sum_j of that times k_j.
  const auto grads = reference::attention_backward(ones({1, 1, 1, 1}, DType::f64), q, k, v, {});
  EXPECT_NEAR(grads.dq.item<double>(), 0.75 * std::log(3.0), 1e-14);
  EXPECT_NEAR(grads.dk.to_vector<double>()[0], -0.75, 1e-14);
  EXPECT_NEAR(grads.dk.to_vector<double>()[1], 0.75, 1e-14);
  EXPECT_NEAR(grads.dv.to_vector<double>()[0], 0.25, 1e-14);
}

class FlashAttentionShapes : public ::testing::TestWithParam<Case> {};

/// In half types the inputs are the same; the results differ by their own rounding and that of P.
double tolerance_of(DType dtype) {
  return dtype == DType::f64    ? 1e-12
         : dtype == DType::f32  ? 1e-5
         : dtype == DType::bf16 ? 2e-2
                                : 5e-3;
}

TEST_P(FlashAttentionShapes, MatchesOracleInF64) {
  expect_matches_oracle(GetParam(), DType::f64, tolerance_of(DType::f64));
}
TEST_P(FlashAttentionShapes, MatchesOracleInF32) {
  expect_matches_oracle(GetParam(), DType::f32, tolerance_of(DType::f32));
}
TEST_P(FlashAttentionShapes, MatchesOracleInHalfTypes) {
  expect_matches_oracle(GetParam(), DType::bf16, tolerance_of(DType::bf16));
  expect_matches_oracle(GetParam(), DType::f16, tolerance_of(DType::f16));
}

std::vector<Case> shape_cases() {
  std::vector<Case> cases;
  const int64_t lengths[] = {1, 3, 4, 15, 16, 17, 29, 31, 64, 65, 111, 129};
  for (const int64_t t : lengths) {
    cases.push_back({2, t, t, 4, 2, 8, 6, {}});
    cases.push_back({1, t, t, 2, 1, 32, 32, {.window = 5}});
    cases.push_back({1, t, t, 3, 3, 16, 24, {.causal = false}});
  }
  for (const int64_t s : {1, 16, 64, 65, 129, 300}) {
    for (const int64_t t : {1, 2, 17, 65}) {
      if (t > s) continue;
      cases.push_back({1, t, s, 6, 2, 20, 12, {}});
      cases.push_back({2, t, s, 4, 1, 64, 64, {.window = 70}});
      cases.push_back({1, t, s, 2, 2, 7, 3, {.causal = false, .window = 9}});
    }
  }
  // Compressed keys: (T - length) / stride + 1 of them, none for the first queries.
  for (const int64_t t : {3, 17, 64, 130, 301}) {
    for (const auto& [length, stride] : {std::pair{4, 2}, {1, 1}, {16, 16}, {32, 16}}) {
      const int64_t keys = t < length ? 0 : (t - length) / stride + 1;
      cases.push_back(
          {1, t, keys, 4, 2, 16, 24, {.position = 0, .key_length = length, .key_stride = stride}});
      cases.push_back(
          {2,
           std::min<int64_t>(t, 5),
           keys,
           4,
           1,
           8,
           8,
           {.position = t - std::min<int64_t>(t, 5), .key_length = length, .key_stride = stride}});
    }
  }
  cases.push_back({1, 40, 40, 2, 1, 8, 8, {.window = 6, .position = 0}});
  cases.push_back({1, 9, 40, 2, 1, 8, 8, {.window = 6, .position = 12}});
  // Few rows over several chunks of keys.
  cases.push_back({2, 1, 1300, 8, 2, 64, 64, {}});
  cases.push_back({1, 1, 1300, 3, 3, 24, 40, {.window = 700}});
  cases.push_back({1, 4, 1300, 4, 1, 32, 16, {.window = 520}});
  cases.push_back({1, 3, 1300, 4, 2, 17, 9, {.causal = false}});
  cases.push_back({1, 1, 1300, 40, 1, 16, 16, {}});
  cases.push_back({1, 200, 333, 8, 2, 64, 64, {}});
  cases.push_back({1, 130, 130, 2, 2, 128, 128, {}});
  cases.push_back({1, 70, 70, 2, 2, 192, 128, {.scale = 0.1}});
  cases.push_back({1, 70, 70, 2, 2, 1, 1, {}});
  cases.push_back({1, 300, 300, 1, 1, 48, 80, {.window = 64}});
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, FlashAttentionShapes, ::testing::ValuesIn(shape_cases()));

/// Lengths up to `longest`, any sizes of heads, windows, offsets and compressed keys, any type.
void expect_random_shapes_match(int count, int64_t longest, uint64_t seed) {
  testing::Draw draw(seed);
  for (int i = 0; i < count && !::testing::Test::HasFailure(); ++i) {
    Case c;
    c.batch = draw(1, 2);
    c.keys = draw(1, longest);
    c.queries = draw(1, longest);  // longer than keys in some: rows before position 0 see nothing
    c.kv_heads = draw(1, 3);
    c.heads = c.kv_heads * draw(1, 3);
    c.dim = draw(1, 70);
    c.value_dim = draw(1, 70);
    c.options.causal = !draw.one_in(4);
    c.options.window = draw.one_in(2) ? 0 : draw(1, longest);
    if (draw.one_in(3)) {
      c.options.window = 0;
      c.options.position = draw(0, 2 * longest);
      c.options.key_length = draw(1, 20);
      c.options.key_stride = draw(1, 20);
    }
    const auto dtype =
        draw.of<DType>({DType::f64, DType::f32, DType::f32, DType::bf16, DType::f16});
    expect_matches_oracle(c, dtype, tolerance_of(dtype), seed + static_cast<uint64_t>(i));
  }
}

TEST(FlashAttention, RandomShapesMatchOracle) {
  expect_random_shapes_match(60, 40, 7);
}
TEST(SlowFlashAttention, RandomShapesMatchOracle) {
  expect_random_shapes_match(700, 140, 100);
}

TEST(FlashAttention, RowsWithoutKeysAreZeroWithZeroGradients) {
  const Case c{2, 100, 30, 4, 2, 16, 16, {}};
  const Data x(c, DType::f32);
  const Results run(x, c.options);
  // Rows 0..69 stand before position 0.
  EXPECT_EQ(root_mean_square(run.out.o.slice(1, 0, 70)), 0);
  EXPECT_EQ(root_mean_square(run.grads.dq.slice(1, 0, 70)), 0);
  for (const double lse : run.out.lse.slice(2, 0, 70).to_vector<double>())
    EXPECT_EQ(lse, kInfinity);
  for (const double lse : run.out.lse.slice(2, 70, 100).to_vector<double>())
    EXPECT_TRUE(std::isfinite(lse));

  const Case none{1, 3, 0, 2, 1, 8, 8, {.causal = false}};
  const Data y(none, DType::f32);
  const Results empty_run(y, none.options);
  EXPECT_EQ(root_mean_square(empty_run.out.o), 0);
  EXPECT_EQ(root_mean_square(empty_run.grads.dq), 0);
  EXPECT_EQ(empty_run.out.lse.to_vector<double>()[0], kInfinity);
  EXPECT_EQ(empty_run.grads.dk.shape(), (Shape{1, 0, 1, 8}));
}

TEST(FlashAttention, EmptyBatchAndNoQueries) {
  for (const Case& c : {Case{0, 5, 5, 2, 1, 8, 8, {}}, Case{2, 0, 70, 2, 1, 8, 8, {}}}) {
    const Data x(c, DType::f32);
    const Results run(x, c.options);
    EXPECT_EQ(run.out.o.shape(), x.q.shape());
    EXPECT_EQ(run.grads.dk.shape(), x.k.shape());
    EXPECT_EQ(root_mean_square(run.grads.dk), 0);
    EXPECT_EQ(root_mean_square(run.grads.dv), 0);
  }
}

TEST(FlashAttention, RepeatedKeyHeadsGiveTheSame) {
  const Case grouped{2, 70, 90, 6, 2, 16, 16, {}};
  const Data x(grouped, DType::f64);
  const auto repeat = [](const Tensor& kv) {  // [B, S, Hk, D] -> [B, S, 3 Hk, D]
    const Shape s = kv.shape();
    return kv.unsqueeze(3)
        .expand({s[0], s[1], s[2], 3, s[3]})
        .reshape({s[0], s[1], 3 * s[2], s[3]});
  };
  Data y = x;
  y.k = repeat(x.k);
  y.v = repeat(x.v);
  const Results a(x, {}), b(y, {});
  EXPECT_LE(largest_difference(a.out.o, b.out.o), 1e-13);
  EXPECT_LE(largest_difference(a.grads.dq, b.grads.dq), 1e-13);
  const std::vector<double> sum = a.grads.dk.to_vector<double>();
  const Tensor parts = b.grads.dk.view({2, 90, 2, 3, 16}).transpose(3, 4).contiguous();
  const std::vector<double> part = parts.to_vector<double>();
  for (size_t i = 0; i < sum.size(); ++i)
    EXPECT_NEAR(sum[i], part[3 * i] + part[3 * i + 1] + part[3 * i + 2], 1e-12);
}

TEST(FlashAttention, WindowOfWholeLengthIsFullAttention) {
  const Case c{1, 150, 150, 4, 2, 32, 32, {}};
  const Data x(c, DType::f32);
  const Results full(x, {}), windowed(x, {.window = 150});
  for (size_t i = 0; i < full.all().size(); ++i)
    EXPECT_TRUE(same_bits(full.all()[i], windowed.all()[i])) << i;
}

TEST(FlashAttention, WindowEdgeIsExact) {
  for (const int64_t window : {1, 5, 63, 64, 65, 100}) {
    const Case c{1, 200, 200, 1, 1, 16, 16, {.window = window}};
    const Data x(c, DType::f32);
    const Tensor before = flash_attention_forward(x.q, x.k, x.v, c.options).o;
    for (const int64_t t : {window, int64_t{128}, int64_t{199}}) {
      for (const int64_t key : {t - window, t - window + 1}) {
        Data y = x;
        y.k = x.k.clone();
        y.v = x.v.clone();
        y.k.slice(1, key, key + 1).fill_(3);
        y.v.slice(1, key, key + 1).fill_(-7);
        const Tensor after = flash_attention_forward(y.q, y.k, y.v, c.options).o;
        EXPECT_EQ(same_bits(before.slice(1, t, t + 1), after.slice(1, t, t + 1)), key == t - window)
            << "window " << window << ", row " << t << ", key " << key;
      }
    }
  }
}

TEST(FlashAttention, FirstRowIsTheFirstValue) {
  const Case c{1, 40, 40, 2, 2, 16, 16, {}};
  const Data x(c, DType::f32);
  const Tensor o = flash_attention_forward(x.q, x.k, x.v).o;
  EXPECT_TRUE(same_bits(o.slice(1, 0, 1), x.v.slice(1, 0, 1)));
}

TEST(FlashAttention, HugeScoresStayFinite) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    Case c{1, 100, 100, 2, 1, 16, 16, {.scale = 1.0}};
    Data x(c, dtype);
    // Scores of +-1e4: each row ends up on one key or on equal ones.
    x.q = full(x.q.shape(), 25, dtype);
    std::vector<double> keys;
    for (int64_t s = 0; s < 100; ++s) keys.insert(keys.end(), 16, s % 3 == 0 ? 25.0 : -25.0);
    x.k = from_vector(keys, {1, 100, 1, 16}).to(dtype);
    const Results run(x, c.options);
    for (const Tensor& result : run.all()) {
      for (const double value : result.to_vector<double>()) ASSERT_TRUE(std::isfinite(value));
    }
    const auto expected = reference::attention_forward(x.q, x.k, x.v, c.options);
    EXPECT_LE(largest_difference(run.out.o, expected.o), dtype == DType::bf16 ? 2e-2 : 1e-5);
  }
}

TEST(FlashAttention, OneHugeKeyTakesTheWholeRow) {
  const Case c{1, 90, 90, 1, 1, 16, 16, {.scale = 1.0}};
  Data x(c, DType::f32);
  x.q.fill_(1);
  x.k.select(1, 40).fill_(1000);
  const Tensor o = flash_attention_forward(x.q, x.k, x.v, c.options).o;
  for (int64_t t = 40; t < 90; ++t)
    EXPECT_LE(largest_difference(o.select(1, t), x.v.select(1, 40)), 1e-6) << t;
}

TEST(FlashAttention, NanInVisibleKeysIsNotHidden) {
  const Case c{1, 70, 70, 1, 1, 16, 16, {}};
  Data x(c, DType::f32);
  x.k.select(1, 3).fill_(std::nan(""));
  const std::vector<double> o = flash_attention_forward(x.q, x.k, x.v).o.to_vector<double>();
  for (int64_t t = 0; t < 70; ++t) EXPECT_EQ(std::isnan(o[t * 16]), t >= 3) << t;
}

TEST(FlashAttention, StridedInputsGiveTheSameBits) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    for (const Case& c : {Case{2, 70, 90, 4, 2, 32, 16, {}}, Case{2, 33, 33, 4, 2, 12, 20, {}},
                          Case{2, 1, 200, 4, 2, 32, 16, {}}}) {
      const Data x(c, dtype);
      const Results dense(x, c.options);
      Data y = x;
      y.q = scattered(x.q);
      y.k = scattered(x.k);
      y.v = scattered(x.v);
      y.dout = scattered(x.dout);
      const Results strided(y, c.options);
      for (size_t i = 0; i < dense.all().size(); ++i)
        EXPECT_TRUE(same_bits(dense.all()[i], strided.all()[i])) << i << " " << to_string(dtype);
      // A last axis that is not dense.
      y.q = x.q.transpose(1, 3).contiguous().transpose(1, 3);
      EXPECT_TRUE(same_bits(dense.out.o, flash_attention_forward(y.q, x.k, x.v, c.options).o));
    }
  }
}

TEST(FlashAttention, PackedProjectionIsReadInPlace) {
  // q, k and v as slices of one [B, T, (H + 2 Hk) D] product.
  const Tensor packed = random_tensor({2, 80, 8 * 16}, DType::f32, 3).view({2, 80, 8, 16});
  const Tensor q = packed.slice(2, 0, 4), k = packed.slice(2, 4, 6), v = packed.slice(2, 6, 8);
  EXPECT_TRUE(same_bits(flash_attention_forward(q, k, v).o,
                        flash_attention_forward(q.contiguous(), k.contiguous(), v.contiguous()).o));
}

TEST(FlashAttention, ThreadCountDoesNotChangeBits) {
  const int threads = num_threads();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Case& c :
         {Case{1, 400, 400, 4, 2, 32, 32, {}}, Case{2, 190, 700, 2, 1, 64, 64, {.window = 300}},
          Case{1, 1, 5000, 4, 2, 32, 32, {}}}) {
      const Data x(c, dtype);
      set_num_threads(1);
      const Results one(x, c.options);
      for (const int count : {2, 3, 7}) {
        set_num_threads(count);
        const Results several(x, c.options);
        for (size_t i = 0; i < one.all().size(); ++i)
          EXPECT_TRUE(same_bits(one.all()[i], several.all()[i])) << i << ", threads " << count;
      }
      set_num_threads(threads);
    }
  }
}

TEST(FlashAttention, PrefixGivesTheSameRows) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t window : {0, 50}) {
      const Case c{1, 200, 200, 6, 2, 32, 32, {.window = window}};
      const Data x(c, dtype);
      const auto whole = flash_attention_forward(x.q, x.k, x.v, c.options);
      for (const int64_t t : {17, 63, 64, 65, 127, 130, 199}) {
        const auto part = flash_attention_forward(x.q.slice(1, 0, t), x.k.slice(1, 0, t),
                                                  x.v.slice(1, 0, t), c.options);
        EXPECT_TRUE(same_bits(part.o, whole.o.slice(1, 0, t))) << t;
        EXPECT_TRUE(same_bits(part.lse, whole.lse.slice(2, 0, t))) << t;
      }
    }
  }
}

TEST(FlashAttention, FutureDoesNotReachEarlierRows) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case c{1, 150, 150, 4, 2, 32, 32, {}};
    const Data x(c, dtype);
    const Results before(x, c.options);
    for (const int64_t t : {1, 15, 16, 63, 64, 100, 149}) {
      Data y = x;
      for (Tensor* tensor : {&y.q, &y.k, &y.v}) {
        *tensor = tensor->clone();
        tensor->slice(1, t, 150).fill_(2);
      }
      const Tensor after = flash_attention_forward(y.q, y.k, y.v).o;
      EXPECT_TRUE(same_bits(before.out.o.slice(1, 0, t), after.slice(1, 0, t))) << t;
      // A loss on rows below t alone has no gradient at keys from t on.
      Data z = x;
      z.dout = x.dout.clone();
      z.dout.slice(1, t, 150).zero_();
      const Results run(z, c.options);
      EXPECT_EQ(root_mean_square(run.grads.dk.slice(1, t, 150)), 0) << t;
      EXPECT_EQ(root_mean_square(run.grads.dv.slice(1, t, 150)), 0) << t;
    }
  }
}

TEST(FlashAttention, ContinuedQueriesEqualTheWholeSequence) {
  const Case c{2, 140, 140, 4, 2, 16, 16, {}};
  const Data x(c, DType::f64);
  for (const int64_t window : {0, 33}) {
    const FlashAttentionOptions options{.window = window};
    const Tensor whole = flash_attention_forward(x.q, x.k, x.v, options).o;
    for (const int64_t start : {1, 63, 64, 100, 139}) {
      for (const int64_t end : {start + 1, std::min<int64_t>(start + 20, 140), int64_t{140}}) {
        const Tensor part = flash_attention_forward(x.q.slice(1, start, end), x.k.slice(1, 0, end),
                                                    x.v.slice(1, 0, end), options)
                                .o;
        EXPECT_LE(largest_difference(part, whole.slice(1, start, end)), 1e-12)
            << start << ".." << end;
      }
    }
  }
}

/// Attention whose operands are rounded to bf16 at each step, as a framework without a fused
/// kernel computes it.
Tensor naive_bf16_attention(const Data& x, const Case& c) {
  const std::vector<float> q = x.q.to_vector<float>(), k = x.k.to_vector<float>(),
                           v = x.v.to_vector<float>();
  const int64_t group = c.heads / c.kv_heads;
  std::vector<float> o;
  for (int64_t t = 0; t < c.queries; ++t) {
    for (int64_t h = 0; h < c.heads; ++h) {
      std::vector<float> p(static_cast<size_t>(t) + 1);
      float largest = -std::numeric_limits<float>::infinity(), sum = 0;
      for (int64_t s = 0; s <= t; ++s) {
        float score = 0;
        for (int64_t d = 0; d < c.dim; ++d)
          score += q[(t * c.heads + h) * c.dim + d] * k[(s * c.kv_heads + h / group) * c.dim + d];
        p[s] = bf16(bf16(score) / std::sqrt(static_cast<float>(c.dim)));
        largest = std::max(largest, p[s]);
      }
      for (float& value : p) sum += value = std::exp(value - largest);
      for (int64_t e = 0; e < c.value_dim; ++e) {
        float total = 0;
        for (int64_t s = 0; s <= t; ++s)
          total += bf16(p[s] / sum) * v[(s * c.kv_heads + h / group) * c.value_dim + e];
        o.push_back(bf16(total));
      }
    }
  }
  return from_vector(o, {1, c.queries, c.heads, c.value_dim});
}

TEST(FlashAttention, Bf16ErrorIsThatOfRoundingTheOperands) {
  const Case c{1, 200, 200, 4, 2, 64, 64, {}};
  const Data x(c, DType::bf16);
  const Tensor expected = reference::attention_forward(x.q, x.k, x.v).o;
  const auto error = [&](const Tensor& o) {
    std::vector<double> a = o.to_vector<double>(), b = expected.to_vector<double>();
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return std::sqrt(sum / static_cast<double>(a.size())) / root_mean_square(expected);
  };
  const double fused = error(flash_attention_forward(x.q, x.k, x.v).o);
  EXPECT_LE(fused, 2 * error(naive_bf16_attention(x, c)));
  EXPECT_LE(fused, 5e-3);
}

TEST(FlashAttention, RefusesWhatDoesNotFit) {
  const Tensor q = zeros({2, 5, 4, 8}), k = zeros({2, 5, 2, 8}), v = zeros({2, 5, 2, 6});
  const auto shape_error = [](const Tensor& a, const Tensor& b, const Tensor& c) {
    return message_of<ShapeError>([&] { flash_attention_forward(a, b, c); });
  };
  EXPECT_EQ(shape_error(q.select(0, 0), k, v),
            "flash_attention: q must be [B, T, H, D], got [5, 4, 8] f32 cpu");
  EXPECT_NE(shape_error(Tensor(), k, v).find("undefined"), std::string::npos);
  EXPECT_NE(shape_error(q, k.select(0, 0), v).find("k must be"), std::string::npos);
  EXPECT_NE(shape_error(q, k, v.select(0, 0)).find("v must be"), std::string::npos);
  EXPECT_NE(shape_error(q, zeros({2, 5, 3, 8}), zeros({2, 5, 3, 6})).find("multiple of the 3"),
            std::string::npos);
  EXPECT_NE(shape_error(q, zeros({2, 5, 2, 7}), v).find("one head dim"), std::string::npos);
  EXPECT_NE(shape_error(q, k, zeros({2, 4, 2, 6})).find("same length"), std::string::npos);
  EXPECT_NE(shape_error(q, zeros({1, 5, 2, 8}), zeros({1, 5, 2, 6})).find("batch"),
            std::string::npos);
  EXPECT_NE(message_of<DTypeError>([&] {
              flash_attention_forward(q, k.to(DType::f64), v);
            }).find("one type"),
            std::string::npos);
  EXPECT_NE(message_of<DTypeError>([&] {
              flash_attention_forward(q.to(DType::i32), k.to(DType::i32), v.to(DType::i32));
            }).find("i32"),
            std::string::npos);
  EXPECT_EQ(message_of<ConfigError>([&] { flash_attention_forward(q, k, v, {.window = -1}); }),
            "flash_attention: window must be 0 (none) or above, got -1");
  for (const double scale : {0.0, -1.0, kInfinity, std::nan("")})
    message_of<ConfigError>([&] { flash_attention_forward(q, k, v, {.scale = scale}); });

  const auto out = flash_attention_forward(q, k, v);
  EXPECT_NE(message_of<ShapeError>([&] {
              flash_attention_backward(zeros({2, 5, 4, 8}), q, k, v, out.o, out.lse);
            }).find("dout must be [2, 5, 4, 6]"),
            std::string::npos);
  EXPECT_NE(message_of<DTypeError>([&] {
              flash_attention_backward(out.o, q, k, v, out.o, out.lse.to(DType::f64));
            }).find("lse must be f32"),
            std::string::npos);
}

}  // namespace
}  // namespace weft::attention

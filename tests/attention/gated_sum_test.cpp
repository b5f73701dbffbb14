#include "weft/attention/kernels/gated_sum.h"

#include <cmath>

#include "weft/attention/functions.h"
#include "weft/autograd/grad_check.h"
#include "weft/autograd/node.h"

#include "attention_test_data.h"

namespace weft::attention {
namespace {

using autograd::grad_check;
using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;
using testing::scattered;

struct Problem {
  std::vector<Tensor> branches;
  Tensor logits, bias, dy;

  Problem(const Shape& shape, int64_t count, DType dtype) {
    for (int64_t c = 0; c < count; ++c)
      branches.push_back(random_tensor(shape, dtype, 10 + static_cast<uint64_t>(c)));
    logits = random_tensor({shape[0], shape[1], shape[2], count}, dtype, 1);
    bias = random_tensor({shape[2], count}, dtype, 2);
    dy = random_tensor(shape, dtype, 3);
  }
};

/// The definition, element by element.
struct Reference {
  Tensor y;
  GatedSumGradients grads;
  Tensor dlogit_sizes;  // sums over rows of the magnitudes of dlogits, as dbias

  explicit Reference(const Problem& p, bool with_bias) {
    const Shape& shape = p.dy.shape();
    const int64_t heads = shape[2], dim = shape[3];
    const auto count = static_cast<int64_t>(p.branches.size());
    const auto logits = p.logits.to_vector<double>(), bias = p.bias.to_vector<double>(),
               dy = p.dy.to_vector<double>();
    std::vector<double> sum(dy.size()), dlogits(logits.size()), dbias(bias.size()),
        sizes(bias.size());
    for (int64_t c = 0; c < count; ++c) {
      const auto o = p.branches[c].to_vector<double>();
      std::vector<double> d_o(o.size());
      for (int64_t i = 0; i < p.dy.numel(); ++i) {
        const int64_t row = i / dim, h = row % heads;
        const double logit = logits[row * count + c] + (with_bias ? bias[h * count + c] : 0);
        const double gate = 1 / (1 + std::exp(-logit));
        sum[i] += gate * o[i];
        d_o[i] = gate * dy[i];
        dlogits[row * count + c] += gate * (1 - gate) * dy[i] * o[i];
        dbias[h * count + c] += gate * (1 - gate) * dy[i] * o[i];
      }
      grads.dbranches.push_back(from_vector(d_o, shape));
    }
    for (size_t i = 0; i < dlogits.size(); ++i) sizes[i % bias.size()] += std::abs(dlogits[i]);
    dlogit_sizes = from_vector(sizes, p.bias.shape());
    y = from_vector(sum, shape);
    grads.dlogits = from_vector(dlogits, p.logits.shape());
    grads.dbias = from_vector(dbias, p.bias.shape());
  }
};

/// Half the distance of neighbours of 1.
double unit_roundoff(DType dtype) {
  return dtype == DType::f64    ? 0x1p-53
         : dtype == DType::f32  ? 0x1p-24
         : dtype == DType::bf16 ? 0x1p-8
                                : 0x1p-11;
}

/// Each element off by at most `absolute`, and a share of `magnitudes`.
void expect_close(const Tensor& actual, const Tensor& expected, double share,
                  const Tensor& magnitudes, double absolute) {
  ASSERT_EQ(actual.shape(), expected.shape());
  const auto values = actual.to_vector<double>(), wanted = expected.to_vector<double>(),
             sizes = magnitudes.to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_LE(std::abs(values[i] - wanted[i]), share * std::abs(sizes[i]) + absolute) << i;
}

TEST(GatedSum, ComputesItsDefinitionInEveryType) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    // Sums are taken in f32 (f64), of at most 111 terms of a few units, and results rounded once; a
    // little more for what lies below the normal numbers of f16.
    const double rounding = unit_roundoff(dtype);
    const double sums = dtype == DType::f64 ? 1e-13 : 1e-5;
    for (const int64_t count : {1, 2, 3, 4}) {
      for (const int64_t dim : {1, 15, 16, 64, 111}) {
        for (const bool with_bias : {false, true}) {
          SCOPED_TRACE(::testing::Message() << to_string(dtype) << " " << count << " " << dim);
          const Problem p({2, 5, 3, dim}, count, dtype);
          const Reference expected(p, with_bias);
          const Tensor bias = with_bias ? p.bias : Tensor();
          const Tensor y = gated_sum_forward(p.branches, p.logits, bias);
          EXPECT_EQ(y.dtype(), dtype);
          expect_close(y, expected.y, rounding, expected.y, sums);
          const GatedSumGradients grads = gated_sum_backward(p.dy, p.branches, p.logits, bias);
          for (int64_t c = 0; c < count; ++c) {
            const Tensor& branch = expected.grads.dbranches[c];
            expect_close(grads.dbranches[c], branch, rounding, branch, sums);
          }
          const Tensor& dlogits = expected.grads.dlogits;
          expect_close(grads.dlogits, dlogits, rounding, dlogits, sums);
          EXPECT_EQ(grads.dbias.defined(), with_bias);
          if (!with_bias) continue;
          // A sum over ten rows of gradients that were rounded, rounded again.
          expect_close(grads.dbias, expected.grads.dbias, (2 + rounding) * rounding,
                       expected.dlogit_sizes, 10 * sums);
        }
      }
    }
  }
}

TEST(GatedSum, GradientOfAGateFollowsFromThatOfItsBranch) {
  // delta^c = <do^c, o^c> = g^c <do, o^c>, and the gate's logit gets (1 - g^c) of it.
  for (const int64_t count : {1, 2, 3}) {
    for (const auto& [tokens, heads, dim] : {std::tuple{1, 1, 1}, {17, 4, 6}, {31, 3, 40}}) {
      const Problem p({2, tokens, heads, dim}, count, DType::f64);
      const GatedSumGradients grads = gated_sum_backward(p.dy, p.branches, p.logits, p.bias);
      const std::vector<double> logits = p.logits.to_vector<double>(),
                                bias = p.bias.to_vector<double>(),
                                dlogits = grads.dlogits.to_vector<double>(),
                                dy = p.dy.to_vector<double>();
      for (int64_t c = 0; c < count; ++c) {
        const std::vector<double> o = p.branches[c].to_vector<double>(),
                                  d_o = grads.dbranches[c].to_vector<double>();
        for (int64_t row = 0; row < 2 * tokens * heads; ++row) {
          const double gate =
              1 / (1 + std::exp(-logits[row * count + c] - bias[row % heads * count + c]));
          double delta = 0, whole = 0;
          for (int64_t e = row * dim; e < (row + 1) * dim; ++e) {
            delta += d_o[e] * o[e];
            whole += dy[e] * o[e];
          }
          EXPECT_NEAR(delta, gate * whole, 1e-12);
          EXPECT_NEAR(dlogits[row * count + c], (1 - gate) * delta, 1e-12);
        }
      }
    }
  }
}

TEST(GatedSum, ReadsAnyLayout) {
  const Problem p({2, 7, 3, 20}, 3, DType::f32);
  std::vector<Tensor> strided;
  for (const Tensor& branch : p.branches) strided.push_back(scattered(branch));
  EXPECT_TRUE(same_bits(gated_sum_forward(strided, scattered(p.logits), p.bias),
                        gated_sum_forward(p.branches, p.logits, p.bias)));
  const GatedSumGradients a = gated_sum_backward(p.dy, p.branches, p.logits, p.bias);
  const GatedSumGradients b =
      gated_sum_backward(scattered(p.dy), strided, scattered(p.logits), p.bias);
  EXPECT_TRUE(same_bits(a.dlogits, b.dlogits));
  EXPECT_TRUE(same_bits(a.dbias, b.dbias));
  for (size_t c = 0; c < 3; ++c) EXPECT_TRUE(same_bits(a.dbranches[c], b.dbranches[c]));
}

TEST(GatedSum, GradientsAgreeWithFiniteDifferences) {
  const Problem p({2, 3, 2, 5}, 3, DType::f64);
  std::vector<Variable> inputs;
  for (const Tensor& branch : p.branches) inputs.emplace_back(branch, true);
  inputs.emplace_back(p.logits, true);
  inputs.emplace_back(p.bias, true);
  const auto result = grad_check(
      [](const std::vector<Variable>& in) {
        return gated_sum({in[0], in[1], in[2]}, in[3], in[4]);
      },
      inputs);
  EXPECT_TRUE(result) << result.message;
}

TEST(GatedSum, MastersKeepTheirType) {
  const Problem p({1, 4, 2, 8}, 2, DType::bf16);
  const Variable bias(p.bias.to(DType::f32), true);
  const Variable y =
      gated_sum({Variable(p.branches[0]), Variable(p.branches[1])}, Variable(p.logits), bias);
  y.backward(p.dy);
  EXPECT_EQ(bias.grad().dtype(), DType::f32);
  EXPECT_LE(largest_difference(bias.grad(), Reference(p, true).grads.dbias), 0.05);
}

TEST(GatedSum, ExtremeLogitsAreOpenAndShutGates) {
  const Tensor one = ones({1, 1, 1, 4});
  const Tensor logits = from_vector(std::vector<float>{1e4F, -1e4F}, {1, 1, 1, 2});
  EXPECT_TRUE(same_bits(gated_sum_forward({one, one}, logits), one));
  const GatedSumGradients grads = gated_sum_backward(one, {one, one}, logits);
  EXPECT_TRUE(same_bits(grads.dlogits, zeros({1, 1, 1, 2})));
  EXPECT_TRUE(same_bits(grads.dbranches[0], one));
  EXPECT_TRUE(same_bits(grads.dbranches[1], zeros({1, 1, 1, 4})));
}

TEST(GatedSum, RefusesWhatDoesNotFit) {
  const Tensor x = zeros({1, 2, 3, 4});
  EXPECT_EQ(message_of<ShapeError>([&] {
              gated_sum_forward({}, zeros({1, 2, 3, 0}));
            }),
            "gated_sum: takes 1 to 4 branches, got 0");
  EXPECT_EQ(message_of<ShapeError>([&] {
              gated_sum_forward({x, x}, zeros({1, 2, 3, 3}));
            }),
            "gated_sum: logits must be [1, 2, 3, 2], got [1, 2, 3, 3] f32 cpu");
  EXPECT_EQ(message_of<ShapeError>([&] {
              gated_sum_forward({x, zeros({1, 2, 3, 5})}, zeros({1, 2, 3, 2}));
            }),
            "gated_sum: every branch must be [1, 2, 3, 4], got [1, 2, 3, 5] f32 cpu");
  message_of<ShapeError>([&] { gated_sum_forward({zeros({2, 3})}, zeros({2, 1})); });
  message_of<ShapeError>([&] { gated_sum_forward({x}, zeros({1, 2, 3, 1}), zeros({1, 3})); });
  message_of<DTypeError>([&] { gated_sum_forward({x}, zeros({1, 2, 3, 1}, DType::bf16)); });
  message_of<DTypeError>([&] {
    gated_sum_forward({x}, zeros({1, 2, 3, 1}), zeros({3, 1}, DType::f64));
  });
  message_of<ShapeError>([&] {
    gated_sum_backward(zeros({1, 2, 3, 5}), {x}, zeros({1, 2, 3, 1}));
  });
}

TEST(SplitHeads, EqualsSlicesWithTheirGradient) {
  const std::vector<HeadsPart> parts = {
      {.heads = 2, .dim = 4, .rotate = true}, {.heads = 3, .dim = 2}, {.heads = 1, .dim = 6}};
  const Tensor packed = random_tensor({2, 5, 20}, DType::f64, 1);
  const RopeOptions rope_options{.theta = 100, .offset = 3};
  const std::vector<Variable> split = split_heads(Variable(packed.clone()), parts, rope_options);
  EXPECT_TRUE(
      same_bits(split[0].data(), rope(packed.slice(2, 0, 8).view({2, 5, 2, 4}), rope_options)));
  EXPECT_TRUE(same_bits(split[1].data(), packed.slice(2, 8, 14).view({2, 5, 3, 2})));
  EXPECT_TRUE(same_bits(split[2].data(), packed.slice(2, 14, 20).view({2, 5, 1, 6})));

  const Variable x(packed.clone(), true);
  const std::vector<Variable> used = split_heads(x, parts, rope_options);
  const Tensor dq = random_tensor({2, 5, 2, 4}, DType::f64, 2);
  const Tensor dv = random_tensor({2, 5, 1, 6}, DType::f64, 3);
  autograd::backward({used[0], used[2]}, {dq, dv});
  EXPECT_TRUE(same_bits(x.grad().slice(2, 0, 8), rope_backward(dq, rope_options).view({2, 5, 8})));
  EXPECT_TRUE(same_bits(x.grad().slice(2, 8, 14), zeros({2, 5, 6}, DType::f64)));
  EXPECT_TRUE(same_bits(x.grad().slice(2, 14, 20), dv.view({2, 5, 6})));
  EXPECT_EQ(message_of<ShapeError>([&] {
              split_heads(Variable(zeros({2, 5, 19})), parts);
            }),
            "split_heads: packed must be [B, T, 20], got [2, 5, 19] f32 cpu");
}

}  // namespace
}  // namespace weft::attention

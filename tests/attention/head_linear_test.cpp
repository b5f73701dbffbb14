#include "weft/attention/head_linear.h"

#include <gmock/gmock.h>

#include "weft/autograd/grad_check.h"

#include "attention_test_data.h"

namespace weft::attention {
namespace {

using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::scattered;

/// The definition, element by element.
Tensor by_loops(const Tensor& x, const Tensor& weight, const HeadRows& rows, bool transposed) {
  const int64_t tokens = x.size(0) * x.size(1), in = x.size(3), columns = weight.size(1);
  const int64_t per_head = weight.size(0) / rows.heads, count = rows.last - rows.first;
  const int64_t out = transposed ? columns : count;
  const std::vector<double> a = x.to_vector<double>(), w = weight.to_vector<double>();
  std::vector<double> y(static_cast<size_t>(tokens * rows.heads * out));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t n = 0; n < rows.heads; ++n) {
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t i = 0; i < in; ++i) {
          const int64_t row = n * per_head + rows.first + (transposed ? i : o);
          y[(t * rows.heads + n) * out + o] +=
              a[(t * rows.heads + n) * in + i] * w[row * columns + (transposed ? o : i)];
        }
      }
    }
  }
  return from_vector(y, {x.size(0), x.size(1), rows.heads, out});
}

TEST(HeadLinear, MultipliesEveryHeadWithItsRows) {
  const HeadRows rows{3, 2, 6};  // of 7
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const double tolerance = dtype == DType::f64 ? 1e-13 : dtype == DType::f32 ? 1e-5 : 5e-2;
    for (const int64_t batch : {1, 2}) {
      for (const int64_t tokens : {1, 5, 17}) {
        for (const bool transposed : {false, true}) {
          const Tensor weight = random_tensor({21, 5}, dtype, 1);
          const Tensor x = random_tensor({batch, tokens, 3, transposed ? 4 : 5}, dtype, 2);
          const Tensor expected = by_loops(x, weight, rows, transposed);
          for (const Tensor& view : {x, scattered(x)}) {
            const Variable y = head_linear(Variable(view), Variable(weight), rows, transposed);
            EXPECT_EQ(y.dtype(), dtype);
            EXPECT_LE(largest_difference(y.data(), expected), tolerance)
                << to_string(dtype) << " " << batch << " " << tokens << " " << transposed;
          }
        }
      }
    }
  }
}

TEST(HeadLinear, HasTheRightGradients) {
  for (const bool transposed : {false, true}) {
    const auto result = autograd::grad_check(
        [&](const std::vector<Variable>& in) {
          return head_linear(in[0], in[1], {3, 1, 4}, transposed);
        },
        {Variable(random_tensor({2, 4, 3, transposed ? 3 : 5}, DType::f64, 1), true),
         Variable(random_tensor({15, 5}, DType::f64, 2), true)});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(HeadLinear, GivesMastersGradientsOfTheirType) {
  const Variable x(random_tensor({2, 9, 3, 5}, DType::bf16, 1), true);
  const Variable weight(random_tensor({15, 5}, DType::f32, 2), true);
  const Tensor dy = random_tensor({2, 9, 3, 2}, DType::bf16, 3);
  head_linear(x, weight, {3, 1, 3}).backward(dy);
  EXPECT_EQ(x.grad().dtype(), DType::bf16);
  ASSERT_EQ(weight.grad().dtype(), DType::f32);
  // Products of bf16 are exact in f32, and their sums are kept there; other rows get nothing.
  const std::vector<double> a = x.data().to_vector<double>(), g = dy.to_vector<double>(),
                            found = weight.grad().to_vector<double>();
  for (int64_t row = 0; row < 15; ++row) {
    for (int64_t column = 0; column < 5; ++column) {
      double expected = 0;
      const int64_t head = row / 5, out = row % 5 - 1;
      for (int64_t t = 0; t < 18 && out >= 0 && out < 2; ++t)
        expected += g[(t * 3 + head) * 2 + out] * a[(t * 3 + head) * 5 + column];
      EXPECT_NEAR(found[row * 5 + column], expected, 1e-4) << row << " " << column;
    }
  }
}

TEST(HeadLinear, RefusesWhatDoesNotFit) {
  const auto message = [](const Shape& x, const Shape& weight, const HeadRows& rows) {
    return message_of<ShapeError>(
        [&] { head_linear(Variable(zeros(x)), Variable(zeros(weight)), rows); });
  };
  EXPECT_EQ(message({2, 3, 3, 4}, {15, 5}, {3, 0, 5}),
            "head_linear: x must be [B, T, 3, 5], got [2, 3, 3, 4] f32 cpu");
  EXPECT_EQ(message({2, 3, 3, 5}, {15, 5}, {3, 2, 6}),
            "head_linear: rows 2 to 6 of each of 3 heads are not in weight [15, 5] f32 cpu");
  message({2, 3, 3, 5}, {16, 5}, {3, 0, 5});
  message({2, 3, 3, 5}, {15, 5}, {3, 2, 2});
  message({2, 3, 3, 5}, {15, 5}, {3, -1, 2});
  message({2, 3, 3, 5}, {15, 5}, {0, 0, 5});
  message({2, 9, 5}, {15, 5}, {3, 0, 5});
  message_of<DTypeError>([] {
    head_linear(Variable(zeros({1, 1, 3, 5})), Variable(zeros({15, 5}, DType::bf16)), {3, 0, 5});
  });
}

}  // namespace
}  // namespace weft::attention

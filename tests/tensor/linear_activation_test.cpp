#include "weft/tensor/ops/linear_activation.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/ops/linear.h"

#include "message_of.h"
#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;
using test::rounding_error;

struct Form {
  HiddenActivation activation;
  double (*value)(double);
  double (*slope)(double);
};

double normal_distribution(double x) {
  return std::erfc(-x / std::numbers::sqrt2) / 2;
}

double tanh_argument(double x) {
  return std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
}

const Form kForms[] = {
    {HiddenActivation::gelu, [](double x) { return x * normal_distribution(x); },
     [](double x) {
       return normal_distribution(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
     }},
    {HiddenActivation::gelu_tanh,
     [](double x) { return x / 2 * (1 + std::tanh(tanh_argument(x))); },
     [](double x) {
       const double t = std::tanh(tanh_argument(x));
       const double inner = std::sqrt(2 / std::numbers::pi) * (1 + 3 * 0.044715 * x * x);
       return (1 + t) / 2 + x / 2 * (1 - t * t) * inner;
     }},
    {HiddenActivation::relu, [](double x) { return x > 0 ? x : 0; },
     [](double x) { return x > 0 ? 1.0 : 0.0; }},
};

/// Plain loops over x [M, K], up [N, K], bias [N] (may be empty), dy [M, E] and down [E, N].
struct Reference {
  std::vector<double> y, dsums, dbias;
  double largest = 0;  // of dy down

  Reference(const Form& form, const Tensor& x, const Tensor& up, const Tensor& bias,
            const Tensor& dy, const Tensor& down) {
    const auto M = static_cast<size_t>(x.size(0)), K = static_cast<size_t>(x.size(1));
    const auto N = static_cast<size_t>(up.size(0)), E = static_cast<size_t>(down.size(0));
    const auto xs = x.to_vector<double>(), ups = up.to_vector<double>();
    const auto bs = bias.defined() ? bias.to_vector<double>() : std::vector<double>(N);
    const auto gs = dy.to_vector<double>(), downs = down.to_vector<double>();
    dbias.resize(N);
    for (size_t m = 0; m < M; ++m) {
      for (size_t n = 0; n < N; ++n) {
        double sum = bs[n], gradient = 0;
        for (size_t k = 0; k < K; ++k) sum += xs[m * K + k] * ups[n * K + k];
        for (size_t e = 0; e < E; ++e) gradient += gs[m * E + e] * downs[e * N + n];
        largest = std::max(largest, std::fabs(gradient));
        y.push_back(form.value(sum));
        dsums.push_back(gradient * form.slope(sum));
        dbias[n] += dsums.back();
      }
    }
  }
};

class LinearActivation : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, LinearActivation,
                         testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(LinearActivation, MatchesLoopsForwardAndBackward) {
  struct Sizes {
    int64_t M, N, K, E;
  };
  const DType dtype = GetParam();
  const double unit = rounding_error(dtype);
  for (const auto [M, N, K, E] : {Sizes{1, 1, 1, 1}, Sizes{1, 40, 9, 5}, Sizes{7, 31, 15, 63},
                                  Sizes{33, 64, 48, 16}, Sizes{2, 129, 3, 1}}) {
    for (const Form& form : kForms) {
      for (const bool has_bias : {true, false}) {
        SCOPED_TRACE(testing::Message() << to_string(form.activation) << " " << M << " " << N << " "
                                        << K << " " << E << " bias " << has_bias);
        const Tensor x = random_tensor({M, K}, dtype, 1), up = random_tensor({N, K}, dtype, 2);
        const Tensor bias = has_bias ? random_tensor({N}, dtype, 3) : Tensor();
        const Tensor dy = random_tensor({M, E}, dtype, 4), down = random_tensor({E, N}, dtype, 5);
        const Reference expected(form, x, up, bias, dy, down);
        const HiddenFeatures hidden = linear_activation(x, up, bias, form.activation, true);
        // What is activated was rounded, which the slope carries on: |x f'(x)| is at most |y| + 1.
        const double sums = dtype == DType::f64 ? 1e-13 : 1e-5;  // in f32 (f64)
        expect_near(hidden.y, expected.y, 2 * unit, unit + sums, "y");
        EXPECT_EQ(hidden.saved.defined(), form.activation != HiddenActivation::relu);
        const Tensor without = linear_activation(x, up, bias, form.activation, false).y;
        EXPECT_EQ(without.to_vector<double>(), hidden.y.to_vector<double>());
        const HiddenGrads grads =
            linear_activation_backward(dy, down, hidden, form.activation, /*want_dbias=*/true);
        // The same for the slope: |x f''(x)| is at most 1.
        const double absolute = expected.largest * (unit + 2 * sums) + sums;
        expect_near(grads.dsums, expected.dsums, 3 * unit, absolute, "dsums");
        expect_near(grads.dbias, expected.dbias, 3 * unit,
                    static_cast<double>(M) * (absolute + 4 * unit * expected.largest), "dbias");
        EXPECT_FALSE(
            linear_activation_backward(dy, down, hidden, form.activation, false).dbias.defined());
      }
    }
  }
}

TEST_P(LinearActivation, IsTheLayerThenTheActivation) {
  const DType dtype = GetParam();
  const Tensor x = random_tensor({2, 3, 7}, dtype, 1), up = random_tensor({8, 7}, dtype, 2);
  const Tensor bias = random_tensor({8}, dtype, 3);
  for (const Form& form : kForms) {
    SCOPED_TRACE(to_string(form.activation));
    const HiddenFeatures hidden = linear_activation(x, up, bias, form.activation, true);
    EXPECT_EQ(hidden.y.shape(), (Shape{2, 3, 8}));
    EXPECT_EQ(hidden.y.dtype(), dtype);
    if (hidden.saved.defined()) {
      EXPECT_EQ(hidden.saved.to_vector<double>(), linear(x, up, bias).to_vector<double>());
    }
    const Tensor swapped = x.transpose(0, 1);
    EXPECT_EQ(linear_activation(swapped, up, bias, form.activation, false).y.to_vector<double>(),
              linear_activation(swapped.contiguous(), up, bias, form.activation, false)
                  .y.to_vector<double>());
  }
}

TEST_P(LinearActivation, EmptySizes) {
  const DType dtype = GetParam();
  for (const Form& form : kForms) {
    SCOPED_TRACE(to_string(form.activation));
    const Tensor down = random_tensor({3, 5}, dtype, 1);
    const HiddenFeatures none =
        linear_activation(empty({0, 7}, dtype), empty({5, 7}, dtype), {}, form.activation, true);
    EXPECT_EQ(none.y.shape(), (Shape{0, 5}));
    const HiddenGrads grads =
        linear_activation_backward(empty({0, 3}, dtype), down, none, form.activation, true);
    EXPECT_EQ(grads.dsums.shape(), (Shape{0, 5}));
    EXPECT_EQ(grads.dbias.to_vector<double>(), std::vector<double>(5, 0.0));
    // Without inputs the bias alone is left.
    const Tensor bias = random_tensor({5}, dtype, 2);
    const HiddenFeatures constant =
        linear_activation(empty({2, 0}, dtype), empty({5, 0}, dtype), bias, form.activation, true);
    for (int64_t row : {0, 1}) {
      const auto values = constant.y.select(0, row).to_vector<double>();
      for (size_t i = 0; i < 5; ++i)
        EXPECT_NEAR(values[i], form.value(bias.to_vector<double>()[i]), 4 * rounding_error(dtype));
    }
  }
}

TEST(LinearActivationMixed, ReadsMastersInTheTypeOfTheInput) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Tensor x = random_tensor({9, 16}, dtype, 1), up = random_tensor({24, 16}, DType::f32, 2);
    const Tensor bias = random_tensor({24}, dtype, 3).to(DType::f32);
    const Tensor down = random_tensor({10, 24}, DType::f32, 4),
                 dy = random_tensor({9, 10}, dtype, 5);
    for (const Form& form : kForms) {
      const HiddenFeatures masters = linear_activation(x, up, bias, form.activation, true);
      const HiddenFeatures copies =
          linear_activation(x, up.to(dtype), bias.to(dtype), form.activation, true);
      EXPECT_EQ(masters.y.to_vector<float>(), copies.y.to_vector<float>());
      EXPECT_EQ(linear_activation_backward(dy, down, masters, form.activation, true)
                    .dsums.to_vector<float>(),
                linear_activation_backward(dy, down.to(dtype), copies, form.activation, true)
                    .dsums.to_vector<float>());
    }
  }
}

TEST(LinearActivationErrors, SayWhatIsWrong) {
  const Tensor x = ones({4, 3}), up = ones({5, 3}), down = ones({2, 5}), dy = ones({4, 2});
  const auto gelu = HiddenActivation::gelu_tanh;
  EXPECT_THROW(linear_activation(x, ones({5, 4}), {}, gelu, true), ShapeError);
  EXPECT_THROW(linear_activation(x, up, ones({4}), gelu, true), ShapeError);
  EXPECT_THROW(linear_activation(x, up.to(DType::f64), {}, gelu, true), DTypeError);
  EXPECT_THROW(linear_activation(x.to(DType::i32), up, {}, gelu, true), DTypeError);
  const HiddenFeatures hidden = linear_activation(x, up, {}, gelu, true);
  EXPECT_THROW(linear_activation_backward(ones({4, 3}), down, hidden, gelu, true), ShapeError);
  EXPECT_THROW(linear_activation_backward(ones({3, 2}), down, hidden, gelu, true), ShapeError);
  EXPECT_THROW(linear_activation_backward(dy, ones({2, 6}), hidden, gelu, true), ShapeError);
  EXPECT_THROW(linear_activation_backward(dy.to(DType::bf16), down, hidden, gelu, true),
               DTypeError);
  const HiddenFeatures not_kept = linear_activation(x, up, {}, gelu, false);
  EXPECT_EQ(test::message_of<ShapeError>(
                [&] { linear_activation_backward(dy, down, not_kept, gelu, true); }),
            "linear_activation_backward: hidden.saved is undefined; linear_activation() makes it "
            "with for_backward");
  const HiddenFeatures no_mask{hidden.y, hidden.saved};
  EXPECT_THROW(linear_activation_backward(dy, down, no_mask, HiddenActivation::relu, true),
               ShapeError);
}

}  // namespace
}  // namespace weft

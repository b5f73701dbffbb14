#include "weft/tensor/ops/activation.h"

#include <cmath>
#include <limits>
#include <numbers>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

struct Function {
  const char* name;
  Tensor (*forward)(const Tensor&);
  Tensor (*backward)(const Tensor&, const Tensor&);
  double (*value)(double);
};

const Function kFunctions[] = {
    {"silu", silu, silu_backward, [](double x) { return x * sigmoid(x); }},
    {"gelu", [](const Tensor& x) { return gelu(x); },
     [](const Tensor& dy, const Tensor& x) { return gelu_backward(dy, x); },
     [](double x) { return x / 2 * std::erfc(-x / std::numbers::sqrt2); }},
    {"gelu_tanh", [](const Tensor& x) { return gelu(x, Gelu::tanh); },
     [](const Tensor& dy, const Tensor& x) { return gelu_backward(dy, x, Gelu::tanh); },
     [](double x) {
       return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
     }}};

/// Central difference of fourth order: errs by about 1e-12 here.
double slope(double (*f)(double), double x) {
  constexpr double h = 1e-3;
  return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h);
}

template <class F>
std::vector<double> mapped(const Tensor& x, F f) {
  std::vector<double> values = x.to_vector<double>();
  for (double& value : values) value = f(value);
  return values;
}

std::vector<double> product(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] *= b[i];
  return a;
}

class Activation : public testing::TestWithParam<DType> {
 protected:
  DType dtype() const { return GetParam(); }
  /// One rounding of the result beside the error of computing it.
  double relative() const {
    const double computing = dtype() == DType::bf16 ? 0x1p-12 : 1e-6;
    return dtype() == DType::f64 ? 1e-13 : test::rounding_error(dtype()) + computing;
  }
  double absolute() const {
    return dtype() == DType::f64 ? 1e-10 : 1e-6 + test::underflow_error(dtype());
  }
};

TEST_P(Activation, MatchesItsDefinitionAndSlope) {
  for (const Function& function : kFunctions) {
    for (const Shape& shape : {Shape{}, Shape{1}, Shape{15}, Shape{3, 63}, Shape{5, 111},
                               Shape{2, 3, 64}, Shape{40000}}) {
      SCOPED_TRACE(std::string(function.name) + to_string(shape));
      const Tensor x = random_tensor(shape, dtype(), 1, -12, 12);
      const Tensor dy = random_tensor(shape, dtype(), 2);
      const Tensor y = function.forward(x);
      EXPECT_EQ(y.dtype(), dtype());
      EXPECT_EQ(y.shape(), shape);
      expect_near(y, mapped(x, function.value), relative(), absolute(), "y");
      const auto slopes = mapped(x, [&](double v) { return slope(function.value, v); });
      expect_near(function.backward(dy, x), product(slopes, dy.to_vector<double>()), 2 * relative(),
                  3 * absolute(), "dx");
    }
  }
}

TEST_P(Activation, SwigluMatchesItsDefinition) {
  for (const Shape& shape : {Shape{1}, Shape{3, 63}, Shape{2, 5, 64}, Shape{90, 512}}) {
    SCOPED_TRACE(to_string(shape));
    const Tensor gate = random_tensor(shape, dtype(), 1, -12, 12);
    const Tensor up = random_tensor(shape, dtype(), 2);
    const Tensor dy = random_tensor(shape, dtype(), 3);
    const auto silu_of = kFunctions[0].value;
    const std::vector<double> gates = mapped(gate, silu_of);
    expect_near(swiglu(gate, up), product(gates, up.to_vector<double>()), relative(), absolute());
    const SwigluGrads grads = swiglu_backward(dy, gate, up);
    const std::vector<double> d = dy.to_vector<double>();
    const auto slopes = mapped(gate, [&](double v) { return slope(silu_of, v); });
    expect_near(grads.dup, product(gates, d), relative(), 2 * absolute(), "dup");
    expect_near(grads.dgate, product(product(slopes, up.to_vector<double>()), d), 2 * relative(),
                4 * absolute(), "dgate");
  }
}

TEST_P(Activation, PackedFormsEqualTheSplitOnes) {
  const Tensor packed = random_tensor({7, 5, 2 * 37}, dtype(), 1, -6, 6);
  const Tensor gate = packed.slice(-1, 0, 37);
  const Tensor up = packed.slice(-1, 37, 74);
  const Tensor dy = random_tensor({7, 5, 37}, dtype(), 2);
  EXPECT_EQ(swiglu_packed(packed).to_vector<double>(),
            swiglu(gate.contiguous(), up.contiguous()).to_vector<double>());
  const Tensor dpacked = swiglu_packed_backward(dy, packed);
  EXPECT_TRUE(dpacked.is_contiguous());
  const SwigluGrads grads = swiglu_backward(dy, gate.contiguous(), up.contiguous());
  EXPECT_EQ(dpacked.slice(-1, 0, 37).to_vector<double>(), grads.dgate.to_vector<double>());
  EXPECT_EQ(dpacked.slice(-1, 37, 74).to_vector<double>(), grads.dup.to_vector<double>());
  // With the value in place of dy.
  Tensor replaced = dy.clone();
  const uint64_t version = replaced.version();
  EXPECT_EQ(swiglu_packed_backward_(replaced, packed).to_vector<double>(),
            dpacked.to_vector<double>());
  EXPECT_EQ(replaced.to_vector<double>(), swiglu_packed(packed).to_vector<double>());
  EXPECT_GT(replaced.version(), version);
}

TEST_P(Activation, LayoutsGiveTheSameValues) {
  for (const Shape& shape : {Shape{6, 5, 37}, Shape{9, 1}}) {
    const Tensor x = random_tensor(shape, dtype(), 1);
    const Tensor up = random_tensor(shape, dtype(), 2);
    const Tensor dy = random_tensor(shape, dtype(), 3);
    const SwigluGrads grads = swiglu_backward(dy, x, up);
    for (const auto& layout : {test::with_gaps, test::scattered}) {
      EXPECT_EQ(silu(layout(x)).to_vector<double>(), silu(x).to_vector<double>());
      EXPECT_EQ(gelu_backward(layout(dy), layout(x)).to_vector<double>(),
                gelu_backward(dy, x).to_vector<double>());
      EXPECT_EQ(swiglu(layout(x), layout(up)).to_vector<double>(),
                swiglu(x, up).to_vector<double>());
      Tensor dgate = layout(zeros(shape, dtype()));
      Tensor dup = layout(zeros(shape, dtype()));
      const uint64_t version = dup.version();
      swiglu_backward_into(dgate, dup, layout(dy), layout(x), layout(up));
      EXPECT_EQ(dgate.to_vector<double>(), grads.dgate.to_vector<double>());
      EXPECT_EQ(dup.to_vector<double>(), grads.dup.to_vector<double>());
      EXPECT_GT(dup.version(), version);
    }
  }
  const Tensor row = random_tensor({1, 20}, dtype(), 4);
  EXPECT_EQ(silu(row.expand({3, 20})).select(0, 2).to_vector<double>(),
            silu(row).to_vector<double>());
}

INSTANTIATE_TEST_SUITE_P(Types, Activation,
                         testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(ActivationEdges, ExtremesStayFiniteAndNanStays) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const Tensor x = from_vector<float>({-kLargest, -1000, -104, -88, 88, 1000, kLargest}, {7});
  for (const Function& function : kFunctions) {
    const std::vector<float> y = function.forward(x).to_vector<float>();
    const std::vector<float> dx = function.backward(ones({7}), x).to_vector<float>();
    for (size_t i = 0; i < 7; ++i) {
      const bool positive = i >= 4;
      EXPECT_NEAR(y[i], positive ? x.to_vector<float>()[i] : 0.0f, 1e-30f) << function.name;
      if (std::abs(x.to_vector<float>()[i]) < kLargest) {
        EXPECT_NEAR(dx[i], positive ? 1.0f : 0.0f, 1e-6f) << function.name << " " << i;
      }
    }
    EXPECT_TRUE(std::isnan(function.forward(full({1}, std::nan(""))).item<float>()));
    EXPECT_TRUE(std::isnan(function.backward(ones({1}), full({1}, std::nan(""))).item<float>()));
  }
}

TEST(ActivationEdges, Empty) {
  EXPECT_EQ(silu(empty({0, 3})).shape(), (Shape{0, 3}));
  EXPECT_EQ(swiglu_packed(empty({4, 0})).shape(), (Shape{4, 0}));
  EXPECT_EQ(swiglu_packed_backward(empty({0, 3}), empty({0, 6})).shape(), (Shape{0, 6}));
}

TEST(ActivationErrors, NameTheArgument) {
  const Tensor x = zeros({2, 4});
  EXPECT_THROW(silu(zeros({2}, DType::i64)), DTypeError);
  EXPECT_THROW(silu(Tensor()), ShapeError);
  EXPECT_THROW(silu_backward(zeros({4, 2}), x), ShapeError);
  EXPECT_THROW(gelu_backward(x.to(DType::bf16), x), DTypeError);
  EXPECT_THROW(swiglu(x, zeros({2, 3})), ShapeError);
  EXPECT_THROW(swiglu_packed(zeros({2, 5})), ShapeError);
  EXPECT_THROW(swiglu_packed(scalar(1)), ShapeError);
  EXPECT_THROW(swiglu_packed_backward(zeros({2, 4}), zeros({2, 4})), ShapeError);
  Tensor repeated = zeros({1, 4}).expand({2, 4});
  Tensor dup = zeros({2, 4});
  EXPECT_THROW(swiglu_backward_into(repeated, dup, x, x, x), ShapeError);
}

}  // namespace
}  // namespace weft

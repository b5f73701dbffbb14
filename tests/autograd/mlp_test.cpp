#include "weft/autograd/functions/mlp.h"

#include <gtest/gtest.h>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/unary.h"
#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

constexpr HiddenActivation kActivations[] = {HiddenActivation::gelu, HiddenActivation::gelu_tanh,
                                             HiddenActivation::relu};

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

MlpParameters parameters_of(int64_t features, int64_t hidden, DType dtype, bool has_biases = true) {
  return {leaf({hidden, features}, 2, dtype), has_biases ? leaf({hidden}, 3, dtype) : Variable(),
          leaf({features, hidden}, 4, dtype), has_biases ? leaf({features}, 5, dtype) : Variable()};
}

Variable layer_by_layer(const Variable& x, const MlpParameters& p, HiddenActivation activation) {
  const Variable sums = linear(x, p.up, p.up_bias);
  const Variable hidden = activation == HiddenActivation::relu        ? relu(sums)
                          : activation == HiddenActivation::gelu_tanh ? gelu(sums, Gelu::tanh)
                                                                      : gelu(sums);
  return linear(hidden, p.down, p.down_bias);
}

TEST(MlpGrad, AgreesWithDifferences) {
  for (const HiddenActivation activation : kActivations) {
    for (const Shape& x : {Shape{4}, Shape{3, 4}, Shape{2, 1, 4}, Shape{0, 4}}) {
      const MlpParameters p = parameters_of(4, 5, DType::f64);
      const auto with_biases = grad_check(
          [&](const std::vector<Variable>& in) {
            return mlp(in[0], {in[1], in[2], in[3], in[4]}, activation);
          },
          {leaf(x, 1), p.up, p.up_bias, p.down, p.down_bias});
      EXPECT_TRUE(with_biases) << weft::to_string(activation) << to_string(x) << ": "
                               << with_biases.message;
      const auto without = grad_check(
          [&](const std::vector<Variable>& in) {
            return mlp(in[0], {in[1], {}, in[2], {}}, activation);
          },
          {leaf(x, 1), p.up, p.down});
      EXPECT_TRUE(without) << weft::to_string(activation) << to_string(x) << ": "
                           << without.message;
    }
  }
}

TEST(MlpGrad, IsThatOfTheLayersOneByOne) {
  for (const HiddenActivation activation : kActivations) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      for (const DType of_parameters : {dtype, dtype == DType::f64 ? DType::f64 : DType::f32}) {
        for (const bool has_biases : {true, false}) {
          SCOPED_TRACE(testing::Message() << weft::to_string(activation) << to_string(dtype)
                                          << to_string(of_parameters) << has_biases);
          const MlpParameters a = parameters_of(6, 9, of_parameters, has_biases);
          const MlpParameters b = parameters_of(6, 9, of_parameters, has_biases);
          const Variable x = leaf({2, 5, 6}, 1, dtype), same_x = leaf({2, 5, 6}, 1, dtype);
          const Tensor dy = random_tensor({2, 5, 6}, dtype, 7);
          const Variable y = mlp(x, a, activation);
          const Variable expected = layer_by_layer(same_x, b, activation);
          EXPECT_EQ(y.data().to_vector<double>(), expected.data().to_vector<double>());
          y.backward(dy);
          expected.backward(dy);
          const auto expect_same = [](const Variable& actual, const Variable& wanted) {
            if (!wanted.defined()) return;
            EXPECT_EQ(actual.grad().dtype(), wanted.dtype());
            EXPECT_EQ(actual.grad().to_vector<double>(), wanted.grad().to_vector<double>());
          };
          expect_same(x, same_x);
          expect_same(a.up, b.up);
          expect_same(a.up_bias, b.up_bias);
          expect_same(a.down, b.down);
          expect_same(a.down_bias, b.down_bias);
        }
      }
    }
  }
}

TEST(MlpGrad, FlowsOnlyWhereItIsWanted) {
  for (const HiddenActivation activation : kActivations) {
    for (int wanted = 0; wanted < 5; ++wanted) {
      std::vector<Variable> in;
      const Shape shapes[] = {{3, 4}, {5, 4}, {5}, {4, 5}, {4}};
      for (int i = 0; i < 5; ++i)
        in.emplace_back(random_tensor(shapes[i], DType::f64, static_cast<uint64_t>(i + 1)),
                        i == wanted);
      mlp(in[0], {in[1], in[2], in[3], in[4]}, activation).backward(ones({3, 4}, DType::f64));
      for (int i = 0; i < 5; ++i)
        EXPECT_EQ(in[static_cast<size_t>(i)].grad().defined(), i == wanted) << i;
    }
  }
}

TEST(MlpGrad, IsNotRecordedWithoutNeed) {
  const MlpParameters p = parameters_of(4, 5, DType::f64);
  const NoGradGuard no_grad;
  EXPECT_FALSE(mlp(leaf({3, 4}, 1), p, HiddenActivation::gelu_tanh).requires_grad());
}

TEST(MlpGrad, NoticesAWeightChangedBetweenForwardAndBackward) {
  MlpParameters p = parameters_of(4, 5, DType::f64);
  const Variable y = mlp(leaf({3, 4}, 1), p, HiddenActivation::gelu_tanh);
  p.down.mutable_data().fill_(0);
  EXPECT_THROW(y.backward(ones({3, 4}, DType::f64)), AutogradError);
}

}  // namespace
}  // namespace weft::autograd

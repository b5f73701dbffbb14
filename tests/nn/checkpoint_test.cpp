#include "weft/autograd/checkpoint.h"

#include <gtest/gtest.h>

#include "weft/nn/batch_norm.h"
#include "weft/nn/dropout.h"
#include "weft/nn/linear.h"

#include "random_tensor.h"

namespace weft::nn {
namespace {

using autograd::checkpoint;

/// What a training step leaves behind.
struct Step {
  std::vector<double> y, dx, dweight, running_mean, running_var;
  int64_t batches = 0;
};

/// Two batches through BatchNorm, a projection and dropout, checkpointed `levels` times over.
Step train(int levels, std::optional<double> momentum) {
  Generator generator(5);
  BatchNorm norm(6, {.momentum = momentum});
  Linear projection(6, 6, generator);
  Dropout dropout(0.5, generator);
  using Function = std::function<std::vector<Variable>(const std::vector<Variable>&)>;
  Function function = [&](const std::vector<Variable>& in) -> std::vector<Variable> {
    return {dropout.forward(projection.forward(norm.forward(in[0])))};
  };
  for (int level = 0; level < levels; ++level) {
    function = [inner = function, &generator](const std::vector<Variable>& in) {
      return checkpoint(inner, in, {&generator});
    };
  }
  Step step;
  for (const uint64_t batch : {1, 2}) {
    const Variable x(test::random_tensor({4, 6}, DType::f32, batch), /*requires_grad=*/true);
    const Variable y = function({x})[0];
    EXPECT_FALSE(autograd::is_recomputing());
    y.backward(test::random_tensor({4, 6}, DType::f32, 3));
    EXPECT_FALSE(autograd::is_recomputing());
    step.y = y.data().to_vector<double>();
    step.dx = x.grad().to_vector<double>();
  }
  step.dweight = projection.weight.grad().to_vector<double>();
  step.running_mean = norm.running_mean().to_vector<double>();
  step.running_var = norm.running_var().to_vector<double>();
  step.batches = norm.num_batches_tracked();
  return step;
}

TEST(CheckpointedLayers, GiveWhatPlainOnesGive) {
  for (const auto momentum : {std::optional(0.1), std::optional<double>()}) {
    const Step plain = train(0, momentum);
    ASSERT_EQ(plain.batches, 2);
    EXPECT_NE(plain.running_mean, std::vector<double>(6, 0.0));
    for (const int levels : {1, 2}) {
      SCOPED_TRACE(levels);
      const Step again = train(levels, momentum);
      EXPECT_EQ(again.batches, 2);
      EXPECT_EQ(again.running_mean, plain.running_mean);
      EXPECT_EQ(again.running_var, plain.running_var);
      EXPECT_EQ(again.y, plain.y);
      EXPECT_EQ(again.dx, plain.dx) << "dropout must draw the mask of the first run";
      EXPECT_EQ(again.dweight, plain.dweight);
    }
  }
}

TEST(CheckpointedLayers, LeaveTheMarkWhenTheSecondRunThrows) {
  int runs = 0;
  const auto function = [&runs](const std::vector<Variable>& in) -> std::vector<Variable> {
    EXPECT_EQ(autograd::is_recomputing(), runs > 0);
    if (runs++ > 0) throw std::runtime_error("second run");
    return in;
  };
  const Variable x(ones({1}), /*requires_grad=*/true);
  const Variable y = checkpoint(function, {x})[0];
  EXPECT_THROW(y.backward(), std::runtime_error);
  EXPECT_EQ(runs, 2);
  EXPECT_FALSE(autograd::is_recomputing());
}

}  // namespace
}  // namespace weft::nn

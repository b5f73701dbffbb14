#include "weft/autograd/functions/batch_norm.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

TEST(BatchNormGrad, AgreesWithDifferences) {
  for (const Shape& shape : {Shape{4, 3}, Shape{2, 3, 5}, Shape{3, 2, 2, 3}}) {
    const auto trained = grad_check(
        [](const std::vector<Variable>& in) { return batch_norm_train(in[0], in[1], in[2]); },
        {leaf(shape, 1), leaf({shape[1]}, 2), leaf({shape[1]}, 3)});
    EXPECT_TRUE(trained) << to_string(shape) << ": " << trained.message;
    const RunningStatistics running{random_tensor({shape[1]}, DType::f64, 4),
                                    random_tensor({shape[1]}, DType::f64, 5, 0.5, 2)};
    const auto evaluated = grad_check(
        [&](const std::vector<Variable>& in) {
          return batch_norm_eval(in[0], in[1], in[2], running);
        },
        {leaf(shape, 1), leaf({shape[1]}, 2), leaf({shape[1]}, 3)});
    EXPECT_TRUE(evaluated) << to_string(shape) << ": " << evaluated.message;
  }
}

TEST(BatchNormGrad, WithoutParameters) {
  const auto result =
      grad_check([](const std::vector<Variable>& in) { return batch_norm_train(in[0], {}, {}); },
                 {leaf({4, 3, 2}, 1)});
  EXPECT_TRUE(result) << result.message;
}

TEST(BatchNormGrad, EvaluationSurvivesLaterTraining) {
  const Variable x = leaf({4, 3}, 1, DType::bf16), gain = leaf({3}, 2, DType::f32);
  const RunningStatistics running{zeros({3}), ones({3})};
  const Variable y = batch_norm_eval(x, gain, {}, running);
  batch_norm_train(x, gain, {}, running);
  EXPECT_NE(running.mean.to_vector<float>(), std::vector<float>(3, 0.0f));
  y.backward(ones({4, 3}, DType::bf16));
  EXPECT_EQ(x.grad().dtype(), DType::bf16);
  EXPECT_EQ(gain.grad().dtype(), DType::f32);
}

}  // namespace
}  // namespace weft::autograd

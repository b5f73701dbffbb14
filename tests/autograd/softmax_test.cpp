#include "weft/autograd/functions/softmax.h"

#include <limits>

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

TEST(SoftmaxGrad, MatchesDifferences) {
  for (const Shape& shape : {Shape{1}, Shape{15}, Shape{4, 63}, Shape{2, 5, 3}}) {
    for (int axis = -shape.rank(); axis < shape.rank(); ++axis) {
      const Variable x(random_tensor(shape, DType::f64), true);
      const auto plain =
          grad_check([&](const std::vector<Variable>& v) { return softmax(v[0], axis); }, {x});
      EXPECT_TRUE(plain) << plain.message;
      const auto log =
          grad_check([&](const std::vector<Variable>& v) { return log_softmax(v[0], axis); }, {x});
      EXPECT_TRUE(log) << log.message;
    }
  }
}

TEST(SoftmaxGrad, FullyMaskedRowsGetZero) {
  for (const auto& function : {softmax, log_softmax}) {
    Variable x(full({2, 3}, -std::numeric_limits<double>::infinity()), true);
    function(x, 1).backward(ones({2, 3}));
    EXPECT_EQ(x.grad().to_vector<double>(), std::vector<double>(6, 0));
  }
}

TEST(SoftmaxGrad, NoticesAChangedResult) {
  Variable x(ones({2, 3}), true);
  Variable y = softmax(x);
  y.mutable_data().fill_(0);
  EXPECT_THROW(y.backward(ones({2, 3})), AutogradError);
}

}  // namespace
}  // namespace weft::autograd

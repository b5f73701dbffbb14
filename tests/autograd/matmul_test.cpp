#include "weft/autograd/functions/matmul.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

void check(const Shape& a, const Shape& b, const MatmulOptions& options = {}) {
  const auto result =
      grad_check([&](const std::vector<Variable>& in) { return matmul(in[0], in[1], options); },
                 {leaf(a, 1), leaf(b, 2)});
  EXPECT_TRUE(result) << to_string(a) << " x " << to_string(b) << ": " << result.message;
}

TEST(MatmulGrad, AgreesWithDifferencesForAllRanks) {
  check({3, 4}, {4, 5});
  check({1, 1}, {1, 1});
  check({4}, {4});
  check({4}, {4, 3});
  check({3, 4}, {4});
  check({4}, {2, 4, 3});
  check({2, 3, 4}, {4});
  check({2, 3, 4}, {2, 4, 5});
  check({2, 0, 4}, {2, 4, 5});
  check({40, 50}, {50, 30});
}

TEST(MatmulGrad, SumsOverBroadcastBatchAxes) {
  check({2, 3, 4}, {4, 5});
  check({3, 4}, {2, 4, 5});
  check({2, 1, 3, 4}, {3, 4, 2});
  check({1, 3, 4}, {2, 4, 2});
  check({2, 3, 4}, {1, 4, 2});
  check({1, 1, 3, 4}, {4, 2});
}

TEST(MatmulGrad, FollowsTheOptions) {
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      const MatmulOptions options{
          .transpose_a = transpose_a, .transpose_b = transpose_b, .alpha = -0.5};
      const Shape a = transpose_a ? Shape{4, 3} : Shape{3, 4};
      const Shape b = transpose_b ? Shape{5, 4} : Shape{4, 5};
      check(a, b, options);
      check({2, a[0], a[1]}, b, options);
      check(a, {2, b[0], b[1]}, options);
      check({2, a[0], a[1]}, {2, b[0], b[1]}, options);
    }
  }
  check({4}, {5, 4}, {.transpose_b = true});
}

TEST(MatmulGrad, ReachesOnlyWhoAsks) {
  const Variable a = leaf({3, 4}, 1);
  const Variable b(random_tensor({4, 5}, DType::f64, 2));
  matmul(a, b).backward(ones({3, 5}, DType::f64));
  EXPECT_EQ(a.grad().shape(), (Shape{3, 4}));
  EXPECT_FALSE(b.grad().defined());
}

TEST(MatmulGrad, HalfOperandsKeepTheirType) {
  const Variable a = leaf({20, 30}, 1, DType::bf16), b = leaf({30, 10}, 2, DType::bf16);
  const Variable c = matmul(a, b, {.out_dtype = DType::f32});
  EXPECT_EQ(c.dtype(), DType::f32);
  c.backward(ones({20, 10}));
  EXPECT_EQ(a.grad().dtype(), DType::bf16);
  const Tensor expected =
      weft::matmul(ones({20, 10}), b.data().to(DType::f32), {.transpose_b = true});
  test::expect_near(a.grad(), expected.to_vector<double>(), test::rounding_error(DType::bf16),
                    1e-5);
}

TEST(MatmulGrad, NoticesChangedOperands) {
  Variable a = leaf({3, 4}, 1), b = leaf({4, 5}, 2);
  const Variable c = matmul(a, b);
  b.mutable_data().fill_(0);
  EXPECT_THROW(c.backward(ones({3, 5}, DType::f64)), AutogradError);
}

}  // namespace
}  // namespace weft::autograd

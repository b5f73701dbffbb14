#include "weft/autograd/functions/embedding.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/embedding.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

TEST(EmbeddingGrad, RepeatedIdsAddUp) {
  const Tensor ids = from_vector<int64_t>({4, 0, 4, 4, 1, 0}, {2, 3});
  for (const Tensor& list : {ids, ids.to(DType::i32), ids.transpose(0, 1)}) {
    const auto result =
        grad_check([&](const std::vector<Variable>& v) { return embedding(v[0], list); },
                   {Variable(random_tensor({5, 7}, DType::f64), true)});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(EmbeddingGrad, OfRoundedVectorsIsInTheTypeOfTheTable) {
  const Variable table(random_tensor({5, 7}, DType::f32), true);
  const Tensor ids = from_vector<int64_t>({4, 0, 4}, {3});
  const Variable y = embedding(table, ids, DType::bf16);
  EXPECT_EQ(y.dtype(), DType::bf16);
  const Tensor dy = random_tensor({3, 7}, DType::bf16, 2);
  y.backward(dy);
  EXPECT_EQ(table.grad().dtype(), DType::f32);
  EXPECT_EQ(table.grad().to_vector<float>(),
            embedding_backward(dy.to(DType::f32), ids, 5).to_vector<float>());
}

TEST(EmbeddingGrad, NoticesChangedIds) {
  Tensor ids = zeros({2}, DType::i64);
  const Variable y = embedding(Variable(ones({3, 2}), true), ids);
  ids.fill_(1);
  EXPECT_THROW(y.backward(ones({2, 2})), AutogradError);
}

}  // namespace
}  // namespace weft::autograd

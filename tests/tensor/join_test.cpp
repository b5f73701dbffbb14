#include "weft/tensor/ops/join.h"

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::random_tensor;
using test::scattered;

TEST(Join, CatPutsTensorsBehindEachOther) {
  const Tensor a = arange(0, 6).view({2, 3});
  const Tensor b = arange(10, 14).view({2, 2});
  EXPECT_EQ(cat({a, b}, 1).to_vector<int64_t>(),
            (std::vector<int64_t>{0, 1, 2, 10, 11, 3, 4, 5, 12, 13}));
  EXPECT_EQ(cat({a, b}, -1).shape(), (Shape{2, 5}));
  EXPECT_EQ(cat({a, a.slice(0, 1, 2)}, 0).to_vector<int64_t>(),
            (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 3, 4, 5}));
}

TEST(Join, CatUndoesSplitForEveryTypeAxisAndLayout) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32,
                      DType::u8, DType::boolean}) {
    const Tensor x = random_tensor({5, 15, 4}, DType::f64, 3, 0, 100).to(dtype);
    for (const Tensor& layout : {x, scattered(x), x.transpose(0, 2)}) {
      for (int axis = 0; axis < 3; ++axis) {
        const Tensor joined = cat(layout.split(2, axis), axis);
        EXPECT_EQ(joined.dtype(), dtype);
        EXPECT_TRUE(joined.is_contiguous());
        EXPECT_EQ(joined.to_vector<double>(), layout.to_vector<double>()) << axis;
      }
    }
  }
}

TEST(Join, EmptyPiecesAddNothing) {
  const Tensor x = random_tensor({3, 4}, DType::f32);
  EXPECT_EQ(cat({x, empty({3, 0}), x}, 1).shape(), (Shape{3, 8}));
  EXPECT_EQ(cat({x.slice(0, 0, 0), x.slice(0, 0, 0)}, 1).shape(), (Shape{0, 8}));
}

TEST(Join, StackAddsAnAxis) {
  const Tensor x = random_tensor({3, 4}, DType::f32, 1);
  const Tensor y = random_tensor({3, 4}, DType::f32, 2);
  for (int axis : {0, 1, 2, -1, -3}) {
    const Tensor both = stack({x, y.transpose(0, 1).contiguous().transpose(0, 1)}, axis);
    ASSERT_EQ(both.rank(), 3);
    EXPECT_EQ(both.select(axis, 0).to_vector<float>(), x.to_vector<float>());
    EXPECT_EQ(both.select(axis, 1).to_vector<float>(), y.to_vector<float>());
  }
  EXPECT_EQ(stack({scalar(1), scalar(2)}, 0).to_vector<float>(), (std::vector<float>{1, 2}));
}

TEST(Join, RefusesTensorsThatDoNotFit) {
  const Tensor x = zeros({2, 3});
  EXPECT_THROW(cat(std::vector<Tensor>{}, 0), ShapeError);
  EXPECT_THROW(cat({x, Tensor()}, 0), ShapeError);
  EXPECT_THROW(cat({x, x}, 2), ShapeError);
  EXPECT_THROW(cat({scalar(1)}, 0), ShapeError);
  EXPECT_THROW(cat({x, zeros({2})}, 0), ShapeError);
  EXPECT_THROW(cat({x, x.to(DType::bf16)}, 0), DTypeError);
  EXPECT_THROW(stack({x, zeros({2, 1})}, 0), ShapeError);
  EXPECT_THROW(stack({x, x}, 3), ShapeError);
  try {
    cat({x, zeros({3, 3})}, 1);
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(),
                 "cat: tensor 1 is [3, 3] f32 cpu, tensor 0 is [2, 3] f32 cpu; only axis 1 may "
                 "have another size");
  }
}

}  // namespace
}  // namespace weft

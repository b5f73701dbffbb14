#include "weft/tensor/ops/softmax.h"

#include "close_bounds.h"

namespace weft {
namespace {

using test::expect_rounded;
using test::in_all_layouts;
using test::kFloating;
using test::mirrored;
using test::random_tensor;

class CudaSoftmax : public test::CudaTest {};

void expect_forward(const Tensor& x, int axis) {
  expect_rounded(softmax(mirrored(x), axis), softmax(x, axis), "softmax");
  expect_rounded(log_softmax(mirrored(x), axis), log_softmax(x, axis), "log_softmax", 20);
}

void expect_backward(const Tensor& dy, const Tensor& x, int axis) {
  const Tensor y = softmax(x, axis);
  expect_rounded(softmax_backward(mirrored(dy), mirrored(y), axis), softmax_backward(dy, y, axis),
                 "softmax_backward");
  const Tensor log_y = log_softmax(x, axis);
  // The sum of a row of dy is as long as the row.
  expect_rounded(log_softmax_backward(mirrored(dy), mirrored(log_y), axis),
                 log_softmax_backward(dy, log_y, axis), "log_softmax_backward", 40);
}

TEST_F(CudaSoftmax, EqualsTheCpuForRowsOfEveryLength) {
  for (const DType dtype : kFloating) {
    for (const int64_t length : test::row_lengths()) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << length);
      const Tensor x = random_tensor({test::rows_of(length), length}, dtype, 1, -9, 9);
      expect_forward(x, -1);
      expect_backward(random_tensor(x.shape(), dtype, 2), x, -1);
    }
  }
}

TEST_F(CudaSoftmax, EqualsTheCpuAlongEveryAxisInEveryLayout) {
  for (const DType dtype : kFloating) {
    const Tensor dense = random_tensor({5, 33, 24}, dtype, 3, -9, 9);
    const Tensor dy = random_tensor({5, 33, 24}, dtype, 4);
    for (const Tensor& x : in_all_layouts(dense)) {
      for (int axis = 0; axis < 3; ++axis) {
        expect_forward(x, axis);
        expect_backward(dy, x, axis);
      }
    }
  }
}

TEST_F(CudaSoftmax, EqualsTheCpuAlongColumnsInPieces) {
  for (const DType dtype : kFloating) {
    for (const Shape& shape :
         std::vector<Shape>{{1000, 264},
                            {3, 700, 17},
                            {65, 8},
                            {2, 64, 65536},
                            {33, 1},
                            // in strips: of a tile, not full, and results by turns with totals
                            {256, 64},
                            {3, 300, 8},
                            {2, 4097, 72},
                            {40000, 16},
                            {33792, 72},
                            {33800, 200},
                            {2, 8200, 520}}) {
      const Tensor x = random_tensor(shape, dtype, 7, -9, 9);
      const int axis = x.rank() - 2;
      expect_forward(x, axis);
      expect_backward(random_tensor(shape, dtype, 8), x, axis);
    }
  }
}

TEST_F(CudaSoftmax, KeepsInfinityAndNan) {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : kFloating) {
    for (const int64_t length : {4, 64, 2048, 40000}) {
      Tensor x = random_tensor({4, length}, dtype, 5);
      x.select(0, 0).fill_(-inf);
      x.select(0, 1).select(0, length - 1).fill_(nan);
      x.select(0, 2).slice(0, 0, length / 2).fill_(-inf);
      if (length <= 2048) {  // along columns in pieces
        const Tensor columns = x.transpose(0, 1).clone();
        expect_forward(columns, 0);
        expect_backward(random_tensor(columns.shape(), dtype, 7), columns, 0);
      }
      for (const int axis : {0, 1}) {
        expect_forward(x, axis);
        const Tensor dy = random_tensor(x.shape(), dtype, 6);
        expect_backward(dy, x, axis);
      }
    }
  }
}

TEST_F(CudaSoftmax, KeepsInfinityAndNanInStrips) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const DType dtype : kFloating) {
    for (const int64_t length : {256, 5000, 20000, 40000}) {
      Tensor x = random_tensor({length, 24}, dtype, 9, -9, 9);
      x.select(1, 0).fill_(-inf);
      x.select(1, 1).select(0, length - 1).fill_(std::numeric_limits<double>::quiet_NaN());
      x.select(1, 2).slice(0, 0, length - 1).fill_(-inf);
      x.select(1, 3).slice(0, 1, length).fill_(-inf);
      x.select(1, 4).fill_(60000);
      x.select(1, 5).slice(0, 0, length / 2).fill_(-60000);
      expect_forward(x, 0);
      for (const bool log : {false, true}) {
        const Tensor g = mirrored(x);
        const Tensor once = log ? log_softmax(g, 0) : softmax(g, 0);
        test::expect_same(log ? log_softmax(g, 0) : softmax(g, 0), once.to(kCpu), "again");
      }
    }
  }
}

TEST_F(CudaSoftmax, TakesNoRowsAndManyRows) {
  expect_forward(random_tensor({0, 7}, DType::f32), -1);
  expect_forward(random_tensor({70000, 9}, DType::bf16), -1);
  expect_forward(random_tensor({70001, 8}, DType::f32), -1);
}

}  // namespace
}  // namespace weft

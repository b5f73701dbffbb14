#include <cmath>
#include <sstream>

#include <gtest/gtest.h>

#include "weft/tensor/tensor.h"

namespace weft {
namespace {

std::string printed(const Tensor& tensor) {
  std::ostringstream stream;
  stream << tensor;
  return stream.str();
}

TEST(Print, ShowsScalarsAndVectorsOnOneLine) {
  EXPECT_EQ(printed(scalar(1.5)), "[] f32 cpu 1.5");
  EXPECT_EQ(printed(from_vector<int64_t>({1, -20, 300}, {3})), "[3] i64 cpu [  1, -20, 300]");
  EXPECT_EQ(printed(from_vector<bool>({true, false}, {2})), "[2] bool cpu [ true, false]");
  EXPECT_EQ(printed(empty({0})), "[0] f32 cpu []");
  EXPECT_EQ(printed(Tensor()), "undefined");
}

TEST(Print, AlignsTheRowsOfAMatrix) {
  EXPECT_EQ(printed(from_vector<float>({1, -2.5f, 100, 0.125f}, {2, 2})),
            "[2, 2] f32 cpu\n"
            "[[    1,  -2.5],\n"
            " [  100, 0.125]]");
}

TEST(Print, NestsDeeperAxes) {
  EXPECT_EQ(printed(arange(0, 8).view({2, 2, 2})),
            "[2, 2, 2] i64 cpu\n"
            "[[[0, 1],\n"
            "  [2, 3]],\n"
            "\n"
            " [[4, 5],\n"
            "  [6, 7]]]");
}

TEST(Print, ShowsValuesThatAreNotNumbers) {
  EXPECT_EQ(printed(from_vector<double>({NAN, INFINITY, -INFINITY, 0}, {4})),
            "[4] f64 cpu [ nan,  inf, -inf,    0]");
}

TEST(Print, RoundsToFourDigits) {
  EXPECT_EQ(printed(from_vector<double>({3.14159265, 1e-7, 123456.7}, {3})),
            "[3] f64 cpu [    3.142,     1e-07, 1.235e+05]");
}

TEST(Print, ShortensLongAxes) {
  EXPECT_EQ(printed(arange(0, 9)), "[9] i64 cpu [0, 1, 2, ..., 6, 7, 8]");
  EXPECT_EQ(printed(arange(0, 8)), "[8] i64 cpu [0, 1, 2, 3, 4, 5, 6, 7]");
  EXPECT_EQ(printed(arange(0, 10000).view({100, 100})),
            "[100, 100] i64 cpu\n"
            "[[   0,    1,    2, ...,   97,   98,   99],\n"
            " [ 100,  101,  102, ...,  197,  198,  199],\n"
            " [ 200,  201,  202, ...,  297,  298,  299],\n"
            " ...,\n"
            " [9700, 9701, 9702, ..., 9797, 9798, 9799],\n"
            " [9800, 9801, 9802, ..., 9897, 9898, 9899],\n"
            " [9900, 9901, 9902, ..., 9997, 9998, 9999]]");
}

TEST(Print, ReadsViewsAndHalfTypes) {
  const Tensor x = arange(0, 6, 1, DType::f32).view({2, 3}).to(DType::bf16);
  EXPECT_EQ(printed(x.transpose(0, 1)),
            "[3, 2] bf16 cpu\n"
            "[[0, 3],\n"
            " [1, 4],\n"
            " [2, 5]]");
  EXPECT_EQ(printed(zeros({2, 0}, DType::f16)),
            "[2, 0] f16 cpu\n"
            "[[],\n"
            " []]");
}

}  // namespace
}  // namespace weft

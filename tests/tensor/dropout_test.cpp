#include "weft/tensor/ops/dropout.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Dropout, KeepsTheDocumentedElementsAndScalesThem) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (double p : {0.1, 0.5, 0.9}) {
      for (const Shape& shape : {Shape{}, Shape{1}, Shape{15}, Shape{63, 111}, Shape{70001}}) {
        Generator generator(8);
        generator.reserve(21);
        const Tensor x = test::random_tensor(shape, dtype, 1, 1, 2);
        const Tensor y = dropout(x, p, generator);
        EXPECT_EQ(y.dtype(), dtype);
        EXPECT_EQ(generator.state().offset, 21 + static_cast<uint64_t>(shape.numel() + 3) / 4);
        std::vector<double> expected = x.to_vector<double>();
        for (size_t i = 0; i < expected.size(); ++i) {
          const bool kept = (philox4x32(8, 21 + i / 4)[i % 4] >> 8) * 0x1p-24 >= p;
          expected[i] = kept ? expected[i] / (1 - p) : 0;
        }
        test::expect_near(y, expected, (dtype == DType::f64 ? 4 : 2) * test::rounding_error(dtype),
                          0);
      }
    }
  }
}

TEST(Dropout, RepeatsItsMaskFromTheState) {
  Generator generator(3);
  const Tensor x = test::random_tensor({63, 111}, DType::f32, 1);
  const GeneratorState state = generator.state();
  const auto expected = dropout(x, 0.3, generator).to_vector<float>();
  EXPECT_EQ(dropout(x, 0.3, state).to_vector<float>(), expected);
  EXPECT_EQ(dropout(test::scattered(x), 0.3, state).to_vector<float>(), expected);
  EXPECT_EQ(dropout(test::with_gaps(x), 0.3, state).to_vector<float>(), expected);
  EXPECT_NE(dropout(x, 0.3, generator).to_vector<float>(), expected);
}

TEST(Dropout, DropsTheAskedShare) {
  Generator generator(4);
  const auto values = dropout(ones({1'000'000}), 0.2, generator).to_vector<float>();
  double dropped = 0;
  double sum = 0;
  for (float value : values) {
    dropped += value == 0;
    sum += value;
  }
  EXPECT_NEAR(dropped / 1e6, 0.2, 5 * std::sqrt(0.16 / 1e6));
  EXPECT_NEAR(sum / 1e6, 1, 5 * std::sqrt(0.25 / 1e6));
}

TEST(Dropout, DropsNanAndInfinityToZero) {
  Generator generator(5);
  const auto values = dropout(full({1000}, NAN), 0.5, generator).to_vector<float>();
  int zeros = 0;
  for (float value : values) zeros += value == 0;
  EXPECT_NEAR(zeros, 500, 80);
}

TEST(Dropout, WithoutDroppingCopiesAndDrawsNothing) {
  Generator generator(6);
  const Tensor x = test::random_tensor({15}, DType::f32, 1);
  const Tensor y = dropout(x, 0, generator);
  EXPECT_NE(y.storage(), x.storage());
  EXPECT_EQ(y.to_vector<float>(), x.to_vector<float>());
  EXPECT_EQ(generator.state().offset, 0u);
  EXPECT_EQ(dropout(empty({0, 3}), 0.5, generator).shape(), (Shape{0, 3}));
}

TEST(Dropout, RefusesBadArguments) {
  Generator generator(7);
  for (double p : {-0.1, 1.0, 1.5, static_cast<double>(NAN)}) {
    EXPECT_THAT([&] { dropout(zeros({2}), p, generator); },
                ThrowsMessage<ConfigError>(HasSubstr("dropout: p must lie in [0, 1)")));
  }
  EXPECT_THROW(dropout(zeros({2}, DType::i32), 0.5, generator), DTypeError);
  EXPECT_THROW(dropout(Tensor(), 0.5, generator), ShapeError);
}

}  // namespace
}  // namespace weft

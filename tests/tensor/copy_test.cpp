// Tensor::copy_, fill_, clone, contiguous and to in every layout and between all types.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/parallel.h"
#include "weft/tensor/tensor.h"

#include "random_tensor.h"

namespace weft {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8,   DType::boolean};

/// Whole numbers that every type but bool holds exactly.
Tensor small_numbers(const Shape& shape, DType dtype) {
  std::vector<int64_t> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int64_t>(i * 7 % 251);
  return from_vector(values, shape).to(dtype);
}

/// Elements of a permuted tensor by the definition.
std::vector<double> permuted(const Tensor& dense, const std::vector<int>& axes) {
  const auto values = dense.to_vector<double>();
  const Strides strides = contiguous_strides(dense.shape());
  Shape shape;
  for (int axis : axes) shape.push_back(dense.shape()[axis]);
  std::vector<double> result;
  for (int64_t i = 0; i < shape.numel(); ++i) {
    int64_t rest = i;
    int64_t position = 0;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      position += rest % shape[axis] * strides[axes[static_cast<size_t>(axis)]];
      rest /= shape[axis];
    }
    result.push_back(values[static_cast<size_t>(position)]);
  }
  return result;
}

TEST(Copy, TransposesEveryTypeAndSize) {
  const Shape shapes[] = {{1, 1},   {1, 15},   {7, 9},   {8, 8},   {9, 8},    {63, 111},
                          {64, 64}, {65, 130}, {200, 8}, {8, 200}, {511, 129}};
  for (DType dtype : kAll) {
    for (const Shape& shape : shapes) {
      const Tensor x = small_numbers(shape, dtype);
      const auto expected = permuted(x, {1, 0});
      EXPECT_EQ(x.transpose(0, 1).clone().to_vector<double>(), expected) << describe(x);
      // Into a transposed destination, and from one transposed view into another.
      Tensor y = empty({shape[1], shape[0]}, dtype);
      y.transpose(0, 1).clone();
      Tensor into = y.transpose(0, 1);
      into.copy_(x);
      EXPECT_EQ(y.to_vector<double>(), expected) << describe(x);
      Tensor both = empty({shape[1], shape[0]}, dtype).transpose(0, 1);
      both.copy_(test::with_gaps(x.transpose(0, 1).contiguous()).transpose(0, 1));
      EXPECT_EQ(both.to_vector<double>(), x.to_vector<double>()) << describe(x);
    }
  }
}

TEST(Copy, PermutesMoreAxes) {
  const std::vector<std::vector<int>> orders = {{0, 2, 1, 3}, {3, 2, 1, 0}, {1, 3, 0, 2},
                                                {2, 3, 0, 1}, {0, 1, 3, 2}, {3, 0, 1, 2}};
  for (DType dtype : {DType::f32, DType::bf16, DType::u8, DType::i64}) {
    for (const Shape& shape : {Shape{2, 9, 11, 17}, Shape{3, 1, 70, 12}, Shape{20, 30, 2, 66}}) {
      const Tensor x = small_numbers(shape, dtype);
      for (const auto& order : orders) {
        const auto expected = permuted(x, order);
        EXPECT_EQ(x.permute(order).clone().to_vector<double>(), expected) << describe(x);
        EXPECT_EQ(test::with_gaps(x).permute(order).clone().to_vector<double>(), expected);
        EXPECT_EQ(test::scattered(x).permute(order).clone().to_vector<double>(), expected);
      }
    }
  }
}

TEST(Copy, ConvertsBetweenAllTypesInEveryLayout) {
  for (DType from : kAll) {
    for (DType to : kAll) {
      const Tensor x = small_numbers({67, 71}, from);
      std::vector<double> expected = x.to_vector<double>();
      if (to == DType::boolean) {
        for (double& value : expected) value = value != 0;
      }
      const auto both = std::string(to_string(from)) + " to " + std::string(to_string(to));
      EXPECT_EQ(x.to(to).to_vector<double>(), expected) << both;
      EXPECT_EQ(test::with_gaps(x).to(to).to_vector<double>(), expected) << both;
      EXPECT_EQ(test::scattered(x).to(to).to_vector<double>(), expected) << both;
      EXPECT_EQ(x.transpose(0, 1).to(to).transpose(0, 1).to_vector<double>(), expected) << both;
      Tensor wide = zeros({67, 71, 2}, to);
      Tensor into = wide.select(2, 1);
      into.copy_(x);
      EXPECT_EQ(into.to_vector<double>(), expected) << both;
      EXPECT_EQ(wide.select(2, 0).to_vector<double>(), std::vector<double>(67 * 71, 0.0)) << both;
    }
  }
}

TEST(Copy, RoundsHalfTypesAsTheirConstructorsDo) {
  // Every sign and exponent, subnormals, infinity and NaN, and lengths that leave a remainder.
  std::vector<float> values;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 65521 * 3)
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  const Tensor x = from_vector(values, {static_cast<int64_t>(values.size())});
  const auto as_bf16 = x.to(DType::bf16).to_vector<bf16>();
  const auto as_f16 = x.to(DType::f16).to_vector<f16>();
  const auto from_bf16 = x.to(DType::bf16).to(DType::f32).to_vector<float>();
  const auto from_f16 = x.to(DType::f16).to(DType::f32).to_vector<float>();
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(as_bf16[i].bits, bf16(values[i]).bits) << values[i];
    if (std::isnan(values[i])) {
      ASSERT_TRUE(std::isnan(from_bf16[i]) && std::isnan(from_f16[i]));
    } else {
      ASSERT_EQ(as_f16[i].bits, f16(values[i]).bits) << values[i];
      ASSERT_EQ(from_bf16[i], static_cast<float>(bf16(values[i])));
      ASSERT_EQ(from_f16[i], static_cast<float>(f16(values[i])));
    }
  }
}

TEST(Copy, TakesNumbersOutOfRangeToTheNearestInteger) {
  const Tensor x =
      from_vector<double>({1e30, -1e30, INFINITY, -INFINITY, NAN, 2.9, -2.9, 300, 9.3e18}, {9});
  constexpr auto kMax = std::numeric_limits<int64_t>::max();
  constexpr auto kMin = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(x.to(DType::i64).to_vector<int64_t>(),
            (std::vector<int64_t>{kMax, kMin, kMax, kMin, 0, 2, -2, 300, kMax}));
  EXPECT_EQ(x.to(DType::u8).to_vector<int64_t>(),
            (std::vector<int64_t>{255, 0, 255, 0, 0, 2, 0, 255, 255}));
  EXPECT_EQ(x.to(DType::f32).to(DType::i32).to_vector<int64_t>().at(0), 2147483647);
  EXPECT_EQ(x.to(DType::boolean).to_vector<bool>(), std::vector<bool>(9, true));
  EXPECT_EQ(from_vector<float>({0.0f, -0.0f, 1e-45f}, {3}).to(DType::boolean).to_vector<bool>(),
            (std::vector<bool>{false, false, true}));
}

TEST(Copy, BroadcastsAndConvertsAtOnce) {
  Tensor x = zeros({3, 5, 7}, DType::bf16);
  x.copy_(small_numbers({5, 1}, DType::i32));
  const auto values = x.to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(values[i], static_cast<double>(i / 7 % 5 * 7)) << i;
  x.copy_(scalar(4));
  EXPECT_EQ(x.to_vector<double>(), std::vector<double>(105, 4.0));
}

TEST(Copy, MovesOverlappingRangesAsIfThroughACopy) {
  for (DType dtype : kAll) {
    const Tensor original = small_numbers({5000}, dtype);
    const auto values = original.to_vector<double>();
    Tensor up = original.clone();
    up.slice(0, 1, 5000).copy_(up.slice(0, 0, 4999));
    Tensor down = original.clone();
    down.slice(0, 0, 4999).copy_(down.slice(0, 1, 5000));
    const auto raised = up.to_vector<double>();
    const auto lowered = down.to_vector<double>();
    for (size_t i = 0; i + 1 < values.size(); ++i) {
      ASSERT_EQ(raised[i + 1], values[i]);
      ASSERT_EQ(lowered[i], values[i + 1]);
    }
    Tensor square = original.slice(0, 0, 4900).clone().view({70, 70});
    const auto expected = permuted(square, {1, 0});
    square.copy_(square.transpose(0, 1));
    EXPECT_EQ(square.to_vector<double>(), expected);
  }
}

TEST(Copy, DoesNotDependOnThreads) {
  const int before = num_threads();
  const Tensor x = small_numbers({700, 301}, DType::f32);
  set_num_threads(1);
  const auto transposed = x.transpose(0, 1).clone().to_vector<float>();
  const auto rounded = x.to(DType::f16).to_vector<float>();
  set_num_threads(5);
  EXPECT_EQ(x.transpose(0, 1).clone().to_vector<float>(), transposed);
  EXPECT_EQ(x.to(DType::f16).to_vector<float>(), rounded);
  set_num_threads(before);
}

TEST(Copy, ContiguousAndToReturnThemselvesWhenNothingChanges) {
  const Tensor x = small_numbers({4, 6}, DType::f32);
  EXPECT_EQ(x.contiguous().storage(), x.storage());
  EXPECT_EQ(x.to(DType::f32).storage(), x.storage());
  EXPECT_EQ(x.to(kCpu).storage(), x.storage());
  EXPECT_NE(x.clone().storage(), x.storage());
  EXPECT_NE(x.transpose(0, 1).contiguous().storage(), x.storage());
  EXPECT_TRUE(x.slice(1, 1, 5).clone().is_contiguous());
  // A slice of whole rows is dense as it is.
  EXPECT_EQ(x.slice(0, 1, 3).contiguous().storage(), x.storage());
}

TEST(Copy, RefusesWhatItCannotWrite) {
  Tensor repeated = zeros({1, 4}).expand({3, 4});
  EXPECT_THAT(
      [&] {
        repeated.copy_(zeros({3, 4}));
      },
      ThrowsMessage<ShapeError>(HasSubstr("stride 0 on axis 0")));
  Tensor x = zeros({2});
  EXPECT_THROW(x.copy_(zeros({2, 2})), ShapeError);
  EXPECT_THROW(x.copy_(Tensor()), ShapeError);
  Tensor undefined;
  EXPECT_THROW(undefined.copy_(x), ShapeError);
  EXPECT_THROW(undefined.fill_(1), ShapeError);
}

TEST(Fill, SetsTheViewAndNothingElse) {
  for (DType dtype : kAll) {
    Tensor whole = zeros({20, 30, 9}, dtype);
    Tensor part = whole.slice(0, 3, 17, 2).slice(2, 1, 8).transpose(0, 2).select(1, 4);
    part.fill_(1);
    const auto values = whole.to_vector<double>();
    double sum = 0;
    for (double value : values) sum += value;
    EXPECT_EQ(sum, static_cast<double>(part.numel())) << to_string(dtype);
    EXPECT_EQ(part.to_vector<double>(),
              std::vector<double>(static_cast<size_t>(part.numel()), 1.0));
    whole.zero_();
    EXPECT_EQ(whole.to_vector<double>(), std::vector<double>(values.size(), 0.0));
  }
}

TEST(Fill, ConvertsTheValueLikeACopy) {
  EXPECT_EQ(full({3}, 2.7, DType::i32).to_vector<int64_t>(), (std::vector<int64_t>{2, 2, 2}));
  EXPECT_EQ(full({1}, -5, DType::u8).item<int>(), 0);
  EXPECT_EQ(full({1}, 0.3, DType::boolean).item<bool>(), true);
  EXPECT_EQ(full({1}, 1 + 0x1p-9, DType::bf16).item<double>(), 1);
  EXPECT_TRUE(std::isnan(full({1}, NAN, DType::f16).item<double>()));
  EXPECT_EQ(full({70000}, 3).to_vector<float>(), std::vector<float>(70000, 3.0f));
}

}  // namespace
}  // namespace weft

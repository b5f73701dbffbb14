#include "weft/tensor/ops/compare.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8,   DType::boolean};

struct Comparison {
  const char* name;
  Tensor (*tensors)(const Tensor&, const Tensor&);
  Tensor (*with_scalar)(const Tensor&, double);
  bool (*reference)(double, double);
};

const Comparison kComparisons[] = {
    {"eq", &eq, &eq, [](double a, double b) { return a == b; }},
    {"ne", &ne, &ne, [](double a, double b) { return a != b; }},
    {"lt", &lt, &lt, [](double a, double b) { return a < b; }},
    {"le", &le, &le, [](double a, double b) { return a <= b; }},
    {"gt", &gt, &gt, [](double a, double b) { return a > b; }},
    {"ge", &ge, &ge, [](double a, double b) { return a >= b; }},
};

/// Few different values, so that every outcome comes up.
Tensor small_values(const Shape& shape, DType dtype, uint64_t seed) {
  return test::random_tensor(shape, DType::i32, seed, 0, dtype == DType::boolean ? 2 : 4).to(dtype);
}

class Comparisons : public testing::TestWithParam<Comparison> {};

TEST_P(Comparisons, MatchTheirDefinition) {
  const Comparison& op = GetParam();
  for (DType dtype : kAll) {
    for (const Shape& shape : {Shape{}, Shape{1}, Shape{15}, Shape{63, 111}, Shape{3, 0}}) {
      const Tensor a = small_values(shape, dtype, 1);
      const Tensor b = small_values(shape, dtype, 2);
      const auto x = a.to_vector<double>();
      const auto y = b.to_vector<double>();
      std::vector<bool> expected, with_one;
      for (size_t i = 0; i < x.size(); ++i) {
        expected.push_back(op.reference(x[i], y[i]));
        with_one.push_back(op.reference(x[i], 1));
      }
      const Tensor result = op.tensors(a, b);
      EXPECT_EQ(result.dtype(), DType::boolean);
      EXPECT_EQ(result.shape(), shape);
      EXPECT_EQ(result.to_vector<bool>(), expected) << op.name << " " << to_string(dtype);
      EXPECT_EQ(op.with_scalar(a, 1).to_vector<bool>(), with_one) << op.name;
      if (shape.rank() == 2 && shape.numel() > 0) {
        EXPECT_EQ(op.tensors(test::scattered(a), test::with_gaps(b)).to_vector<bool>(), expected);
        const Tensor column = b.slice(1, 0, 1);
        EXPECT_EQ(op.tensors(a, column).to_vector<bool>(),
                  op.tensors(a, column.expand(shape).clone()).to_vector<bool>());
      }
    }
  }
}

TEST_P(Comparisons, FollowIeeeOnNan) {
  const Comparison& op = GetParam();
  const bool differs = std::string(op.name) == "ne";
  const Tensor x = from_vector<float>({NAN, NAN, 1}, {3});
  const Tensor y = from_vector<float>({NAN, 1, NAN}, {3});
  EXPECT_EQ(op.tensors(x, y).to_vector<bool>(), std::vector<bool>(3, differs)) << op.name;
}

TEST_P(Comparisons, RefuseOperandsThatDoNotFit) {
  const Comparison& op = GetParam();
  EXPECT_THAT([&] { op.tensors(zeros({2}), zeros({3})); },
              ThrowsMessage<ShapeError>(HasSubstr(op.name)));
  EXPECT_THAT([&] { op.tensors(zeros({2}), zeros({2}, DType::i32)); },
              ThrowsMessage<DTypeError>(HasSubstr(op.name)));
  EXPECT_THROW(op.with_scalar(zeros({2}, DType::i64), 0.5), DTypeError);
  EXPECT_THROW(op.tensors(Tensor(), zeros({2})), ShapeError);
}

INSTANTIATE_TEST_SUITE_P(All, Comparisons, testing::ValuesIn(kComparisons),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Comparisons, CompareLargeIntegersExactly) {
  const int64_t large = (int64_t{1} << 53) + 1;
  EXPECT_TRUE(
      gt(from_vector<int64_t>({large}, {1}), from_vector<int64_t>({large - 1}, {1})).item<bool>());
}

TEST(Logic, MatchesTheTruthTables) {
  const Tensor a = from_vector<bool>({false, false, true, true}, {4});
  const Tensor b = from_vector<bool>({false, true, false, true}, {4});
  using Bools = std::vector<bool>;
  EXPECT_EQ(logical_and(a, b).to_vector<bool>(), (Bools{false, false, false, true}));
  EXPECT_EQ(logical_or(a, b).to_vector<bool>(), (Bools{false, true, true, true}));
  EXPECT_EQ(logical_xor(a, b).to_vector<bool>(), (Bools{false, true, true, false}));
  EXPECT_EQ(logical_not(a).to_vector<bool>(), (Bools{true, true, false, false}));
  EXPECT_EQ(logical_and(a.unsqueeze(1), b).shape(), (Shape{4, 4}));
  EXPECT_THROW(logical_not(zeros({2})), DTypeError);
  EXPECT_THROW(logical_or(a, zeros({4}, DType::u8)), DTypeError);
  EXPECT_THROW(logical_xor(a, zeros({3}, DType::boolean)), ShapeError);
}

TEST(Where, ChoosesInEveryTypeAndLayout) {
  for (DType dtype : kAll) {
    const Tensor condition = small_values({15, 63}, DType::boolean, 1);
    const Tensor a = test::random_tensor({15, 63}, dtype, 2, 0, 100);
    const Tensor b = test::random_tensor({63}, dtype, 3, 0, 100);
    const auto c = condition.to_vector<bool>();
    const auto x = a.to_vector<double>();
    const auto y = b.to_vector<double>();
    std::vector<double> expected, a_or_one, one_or_a;
    for (size_t i = 0; i < c.size(); ++i) {
      expected.push_back(c[i] ? x[i] : y[i % 63]);
      a_or_one.push_back(c[i] ? x[i] : 1);
      one_or_a.push_back(c[i] ? 1 : x[i]);
    }
    EXPECT_EQ(where(condition, a, b).to_vector<double>(), expected) << to_string(dtype);
    EXPECT_EQ(where(test::scattered(condition), test::with_gaps(a), test::with_gaps(b))
                  .to_vector<double>(),
              expected);
    EXPECT_EQ(where(condition, a, 1.0).to_vector<double>(), a_or_one);
    EXPECT_EQ(where(condition, 1.0, a).to_vector<double>(), one_or_a);
  }
}

TEST(Where, BroadcastsTheConditionToo) {
  const Tensor condition = from_vector<bool>({true, false}, {2, 1});
  const Tensor result = where(condition, ones({3}), zeros({1}));
  EXPECT_EQ(result.to_vector<float>(), (std::vector<float>{1, 1, 1, 0, 0, 0}));
  EXPECT_EQ(where(condition, ones({}), 5.0).shape(), (Shape{2, 1}));
  EXPECT_EQ(where(empty({0, 1}, DType::boolean), ones({3}), 5.0).shape(), (Shape{0, 3}));
}

TEST(Where, KeepsTheBitsOfNan) {
  for (uint16_t bits : {0x7f81, 0x7fff, 0xffc1}) {  // signalling and quiet
    const Tensor x = from_vector<bf16>({bf16::from_bits(bits)}, {1});
    EXPECT_EQ(where(ones({1}, DType::boolean), x, 0.0).to_vector<bf16>()[0].bits, bits);
  }
}

TEST(Where, RefusesOperandsThatDoNotFit) {
  const Tensor condition = ones({2}, DType::boolean);
  EXPECT_THAT([&] { where(ones({2}), ones({2}), ones({2})); },
              ThrowsMessage<DTypeError>(HasSubstr("where: takes bool, got [2] f32")));
  EXPECT_THROW(where(condition, ones({2}), ones({2}, DType::f64)), DTypeError);
  EXPECT_THROW(where(condition, ones({3}), ones({3})), ShapeError);
  EXPECT_THROW(where(Tensor(), ones({3}), ones({3})), ShapeError);
  EXPECT_THROW(where(condition, ones({2}, DType::i32), 0.5), DTypeError);
}

TEST(Finite, FindsEachKindOfBadValueAnywhere) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (double bad : {static_cast<double>(INFINITY), -static_cast<double>(INFINITY),
                       static_cast<double>(NAN), -static_cast<double>(NAN)}) {
      for (int64_t position : {0, 1, 63, 110}) {
        Tensor x = test::random_tensor({111}, dtype, 1);
        EXPECT_TRUE(all_finite(x));
        x.select(0, position).fill_(bad);
        EXPECT_FALSE(all_finite(x)) << to_string(dtype) << " " << bad << " at " << position;
        EXPECT_FALSE(all_finite(test::scattered(x)));
        const auto finite = isfinite(x).to_vector<bool>();
        const auto nan = isnan(x).to_vector<bool>();
        for (int64_t i = 0; i < 111; ++i) {
          EXPECT_EQ(finite[static_cast<size_t>(i)], i != position);
          EXPECT_EQ(nan[static_cast<size_t>(i)], i == position && std::isnan(bad));
        }
      }
    }
  }
}

TEST(Finite, LooksAtTheViewAlone) {
  Tensor x = zeros({4, 6});
  x.select(1, 5).fill_(NAN);
  EXPECT_TRUE(all_finite(x.slice(1, 0, 5)));
  EXPECT_FALSE(all_finite(x));
  EXPECT_TRUE(all_finite(empty({0})));
}

TEST(Finite, SearchesLargeTensorsOnSeveralThreads) {
  Tensor x = full({300007}, std::numeric_limits<float>::max());
  EXPECT_TRUE(all_finite(x));
  x.select(0, 300006).fill_(INFINITY);
  EXPECT_FALSE(all_finite(x));
}

TEST(Finite, RefusesIntegers) {
  EXPECT_THROW(all_finite(zeros({2}, DType::i32)), DTypeError);
  EXPECT_THROW(isnan(zeros({2}, DType::boolean)), DTypeError);
  EXPECT_THROW(isfinite(Tensor()), ShapeError);
}

}  // namespace
}  // namespace weft

#include "weft/tensor/ops/arithmetic.h"

#include <cmath>
#include <functional>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
constexpr DType kIntegers[] = {DType::i64, DType::i32, DType::u8};

struct Binary {
  const char* name;
  Tensor (*tensors)(const Tensor&, const Tensor&);
  Tensor (*with_scalar)(const Tensor&, double);
  Tensor (*scalar_first)(double, const Tensor&);
  double (*reference)(double, double);
};

const Binary kBinaries[] = {
    {"add", &add, &add, &add, [](double a, double b) { return a + b; }},
    {"sub", &sub, &sub, &sub, [](double a, double b) { return a - b; }},
    {"mul", &mul, &mul, &mul, [](double a, double b) { return a * b; }},
    {"div", &div, &div, &div, [](double a, double b) { return a / b; }},
    {"maximum", &maximum, &maximum, &maximum, [](double a, double b) { return std::max(a, b); }},
    {"minimum", &minimum, &minimum, &minimum, [](double a, double b) { return std::min(a, b); }},
    {"pow", &pow, &pow, &pow, [](double a, double b) { return std::pow(a, b); }},
};

/// Element of a broadcast operand at the flat position `i` of a result of shape `shape`.
double broadcast_at(const std::vector<double>& values, const Shape& own, const Shape& shape,
                    int64_t i) {
  int64_t position = 0;
  int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    const int64_t index = i % shape[axis];
    i /= shape[axis];
    const int own_axis = axis - (shape.rank() - own.rank());
    if (own_axis < 0) continue;
    if (own[own_axis] != 1) position += index * step;
    step *= own[own_axis];
  }
  return values[static_cast<size_t>(position)];
}

std::vector<double> reference(const Binary& op, const Tensor& a, const Tensor& b,
                              const Shape& shape) {
  const auto x = a.to_vector<double>();
  const auto y = b.to_vector<double>();
  std::vector<double> result(static_cast<size_t>(shape.numel()));
  for (int64_t i = 0; i < shape.numel(); ++i) {
    result[static_cast<size_t>(i)] =
        op.reference(broadcast_at(x, a.shape(), shape, i), broadcast_at(y, b.shape(), shape, i));
  }
  return result;
}

struct Shapes {
  Shape a, b, result;
};

const Shapes kShapes[] = {
    {{}, {}, {}},
    {{1}, {1}, {1}},
    {{15}, {15}, {15}},
    {{111}, {1}, {111}},
    {{63, 15}, {15}, {63, 15}},
    {{63, 1}, {1, 15}, {63, 15}},
    {{3, 1, 5}, {2, 1}, {3, 2, 5}},
    {{}, {2, 3}, {2, 3}},
    {{0, 3}, {3}, {0, 3}},
    {{2, 3, 1, 5}, {4, 1}, {2, 3, 4, 5}},
    {{1025}, {1025}, {1025}},    // a block and one element
    {{70001}, {70001}, {70001}}  // several threads
};

class BinaryOps : public testing::TestWithParam<Binary> {};

TEST_P(BinaryOps, MatchTheirDefinitionWithBroadcasting) {
  const Binary& op = GetParam();
  for (DType dtype : kFloating) {
    for (const Shapes& shapes : kShapes) {
      // Positive and away from zero: powers and quotients stay in the range of f16.
      const Tensor a = test::random_tensor(shapes.a, dtype, 1, 0.5, 3);
      const Tensor b = test::random_tensor(shapes.b, dtype, 2, 0.5, 3);
      const Tensor result = op.tensors(a, b);
      ASSERT_EQ(result.shape(), shapes.result) << op.name;
      ASSERT_EQ(result.dtype(), dtype);
      ASSERT_TRUE(result.is_contiguous());
      const double tolerance = (dtype == DType::f32 ? 2 : 1.01) * test::rounding_error(dtype);
      test::expect_near(result, reference(op, a, b, shapes.result), tolerance, 0, op.name);
    }
  }
}

TEST_P(BinaryOps, TakeAnyLayout) {
  const Binary& op = GetParam();
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i32}) {
    for (const Shape& shape : {Shape{7}, Shape{15, 63}, Shape{3, 5, 7}, Shape{40, 63, 30}}) {
      const Tensor a = test::random_tensor(shape, dtype, 1, 1, 4);
      const Tensor b = test::random_tensor(shape, dtype, 2, 1, 4);
      const auto expected = op.tensors(a, b).to_vector<double>();
      const Tensor wide = test::random_tensor(shape, dtype, 2, 1, 4);
      for (const Tensor& x : {a, test::with_gaps(a), test::scattered(a)}) {
        for (const Tensor& y : {b, test::with_gaps(b), test::scattered(b)}) {
          ASSERT_EQ(op.tensors(x, y).to_vector<double>(), expected) << op.name;
        }
      }
    }
  }
}

TEST_P(BinaryOps, TakeScalarsOnEitherSide) {
  const Binary& op = GetParam();
  for (DType dtype : kFloating) {
    const Tensor x = test::random_tensor({5, 63}, dtype, 1, 0.5, 3);
    const auto values = x.to_vector<double>();
    // The scalar is not rounded to the half types, but it is to float.
    const double scalar = dtype == DType::f64 ? 1.7 : static_cast<double>(1.7f);
    std::vector<double> right, left;
    for (double value : values) {
      right.push_back(op.reference(value, scalar));
      left.push_back(op.reference(scalar, value));
    }
    const double tolerance = (dtype == DType::f32 ? 2 : 1.01) * test::rounding_error(dtype);
    test::expect_near(op.with_scalar(x, 1.7), right, tolerance, 0, op.name);
    test::expect_near(op.scalar_first(1.7, x), left, tolerance, 0, op.name);
  }
}

TEST_P(BinaryOps, ComputeIntegersExactly) {
  const Binary& op = GetParam();
  for (DType dtype : kIntegers) {
    const Tensor a = test::random_tensor({15, 63}, dtype, 1, 4, 16);
    const Tensor b = test::random_tensor({63}, dtype, 2, 1, 3);
    std::vector<double> expected = reference(op, a, b, {15, 63});
    for (double& value : expected) value = std::trunc(value);
    EXPECT_EQ(op.tensors(a, b).to_vector<double>(), expected) << op.name;
    std::vector<double> with_two;
    for (double value : a.to_vector<double>())
      with_two.push_back(std::trunc(op.reference(value, 2)));
    EXPECT_EQ(op.with_scalar(a, 2).to_vector<double>(), with_two) << op.name;
  }
}

TEST_P(BinaryOps, RefuseOperandsThatDoNotFit) {
  const Binary& op = GetParam();
  EXPECT_THAT(
      [&] {
        op.tensors(zeros({2, 3}), zeros({2}));
      },
      ThrowsMessage<ShapeError>(HasSubstr(op.name)));
  EXPECT_THAT([&] { op.tensors(zeros({2}), zeros({2}, DType::bf16)); },
              ThrowsMessage<DTypeError>(
                  testing::AllOf(HasSubstr(op.name), HasSubstr("[2] f32"), HasSubstr("[2] bf16"))));
  EXPECT_THAT([&] { op.tensors(zeros({2}, DType::boolean), zeros({2}, DType::boolean)); },
              ThrowsMessage<DTypeError>(HasSubstr(op.name)));
  EXPECT_THAT([&] { op.with_scalar(ones({2}, DType::i32), 0.5); },
              ThrowsMessage<DTypeError>(testing::AllOf(HasSubstr("0.5"), HasSubstr("i32"))));
  EXPECT_THROW(op.with_scalar(ones({2}, DType::u8), -1), DTypeError);
  EXPECT_THROW(op.with_scalar(ones({2}, DType::i32), 2147483648.0), DTypeError);
  EXPECT_THROW(op.with_scalar(ones({2}, DType::i64), 9223372036854775808.0), DTypeError);
  EXPECT_THROW(op.with_scalar(ones({2}, DType::i64), NAN), DTypeError);
  EXPECT_THROW(op.tensors(Tensor(), zeros({2})), ShapeError);
  EXPECT_THROW(op.tensors(zeros({2}), Tensor()), ShapeError);
  EXPECT_THROW(op.with_scalar(Tensor(), 1), ShapeError);
}

INSTANTIATE_TEST_SUITE_P(All, BinaryOps, testing::ValuesIn(kBinaries),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Arithmetic, FloatMatchesDoubleOnRandomMagnitudes) {
  const Tensor a = test::random_tensor({1000}, DType::f32, 3, -1e4, 1e4);
  const Tensor b = test::random_tensor({1000}, DType::f32, 4, -1e-3, 1e-3);
  for (const Binary& op : kBinaries) {
    if (std::string(op.name) == "pow") continue;
    test::expect_near(op.tensors(a, b), reference(op, a, b, {1000}), 0x1p-24, 0, op.name);
  }
}

TEST(Arithmetic, FollowsIeeeOnSpecialValues) {
  const Tensor a = from_vector<float>({INFINITY, -1, 0, NAN, 1}, {5});
  const Tensor b = from_vector<float>({-INFINITY, 0, 0, 1, NAN}, {5});
  EXPECT_TRUE(std::isnan(add(a, b).to_vector<float>()[0]));
  EXPECT_EQ(div(a, b).to_vector<float>()[1], -INFINITY);
  EXPECT_TRUE(std::isnan(div(a, b).to_vector<float>()[2]));
  for (const Tensor& extremum : {maximum(a, b), minimum(a, b)}) {
    EXPECT_TRUE(std::isnan(extremum.to_vector<float>()[3]));
    EXPECT_TRUE(std::isnan(extremum.to_vector<float>()[4]));
  }
}

TEST(Arithmetic, NegChangesTheSignOfZero) {
  for (DType dtype : kFloating)
    EXPECT_TRUE(std::signbit(neg(zeros({1}, dtype)).to_vector<double>()[0])) << to_string(dtype);
  EXPECT_EQ(neg(from_vector<int64_t>({1, -2, 0}, {3})).to_vector<int64_t>(),
            (std::vector<int64_t>{-1, 2, 0}));
  EXPECT_EQ(neg(from_vector<uint8_t>({1, 0}, {2})).to_vector<uint8_t>(),
            (std::vector<uint8_t>{255, 0}));
  EXPECT_THROW(neg(zeros({1}, DType::boolean)), DTypeError);
  EXPECT_THROW(neg(Tensor()), ShapeError);
}

TEST(Arithmetic, IntegersWrapAround) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(add(from_vector<int64_t>({kMax}, {1}), 1).item<int64_t>(), kMin);
  EXPECT_EQ(sub(from_vector<int64_t>({kMin}, {1}), 1).item<int64_t>(), kMax);
  EXPECT_EQ(mul(from_vector<int32_t>({65536}, {1}), 65536).item<int64_t>(), 0);
  EXPECT_EQ(div(from_vector<int64_t>({kMin}, {1}), -1).item<int64_t>(), kMin);
  EXPECT_EQ(div(from_vector<int32_t>({std::numeric_limits<int32_t>::min()}, {1}), -1).item<int>(),
            std::numeric_limits<int32_t>::min());
  EXPECT_EQ(add(from_vector<uint8_t>({250}, {1}), 10).item<int>(), 4);
}

TEST(Arithmetic, IntegerDivisionRoundsTowardZeroAndRefusesZero) {
  const Tensor a = from_vector<int64_t>({7, -7, 7, -7}, {4});
  const Tensor b = from_vector<int64_t>({2, 2, -2, -2}, {4});
  EXPECT_EQ(div(a, b).to_vector<int64_t>(), (std::vector<int64_t>{3, -3, -3, 3}));
  EXPECT_THAT(
      [&] {
        div(a, from_vector<int64_t>({1, 2, 0, 3}, {4}));
      },
      ThrowsMessage<ConfigError>(HasSubstr("zero")));
  EXPECT_THROW(div(ones({3}, DType::u8), 0), ConfigError);
  Tensor c = ones({100000}, DType::i32);  // on several threads
  EXPECT_THROW(div_(c, zeros({100000}, DType::i32)), ConfigError);
}

TEST(Arithmetic, IntegerPowersAreExact) {
  const Tensor base = from_vector<int64_t>({-3, 3, 2, 0, -1, 1, 2}, {7});
  const Tensor exponent = from_vector<int64_t>({3, 39, 62, 0, -3, -2, -1}, {7});
  EXPECT_EQ(pow(base, exponent).to_vector<int64_t>(),
            (std::vector<int64_t>{-27, 4052555153018976267, int64_t{1} << 62, 1, -1, 1, 0}));
  EXPECT_THROW(pow(zeros({1}, DType::i64), -1), ConfigError);
}

TEST(Arithmetic, OperatorsAreTheFunctions) {
  const Tensor a = from_vector<float>({1, 2}, {2});
  const Tensor b = from_vector<float>({4, 8}, {2});
  EXPECT_EQ((a + b * 2.0 - 1.0).to_vector<float>(), (std::vector<float>{8, 17}));
  EXPECT_EQ((1.0 - a / b).to_vector<float>(), (std::vector<float>{0.75f, 0.75f}));
  EXPECT_EQ((8.0 / b + 1.0 + -a).to_vector<float>(), (std::vector<float>{2, 0}));
}

struct InPlace {
  const char* name;
  Tensor& (*tensors)(Tensor&, const Tensor&);
  Tensor& (*with_scalar)(Tensor&, double);
  Tensor (*out_of_place)(const Tensor&, const Tensor&);
  Tensor (*out_of_place_scalar)(const Tensor&, double);
};

Tensor& plain_add(Tensor& a, const Tensor& b) {
  return add_(a, b);
}

const InPlace kInPlace[] = {{"add_", &plain_add, &add_, &add, &add},
                            {"sub_", &sub_, &sub_, &sub, &sub},
                            {"mul_", &mul_, &mul_, &mul, &mul},
                            {"div_", &div_, &div_, &div, &div}};

class InPlaceOps : public testing::TestWithParam<InPlace> {};

TEST_P(InPlaceOps, MatchTheFunctionInEveryLayoutAndType) {
  const InPlace& op = GetParam();
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32}) {
    for (const Shape& shape : {Shape{1}, Shape{15}, Shape{63, 111}}) {
      const Tensor a = test::random_tensor(shape, dtype, 1, 1, 9);
      const Tensor b = test::random_tensor(shape, dtype, 2, 1, 9);
      const Tensor row = b.select(0, 0);
      const Tensor expected = op.out_of_place(a, b);
      const Tensor expected_row = op.out_of_place(a, row);
      const Tensor expected_scalar = op.out_of_place_scalar(a, 3);
      for (const auto& layout : {+[](const Tensor& t) { return t.clone(); },
                                 +[](const Tensor& t) { return test::with_gaps(t); },
                                 +[](const Tensor& t) { return test::scattered(t); }}) {
        Tensor x = layout(a);
        const uint64_t version = x.version();
        EXPECT_EQ(&op.tensors(x, layout(b)), &x);
        EXPECT_EQ(x.to_vector<double>(), expected.to_vector<double>()) << op.name;
        EXPECT_EQ(x.version(), version + 1);
        Tensor y = layout(a);
        op.tensors(y, row);
        EXPECT_EQ(y.to_vector<double>(), expected_row.to_vector<double>()) << op.name;
        Tensor z = layout(a);
        op.with_scalar(z, 3);
        EXPECT_EQ(z.to_vector<double>(), expected_scalar.to_vector<double>()) << op.name;
      }
    }
  }
}

TEST_P(InPlaceOps, LeaveTheRestOfTheStorageAlone) {
  const InPlace& op = GetParam();
  Tensor whole = full({4, 9}, 6);
  Tensor inner = whole.slice(0, 1, 3).slice(1, 2, 7);
  op.with_scalar(inner, 2);
  const auto values = whole.to_vector<float>();
  const float changed = op.out_of_place_scalar(scalar(6), 2).item<float>();
  for (int i = 0; i < 36; ++i) {
    const bool inside = i / 9 >= 1 && i / 9 < 3 && i % 9 >= 2 && i % 9 < 7;
    EXPECT_EQ(values[static_cast<size_t>(i)], inside ? changed : 6.0f) << i;
  }
}

TEST_P(InPlaceOps, AllowAnOperandThatSharesTheMemory) {
  const InPlace& op = GetParam();
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Tensor original = test::random_tensor({64, 64}, dtype, 5, 1, 4);
    Tensor same = original.clone();
    op.tensors(same, same);
    EXPECT_EQ(same.to_vector<double>(), op.out_of_place(original, original).to_vector<double>());
    Tensor transposed = original.clone();
    op.tensors(transposed, transposed.transpose(0, 1));
    EXPECT_EQ(transposed.to_vector<double>(),
              op.out_of_place(original, original.transpose(0, 1)).to_vector<double>());
    Tensor shifted = original.clone().flatten();
    Tensor later = shifted.slice(0, 1, 4096);
    op.tensors(later, shifted.slice(0, 0, 4095));
    const Tensor flat = original.flatten();
    EXPECT_EQ(later.to_vector<double>(),
              op.out_of_place(flat.slice(0, 1, 4096), flat.slice(0, 0, 4095)).to_vector<double>());
    Tensor by_row = original.clone();
    op.tensors(by_row, by_row.select(0, 3));
    EXPECT_EQ(by_row.to_vector<double>(),
              op.out_of_place(original, original.select(0, 3)).to_vector<double>());
  }
}

TEST_P(InPlaceOps, KeepTheTypeOfTheChangedTensor) {
  const InPlace& op = GetParam();
  for (DType dtype : kFloating) {
    for (DType other : kFloating) {
      Tensor a = test::random_tensor({33}, dtype, 1, 1, 4);
      const Tensor b = test::random_tensor({33}, other, 2, 1, 4);
      const Tensor expected = op.out_of_place(a.to(DType::f64), b.to(DType::f64));
      op.tensors(a, b);
      EXPECT_EQ(a.dtype(), dtype);
      const double rounding =
          std::max(test::rounding_error(dtype), dtype == DType::f64 ? 0.0 : 0x1p-22);
      test::expect_near(a, expected.to_vector<double>(), 1.01 * rounding, 4 * rounding, op.name);
    }
  }
}

TEST_P(InPlaceOps, RefuseWhatTheyCannotDo) {
  const InPlace& op = GetParam();
  Tensor small = ones({3});
  EXPECT_THAT(
      [&] {
        op.tensors(small, ones({2, 3}));
      },
      ThrowsMessage<ShapeError>(HasSubstr(op.name)));
  EXPECT_THROW(op.tensors(small, ones({4})), ShapeError);
  EXPECT_THROW(op.tensors(small, ones({3}, DType::i32)), DTypeError);
  Tensor repeated = ones({1}).expand({3});
  EXPECT_THAT([&] { op.tensors(repeated, ones({3})); },
              ThrowsMessage<ShapeError>(HasSubstr("stride 0")));
  EXPECT_THROW(op.with_scalar(repeated, 1), ShapeError);
  Tensor flags = ones({3}, DType::boolean);
  EXPECT_THROW(op.with_scalar(flags, 1), DTypeError);
  Tensor undefined;
  EXPECT_THROW(op.with_scalar(undefined, 1), ShapeError);
  EXPECT_THROW(op.tensors(undefined, small), ShapeError);
  EXPECT_EQ(small.to_vector<float>(), (std::vector<float>{1, 1, 1}));
}

INSTANTIATE_TEST_SUITE_P(All, InPlaceOps, testing::ValuesIn(kInPlace), [](const auto& info) {
  std::string name = info.param.name;
  name.pop_back();
  return name;
});

TEST(Arithmetic, AddScalesItsSecondOperand) {
  for (DType dtype : kFloating) {
    Tensor a = test::random_tensor({15, 63}, dtype, 1);
    const Tensor b = test::random_tensor({63}, DType::bf16, 2);
    std::vector<double> expected = a.to_vector<double>();
    const auto scaled = b.to_vector<double>();
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += -0.75 * scaled[i % 63];
    add_(a, b, -0.75);
    test::expect_near(a, expected, 2 * test::rounding_error(dtype), test::rounding_error(dtype));
  }
  Tensor counts = from_vector<int32_t>({1, 2}, {2});
  add_(counts, counts, 3);
  EXPECT_EQ(counts.to_vector<int32_t>(), (std::vector<int32_t>{4, 8}));
  EXPECT_THROW(add_(counts, counts, 0.5), DTypeError);
}

TEST(Arithmetic, EmptyTensorsStayEmptyAndCountAsChanged) {
  Tensor a = empty({0, 4});
  const uint64_t version = a.version();
  EXPECT_EQ(add_(a, ones({4})).numel(), 0);
  EXPECT_GT(a.version(), version);
  EXPECT_EQ(mul(a, a).shape(), (Shape{0, 4}));
}

}  // namespace
}  // namespace weft

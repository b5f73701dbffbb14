#include "weft/tensor/ops/arithmetic.h"

#include "weft/tensor/error.h"

#include "devices.h"

namespace weft {
namespace {

using test::expect_close;
using test::expect_same;
using test::in_all_layouts;
using test::kGpu;
using test::mirrored;
using test::random_of_type;

class CudaArithmetic : public test::CudaTest {};

constexpr DType kNumeric[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                              DType::i64, DType::i32, DType::u8};

using Op = Tensor (*)(const Tensor&, const Tensor&);

struct NamedOp {
  const char* name;
  Op op;
};
constexpr NamedOp kExactOps[] = {{"add", &add},         {"sub", &sub},         {"mul", &mul},
                                 {"maximum", &maximum}, {"minimum", &minimum}, {"div", &div}};

/// Without zeros among integers, which cannot divide.
Tensor divisor(const Shape& shape, DType dtype, uint64_t seed) {
  if (is_floating(dtype)) return random_of_type(shape, dtype, seed);
  return test::random_tensor(shape, dtype, seed, 1, 9);
}

TEST_F(CudaArithmetic, EqualsTheCpuInEveryTypeAndShape) {
  for (const DType dtype : kNumeric) {
    for (const Shape& shape : test::elementwise_shapes()) {
      const Tensor a = random_of_type(shape, dtype, 1);
      const Tensor b = divisor(shape, dtype, 2);
      for (const auto& [name, op] : kExactOps)
        expect_same(op(mirrored(a), mirrored(b)), op(a, b), name);
    }
  }
}

TEST_F(CudaArithmetic, EqualsTheCpuInEveryLayout) {
  for (const DType dtype : kNumeric) {
    const Tensor a = random_of_type({7, 24, 33}, dtype, 1);
    const Tensor b = divisor({7, 24, 33}, dtype, 2);
    for (const Tensor& x : in_all_layouts(a)) {
      for (const Tensor& y : in_all_layouts(b)) {
        expect_same(sub(mirrored(x), mirrored(y)), sub(a, b), "sub");
        expect_same(div(mirrored(x), mirrored(y)), div(a, b), "div");
      }
    }
  }
}

TEST_F(CudaArithmetic, Broadcasts) {
  for (const DType dtype : kNumeric) {
    const Tensor a = random_of_type({6, 5, 32}, dtype, 1);
    for (const Shape& shape : std::vector<Shape>{
             {32}, {5, 1}, {6, 1, 1}, {1}, {}, {6, 5, 1}, {1, 5, 32}, {4, 1, 1, 1}}) {
      const Tensor b = divisor(shape, dtype, 2);
      expect_same(add(mirrored(a), mirrored(b)), add(a, b), "add");
      expect_same(div(mirrored(a), mirrored(b)), div(a, b), "div");
      expect_same(sub(mirrored(b), mirrored(a)), sub(b, a), "sub");
    }
  }
}

TEST_F(CudaArithmetic, TakesScalars) {
  for (const DType dtype : kNumeric) {
    for (const int64_t size : {1, 15, 1000}) {
      const Tensor a = divisor({size}, dtype, 3);
      expect_same(add(mirrored(a), 3), add(a, 3), "x + 3");
      expect_same(sub(7, mirrored(a)), sub(7, a), "7 - x");
      expect_same(div(mirrored(a), 2), div(a, 2), "x / 2");
      expect_same(div(100, mirrored(a)), div(100, a), "100 / x");
      expect_same(neg(mirrored(a)), neg(a), "-x");
    }
  }
}

TEST_F(CudaArithmetic, RaisesToPowers) {
  for (const DType dtype : kNumeric) {
    const Tensor base = is_floating(dtype) ? test::random_tensor({77}, dtype, 4, 0.1, 3)
                                           : random_of_type({77}, dtype, 4);
    const Tensor exponent = is_floating(dtype) ? random_of_type({77}, dtype, 5)
                                               : test::random_tensor({77}, dtype, 5, 0, 6);
    // pow() of the toolkit is within 2 units in the last place of f64 and 4 of f32.
    const double bound = is_floating(dtype) ? 8 * test::rounding_error(dtype) : 0;
    expect_close(pow(mirrored(base), mirrored(exponent)), pow(base, exponent), bound, 0, "pow");
  }
}

TEST_F(CudaArithmetic, PropagatesNanAndInfinity) {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    const std::vector<double> values{inf, -inf, nan, 0.0, -0.0, 1.0, -1.0, 60000.0, 1e-7};
    const Tensor column = from_vector(values, {9, 1}).to(dtype);
    const Tensor row = from_vector(values, {1, 9}).to(dtype);
    for (const auto& [name, op] : kExactOps)
      expect_same(op(mirrored(column), mirrored(row)), op(column, row), name);
  }
}

TEST_F(CudaArithmetic, WrapsIntegersAround) {
  const Tensor low = from_vector<int64_t>({INT64_MIN, INT64_MAX, -1}, {3});
  const Tensor high = from_vector<int64_t>({-1, 2, INT64_MIN}, {3});
  for (const auto& [name, op] : kExactOps)
    expect_same(op(mirrored(low), mirrored(high)), op(low, high), name);
}

TEST_F(CudaArithmetic, ChangesInPlace) {
  for (const DType dtype : kNumeric) {
    const Tensor a = random_of_type({12, 20}, dtype, 6);
    const Tensor b = divisor({12, 20}, dtype, 7);
    for (const Tensor& layout : in_all_layouts(a)) {
      Tensor expected = a.clone();
      Tensor actual = mirrored(layout);
      const uint64_t version = actual.version();
      div_(mul_(sub_(add_(expected, b), 3), b), b);
      div_(mul_(sub_(add_(actual, mirrored(b)), 3), mirrored(b)), mirrored(b));
      expect_same(actual, expected, "in place");
      EXPECT_GT(actual.version(), version);
    }
  }
}

TEST_F(CudaArithmetic, AddsScaledAndOfOtherTypes) {
  for (const DType dtype : kNumeric) {
    Tensor expected = random_of_type({9, 31}, dtype, 8);
    Tensor actual = mirrored(expected);
    const Tensor b = random_of_type({9, 31}, dtype, 9);
    add_(expected, b, 2);
    add_(actual, mirrored(b), 2);
    expect_same(actual, expected, "a + 2 b");
  }
  for (const DType to : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (const DType from : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      Tensor expected = random_of_type({9, 31}, to, 8);
      Tensor actual = mirrored(expected);
      const Tensor b = random_of_type({9, 31}, from, 9);
      add_(expected, b);
      add_(actual, mirrored(b));
      // The CPU rounds an f64 to the type computed in before it adds.
      expect_close(actual, expected, 2 * test::rounding_error(to), 1e-6, "a + b");
    }
  }
}

TEST_F(CudaArithmetic, ReportsDivisionByZero) {
  const Tensor a = mirrored(from_vector<int32_t>({1, 2, 3}, {3}));
  const Tensor zero = mirrored(from_vector<int32_t>({1, 0, 3}, {3}));
  const Tensor quotient = div(a, zero);
  try {
    quotient.to(kCpu);
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("div"), std::string::npos) << error.what();
  }
  EXPECT_EQ(add(a, zero).to_vector<int32_t>(), (std::vector<int32_t>{2, 2, 6}));  // once
}

TEST_F(CudaArithmetic, RefusesOperandsOfTwoDevices) {
  EXPECT_THROW(add(ones({2}), ones({2}, DType::f32, kGpu)), DeviceError);
}

}  // namespace
}  // namespace weft

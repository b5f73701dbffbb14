#include "weft/tensor/ops/unary.h"

#include <limits>

#include "devices.h"

namespace weft {
namespace {

using test::expect_close;
using test::expect_same;
using test::in_all_layouts;
using test::kGpu;
using test::mirrored;
using test::random_of_type;

class CudaUnary : public test::CudaTest {};

struct NamedFunction {
  const char* name;
  Tensor (*function)(const Tensor&);
  double low, high;
};
constexpr NamedFunction kFunctions[] = {
    {"exp", &exp, -20, 20},         {"expm1", &expm1, -3, 3}, {"log", &log, 1e-3, 50},
    {"log1p", &log1p, -0.9, 9},     {"sqrt", &sqrt, 0, 50},   {"rsqrt", &rsqrt, 0.1, 50},
    {"sin", &sin, -40, 40},         {"cos", &cos, -40, 40},   {"tanh", &tanh, -6, 6},
    {"sigmoid", &sigmoid, -20, 20}, {"erf", &erf, -4, 4},     {"reciprocal", &reciprocal, 1, 9}};
constexpr NamedFunction kExact[] = {
    {"square", &square, 0, 0}, {"abs", &abs, 0, 0}, {"relu", &relu, 0, 0}, {"sign", &sign, 0, 0}};
constexpr NamedFunction kSteps[] = {
    {"floor", &floor, 0, 0}, {"ceil", &ceil, 0, 0}, {"round", &round, 0, 0}};
constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

/// Both sides are within a few units in the last place before they are rounded to a half type.
double bound(DType dtype) {
  const bool is_half = dtype == DType::bf16 || dtype == DType::f16;
  return (is_half ? 2.1 : 16) * test::rounding_error(dtype);
}

TEST_F(CudaUnary, FollowsTheCpuInEveryTypeAndLayout) {
  for (const auto& [name, function, low, high] : kFunctions) {
    for (const DType dtype : kFloating) {
      for (const Shape& shape : test::elementwise_shapes()) {
        const Tensor x = test::random_tensor(shape, dtype, 1, low, high);
        expect_close(function(mirrored(x)), function(x), bound(dtype), bound(dtype), name);
      }
      const Tensor x = test::random_tensor({9, 5, 24}, dtype, 2, low, high);
      for (const Tensor& layout : in_all_layouts(x))
        expect_close(function(mirrored(layout)), function(x), bound(dtype), bound(dtype), name);
    }
  }
}

TEST_F(CudaUnary, EqualsTheCpuWhereNothingIsRounded) {
  for (const DType dtype :
       {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8}) {
    const Tensor x = random_of_type({13, 40}, dtype, 3);
    for (const Tensor& layout : in_all_layouts(x)) {
      for (const auto& [name, function, low, high] : kExact)
        expect_same(function(mirrored(layout)), function(x), name);
      expect_same(clamp(mirrored(layout), 0.5, 20.5), clamp(x, 0.5, 20.5), "clamp");
      if (!is_floating(dtype)) continue;
      for (const auto& [name, function, low, high] : kSteps)
        expect_same(function(mirrored(layout)), function(x), name);
    }
  }
}

TEST_F(CudaUnary, TreatsSpecialValuesAlike) {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : kFloating) {
    const Tensor x =
        from_vector<double>({inf, -inf, nan, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 100},
                            {13})
            .to(dtype);
    for (const auto& [name, function, low, high] : kFunctions)
      expect_close(function(mirrored(x)), function(x), bound(dtype), bound(dtype), name);
    for (const auto& [name, function, low, high] : kExact)
      expect_same(function(mirrored(x)), function(x), name);
    for (const auto& [name, function, low, high] : kSteps)
      expect_same(function(mirrored(x)), function(x), name);
    expect_same(clamp(mirrored(x), -1, 2), clamp(x, -1, 2), "clamp");
  }
}

TEST_F(CudaUnary, FollowsTheCpuBackward) {
  for (int i = 0; i <= static_cast<int>(UnaryFunction::erf); ++i) {
    const auto function = static_cast<UnaryFunction>(i);
    for (const DType dtype : kFloating) {
      const Tensor saved = test::random_tensor({13, 40}, dtype, 4, 0.05, 1);
      const Tensor dy = random_of_type({13, 40}, dtype, 5);
      for (const Tensor& layout : in_all_layouts(saved)) {
        expect_close(unary_backward(function, mirrored(layout), mirrored(dy)),
                     unary_backward(function, saved, dy), bound(dtype), bound(dtype),
                     std::to_string(i).c_str());
      }
    }
  }
  for (const DType dtype : kFloating) {
    const Tensor x = random_of_type({13, 40}, dtype, 6);
    const Tensor dy = random_of_type({13, 40}, dtype, 7);
    for (const Tensor& layout : in_all_layouts(x)) {
      expect_same(clamp_backward(mirrored(layout), -1, 0.5, mirrored(dy)),
                  clamp_backward(x, -1, 0.5, dy), "clamp_backward");
    }
  }
}

}  // namespace
}  // namespace weft

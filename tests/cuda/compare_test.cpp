#include "weft/tensor/ops/compare.h"

#include <limits>

#include "devices.h"

namespace weft {
namespace {

using test::expect_same;
using test::in_all_layouts;
using test::kGpu;
using test::mirrored;
using test::random_of_type;

class CudaCompare : public test::CudaTest {};

struct NamedOp {
  const char* name;
  Tensor (*op)(const Tensor&, const Tensor&);
  Tensor (*with_scalar)(const Tensor&, double);
};
constexpr NamedOp kOps[] = {{"eq", &eq, &eq}, {"ne", &ne, &ne}, {"lt", &lt, &lt},
                            {"le", &le, &le}, {"gt", &gt, &gt}, {"ge", &ge, &ge}};

/// Few different values, so that many are equal.
Tensor coarse(const Shape& shape, DType dtype, uint64_t seed) {
  return test::random_tensor(shape, DType::i32, seed, 0, 3).to(dtype);
}

TEST_F(CudaCompare, EqualsTheCpu) {
  for (const DType dtype : kEveryDType) {
    for (const Shape& shape : test::elementwise_shapes()) {
      const Tensor a = coarse(shape, dtype, 1);
      const Tensor b = coarse(shape, dtype, 2);
      for (const auto& [name, op, with_scalar] : kOps) {
        expect_same(op(mirrored(a), mirrored(b)), op(a, b), name);
        expect_same(with_scalar(mirrored(a), 1), with_scalar(a, 1), name);
      }
    }
    const Tensor a = coarse({7, 3, 20}, dtype, 3);
    const Tensor row = coarse({20}, dtype, 4);
    for (const Tensor& layout : in_all_layouts(a))
      expect_same(lt(mirrored(layout), mirrored(row)), lt(a, row), "lt");
  }
}

TEST_F(CudaCompare, CombinesBooleans) {
  const Tensor a = random_of_type({100, 3}, DType::boolean, 5);
  const Tensor b = random_of_type({100, 3}, DType::boolean, 6);
  expect_same(logical_and(mirrored(a), mirrored(b)), logical_and(a, b));
  expect_same(logical_or(mirrored(a), mirrored(b)), logical_or(a, b));
  expect_same(logical_xor(mirrored(a), mirrored(b)), logical_xor(a, b));
  expect_same(logical_not(mirrored(a)), logical_not(a));
}

TEST_F(CudaCompare, Chooses) {
  for (const DType dtype : kEveryDType) {
    const Tensor a = random_of_type({6, 5, 32}, dtype, 7);
    const Tensor b = random_of_type({6, 5, 32}, dtype, 8);
    const Tensor condition = random_of_type({5, 32}, DType::boolean, 9);
    for (const Tensor& layout : in_all_layouts(a)) {
      expect_same(where(mirrored(condition), mirrored(layout), mirrored(b)),
                  where(condition, a, b));
      expect_same(where(mirrored(condition), mirrored(layout), 1), where(condition, a, 1));
      expect_same(where(mirrored(condition), 0, mirrored(layout)), where(condition, 0, a));
    }
  }
}

TEST_F(CudaCompare, FindsNanAndInfinity) {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    const Tensor x = from_vector<double>({1, inf, -inf, nan, 0, -0.0, 60000}, {7}).to(dtype);
    expect_same(isnan(mirrored(x)), isnan(x));
    expect_same(isfinite(mirrored(x)), isfinite(x));
    EXPECT_FALSE(all_finite(mirrored(x)));
    const Tensor many = random_of_type({1000, 77}, dtype, 10);
    EXPECT_TRUE(all_finite(mirrored(many)));
    for (const int64_t at : {0, 38499, 76999}) {
      for (const double bad : {inf, -inf, nan}) {
        Tensor damaged = mirrored(many.clone());
        damaged.view({-1}).slice(0, at, at + 1).fill_(bad);
        EXPECT_FALSE(all_finite(damaged)) << at;
        EXPECT_FALSE(all_finite(damaged.transpose(0, 1))) << at;
      }
    }
  }
}

}  // namespace
}  // namespace weft

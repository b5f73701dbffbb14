#include "weft/tensor/ops/reduce.h"

#include "weft/tensor/ops/arithmetic.h"

#include "close_bounds.h"

namespace weft {
namespace {

using test::expect_close;
using test::expect_rounded;
using test::expect_same;
using test::in_all_layouts;
using test::kFloating;
using test::mirrored;
using test::random_of_type;
using test::random_tensor;

class CudaReduce : public test::CudaTest {};

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void expect_reductions(const Tensor& x, const Axes& axes) {
  const Tensor g = mirrored(x);
  const double count = static_cast<double>(x.numel());
  expect_same(any(g, axes), any(x, axes), "any");
  expect_same(all(g, axes), all(x, axes), "all");
  if (is_floating(x.dtype())) {
    expect_rounded(sum(g, axes), sum(x, axes), "sum", 1 + count / 50);
    expect_rounded(mean(g, axes), mean(x, axes), "mean");
    expect_rounded(var(g, axes), var(x, axes), "var");
    for (const double p : {1.0, 2.0, 3.5, kInfinity}) {
      expect_rounded(norm(g, axes, p), norm(x, axes, p), "norm", 4);
    }
    expect_rounded(logsumexp(g, axes), logsumexp(x, axes), "logsumexp", 4);
  } else {
    expect_same(sum(g, axes), sum(x, axes), "sum");
  }
  if (x.dtype() == DType::boolean) return;
  expect_same(max(g, axes), max(x, axes), "max");
  expect_same(min(g, axes), min(x, axes), "min");
}

void expect_arg(const Tensor& x, int axis) {
  expect_same(argmax(mirrored(x), axis), argmax(x, axis), "argmax");
  expect_same(argmin(mirrored(x), axis), argmin(x, axis), "argmin");
}

TEST_F(CudaReduce, EqualsTheCpuOverAnyAxesInEveryLayout) {
  const std::vector<std::vector<int>> choices{{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}, {0, 1, 2}};
  for (const DType dtype : kEveryDType) {
    for (const Tensor& x : in_all_layouts(random_of_type({7, 33, 24}, dtype, 1))) {
      for (const auto& axes : choices) expect_reductions(x, axes);
      if (dtype == DType::boolean) continue;
      for (int axis = 0; axis < 3; ++axis) expect_arg(x, axis);
    }
  }
}

TEST_F(CudaReduce, EqualsTheCpuForLongAndShortAxes) {
  for (const DType dtype : kEveryDType) {
    for (const Shape& shape : std::vector<Shape>{
             {1, 1},       {5, 9},       {3, 40000},  {40000, 3},  {1, 300001},
             {65536, 16},  {300, 2048},  {2048, 300}, {200000, 1}, {4101, 16},  // short rows
             {999, 64},    {997, 72},    {4100, 256},  // a warp a row, several rows
             {4099, 264},                              // longer than short rows
             {5000, 2056}, {700, 8},                   // one pack across
             {3001, 24},                               // three packs across
             {515, 520},                               // more packs than a warp
             {513, 128},   {77, 1024},                 // two rows a warp, the last alone
             {3, 16384},                               // blocks in one step and beyond
             {2, 16392},   {1, 1 << 20}, {16, 65536},  // columns and hardly any rows
             {24, 32776},  {70001, 16}}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << " " << to_string(shape));
      const Tensor x = random_of_type(shape, dtype, 2);
      expect_reductions(x, 0);
      expect_reductions(x, 1);
      expect_reductions(x, {});
      if (dtype == DType::boolean) continue;
      expect_arg(x, 0);
      expect_arg(x, 1);
    }
  }
}

TEST_F(CudaReduce, KeepsNanAndInfinity) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : kFloating) {
    for (const int64_t length : {5, 400, 5000}) {
      Tensor x = random_tensor({6, length}, dtype, 3);
      x.select(0, 1).select(0, length / 2).fill_(nan);
      x.select(0, 2).select(0, length - 1).fill_(kInfinity);
      x.select(0, 3).fill_(-kInfinity);
      x.select(0, 4).select(0, 0).fill_(-kInfinity);
      const Tensor g = mirrored(x);
      for (const int axis : {0, 1}) {
        expect_arg(x, axis);
        expect_same(max(g, axis), max(x, axis), "max");
        expect_same(min(g, axis), min(x, axis), "min");
        expect_rounded(logsumexp(g, axis), logsumexp(x, axis), "logsumexp", 4);
        expect_rounded(norm(g, axis, kInfinity), norm(x, axis, kInfinity), "norm");
      }
    }
  }
}

TEST_F(CudaReduce, KeepsNanAndInfinityInRowsAndColumnsOfEveryLength) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const int64_t length : {64, 256, 264, 1024, 2048, 2056, 4096, 20000, 70000}) {
      Tensor x = random_tensor({16, length}, dtype, 8);
      x.select(0, 1).select(0, length - 9).fill_(nan);
      x.select(0, 1).select(0, length - 1).fill_(nan);
      x.select(0, 2).select(0, length / 2).fill_(kInfinity);
      x.select(0, 3).fill_(-kInfinity);
      x.select(0, 4).fill_(kInfinity);
      x.select(0, 5).select(0, length - 1).fill_(-kInfinity);
      x.select(0, 6).slice(0, 0, length - 1).fill_(-kInfinity);
      x.select(0, 7).fill_(nan);
      for (const Tensor& y : {x, x.transpose(0, 1).clone()}) {
        const int axis = y.size(0) == 16 ? 1 : 0;
        SCOPED_TRACE(testing::Message() << to_string(dtype) << " " << to_string(y.shape()));
        const Tensor g = mirrored(y);
        expect_arg(y, axis);
        expect_same(max(g, axis), max(y, axis), "max");
        expect_same(min(g, axis), min(y, axis), "min");
        expect_same(any(g, axis), any(y, axis), "any");
        expect_rounded(logsumexp(g, axis), logsumexp(y, axis), "logsumexp", 4);
        for (const double p : {1.0, 2.0, kInfinity}) {
          expect_rounded(norm(g, axis, p), norm(y, axis, p), "norm", 4);
        }
      }
    }
  }
}

TEST_F(CudaReduce, NormsOfValuesWhoseSquaresLeaveTheRangeOfFloats) {
  for (const double size : {1e-30, 1e-22, 1e-12, 1e15, 1e22, 1e35}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Shape& shape : std::vector<Shape>{{40, 64}, {9, 5000}, {300, 2048}, {5000, 16}}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << " " << to_string(shape));
        Tensor x = mul(random_tensor(shape, dtype, 9), size);
        x.select(0, 1).fill_(0);
        x.select(1, 1).fill_(0);
        for (const Axes& axes : {Axes(0), Axes(1), Axes()}) {
          expect_close(norm(mirrored(x), axes), norm(x.to(DType::f64), axes).to(dtype),
                       dtype == DType::f32 ? 1e-5 : 0.0045, 0, "norm");
        }
      }
    }
  }
}

TEST_F(CudaReduce, ReducesRowsThatBeginAnywhereAndAxesApart) {
  for (const DType dtype : kFloating) {
    const Tensor all = random_tensor({10, 12, 2080}, dtype, 10);
    for (const Tensor& x : {all.slice(2, 1, 2049), all.slice(2, 8, 2056), all.slice(2, 8, 72),
                            all.slice(2, 16, 2072).slice(1, 3, 12), all.select(1, 5)}) {
      for (int axis = 0; axis < x.rank(); ++axis) {
        expect_reductions(x, axis);
        expect_arg(x, axis);
      }
      expect_reductions(x, {0, x.rank() - 1});
    }
  }
}

TEST_F(CudaReduce, GivesTheSameTwice) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Shape& shape :
         std::vector<Shape>{{3000, 64}, {3, 200000}, {20000, 72}, {64, 2048}}) {
      const Tensor g = mirrored(random_tensor(shape, dtype, 11));
      for (const Axes& axes : {Axes(0), Axes(1), Axes()}) {
        const auto all_of = [&] {
          return std::vector<Tensor>{sum(g, axes), var(g, axes), norm(g, axes), logsumexp(g, axes)};
        };
        const auto first = all_of();
        for (int i = 0; i < 3; ++i) {
          const auto again = all_of();
          for (size_t op = 0; op < first.size(); ++op) {
            expect_same(again[op], first[op].to(kCpu), "again");
          }
        }
      }
    }
  }
}

TEST_F(CudaReduce, FindsTheFirstOfEquals) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::u8}) {
    for (const Shape& shape : std::vector<Shape>{
             {40, 5000}, {5000, 40}, {4100, 264}, {9, 70}, {40, 64}, {33, 256}, {7, 30000}}) {
      expect_arg(full(shape, 3, dtype), 0);
      expect_arg(full(shape, 3, dtype), 1);
      const Tensor few = random_tensor(shape, DType::i32, 5, 0, 3).to(dtype);
      expect_arg(few, 0);
      expect_arg(few, 1);
      if (dtype == DType::u8) continue;
      const Tensor zeros_of_both_signs = mul(sub(few.to(DType::f32), 1.0), 0.0).to(dtype);
      expect_arg(zeros_of_both_signs, 0);
      expect_arg(zeros_of_both_signs, 1);
    }
  }
}

TEST_F(CudaReduce, VarianceOfValuesFarFromZeroAndFromTheFirst) {
  for (const DType dtype : kFloating) {
    const auto expect_var = [dtype](const Tensor& x, const char* what) {
      for (const int axis : {0, 1}) {
        expect_rounded(var(mirrored(x), axis), var(x.to(DType::f64), axis).to(dtype), what);
      }
    };
    Tensor x = random_tensor({4100, 264}, dtype, 6, 100, 108);
    expect_var(x, "far from zero");
    x.select(1, 0).fill_(dtype == DType::f16 ? 2000 : 1e15);
    x.select(0, 0).fill_(-2000);
    expect_var(x, "behind a large element");
    expect_var(full({40, 264}, dtype == DType::f16 ? 60000 : 3e38, dtype), "of large equals");
  }
}

TEST_F(CudaReduce, ReducesNothing) {
  for (const DType dtype : kFloating) {
    const Tensor x = empty({4, 0, 3}, dtype);
    const Tensor g = mirrored(x);
    expect_same(sum(g, 1), sum(x, 1), "sum");
    expect_same(mean(g, 1), mean(x, 1), "mean");
    expect_same(any(g, 1), any(x, 1), "any");
    expect_same(all(g, 1), all(x, 1), "all");
    expect_same(logsumexp(g, 1), logsumexp(x, 1), "logsumexp");
  }
}

TEST_F(CudaReduce, KeepsLongSumsAccurateAndRepeatsThem) {
  const Tensor x = random_tensor({1 << 21}, DType::f32, 4, 0, 1);
  const Tensor g = mirrored(x);
  const Tensor total = sum(g);
  expect_close(total, sum(x), 1e-6, 0, "sum");
  for (int i = 0; i < 4; ++i) expect_same(sum(g), total.to(kCpu), "again");
}

}  // namespace
}  // namespace weft

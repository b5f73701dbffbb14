#include "weft/tensor/ops/matmul.h"

#include <cmath>

#include "weft/tensor/ops/linear.h"

#include "devices.h"

namespace weft {
namespace {

using test::expect_close;
using test::mirrored;
using test::random_tensor;

class CudaMatmul : public test::CudaTest {};

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

/// What rounding of sums over K, and of the result, can cost.
double tolerance(DType dtype, int64_t k) {
  const double size = std::sqrt(static_cast<double>(std::max<int64_t>(k, 1)));
  switch (dtype) {
    case DType::f64:
      return 1e-14 * size;
    case DType::f32:
      return 1e-6 * size;
    case DType::bf16:
      return 0.008 * size;
    default:
      return 0.001 * size;
  }
}

struct Sizes {
  int64_t m, n, k;
};
constexpr Sizes kSizes[] = {{1, 1, 1},    {1, 64, 33},    {63, 1, 15},  {5, 7, 0},
                            {17, 31, 63}, {128, 64, 256}, {65, 129, 31}};

TEST_F(CudaMatmul, EqualsTheCpuWithOperandsTurned) {
  for (const DType dtype : kFloating) {
    for (const auto& [m, n, k] : kSizes) {
      for (const bool turn_a : {false, true}) {
        for (const bool turn_b : {false, true}) {
          const Tensor a = random_tensor(turn_a ? Shape{k, m} : Shape{m, k}, dtype, 1);
          const Tensor b = random_tensor(turn_b ? Shape{n, k} : Shape{k, n}, dtype, 2);
          const MatmulOptions options{.transpose_a = turn_a, .transpose_b = turn_b, .alpha = 0.5};
          expect_close(matmul(mirrored(a), mirrored(b), options), matmul(a, b, options), 0,
                       tolerance(dtype, k));
        }
      }
    }
  }
}

TEST_F(CudaMatmul, ReadsEveryLayout) {
  for (const DType dtype : kFloating) {
    const Tensor a = random_tensor({3, 20, 33}, dtype, 1);
    const Tensor b = random_tensor({3, 33, 18}, dtype, 2);
    const Tensor expected = matmul(a, b);
    for (const Tensor& x : test::in_all_layouts(a)) {
      for (const Tensor& y : test::in_all_layouts(b))
        expect_close(matmul(mirrored(x), mirrored(y)), expected, 0, tolerance(dtype, 33));
    }
  }
}

TEST_F(CudaMatmul, BroadcastsBatches) {
  for (const DType dtype : kFloating) {
    const Tensor a = random_tensor({4, 1, 9, 16}, dtype, 1);
    const Tensor b = random_tensor({3, 16, 10}, dtype, 2);
    expect_close(matmul(mirrored(a), mirrored(b)), matmul(a, b), 0, tolerance(dtype, 16));
    const Tensor row = random_tensor({16}, dtype, 3);
    expect_close(matmul(mirrored(row), mirrored(b)), matmul(row, b), 0, tolerance(dtype, 16));
    expect_close(matmul(mirrored(a), mirrored(row)), matmul(a, row), 0, tolerance(dtype, 16));
  }
}

TEST_F(CudaMatmul, AddsIntoAnyLayout) {
  for (const DType dtype : kFloating) {
    const Tensor a = random_tensor({2, 12, 40}, dtype, 1);
    const Tensor b = random_tensor({2, 40, 24}, dtype, 2);
    for (const double beta : {0.0, 1.0, -0.5}) {
      for (const Tensor& start : test::in_all_layouts(random_tensor({2, 12, 24}, dtype, 3))) {
        Tensor on_cpu = mirrored(start, kCpu), on_gpu = mirrored(start);
        matmul_into(on_cpu, a, b, beta);
        matmul_into(on_gpu, mirrored(a), mirrored(b), beta);
        expect_close(on_gpu, on_cpu, 0, tolerance(dtype, 40) * 2);
      }
    }
  }
}

TEST_F(CudaMatmul, IgnoresNaNInAnOutputThatIsReplaced) {
  for (const int64_t k : {0, 16}) {
    const Tensor a = random_tensor({8, k}, DType::f32, 1), b = random_tensor({k, 8}, DType::f32, 2);
    Tensor out = mirrored(full({8, 8}, std::nan(""), DType::f32));
    matmul_into(out, mirrored(a), mirrored(b), 0);
    expect_close(out, matmul(a, b), 0, 1e-5);
  }
}

TEST_F(CudaMatmul, KeepsTheSumsOfHalfTypesInFloat) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Tensor a = random_tensor({33, 500}, dtype, 1), b = random_tensor({500, 65}, dtype, 2);
    const MatmulOptions wide{.out_dtype = DType::f32};
    expect_close(matmul(mirrored(a), mirrored(b), wide), matmul(a, b, wide), 0, 1e-4);
  }
}

TEST_F(CudaMatmul, LinearAndItsGradientsEqualTheCpu) {
  for (const DType dtype : kFloating) {
    for (const DType weight_dtype : {dtype, dtype == DType::f64 ? DType::f64 : DType::f32}) {
      const Tensor x = random_tensor({3, 21, 48}, dtype, 1);
      const Tensor weight = random_tensor({40, 48}, weight_dtype, 2);
      const Tensor bias = random_tensor({40}, weight_dtype, 3);
      const Tensor dy = random_tensor({3, 21, 40}, dtype, 4);
      const double bound = 2 * tolerance(dtype, 63);
      expect_close(linear(mirrored(x), mirrored(weight)), linear(x, weight), 0, bound);
      expect_close(linear(mirrored(x), mirrored(weight), mirrored(bias)), linear(x, weight, bias),
                   0, bound);
      expect_close(linear_backward_input(mirrored(dy), mirrored(weight)),
                   linear_backward_input(dy, weight), 0, bound);
      expect_close(linear_backward_weight(mirrored(dy), mirrored(x), weight_dtype),
                   linear_backward_weight(dy, x, weight_dtype), 0, bound);
      expect_close(linear_backward_bias(mirrored(dy), weight_dtype),
                   linear_backward_bias(dy, weight_dtype), 0, bound);
    }
  }
}

TEST_F(CudaMatmul, FollowsAWeightThatChanges) {
  const Tensor x = random_tensor({5, 16}, DType::bf16, 1);
  Tensor weight = random_tensor({8, 16}, DType::f32, 2), moved = mirrored(weight);
  expect_close(linear(mirrored(x), moved), linear(x, weight), 0, 0.1);
  weight.fill_(0.25);
  moved.fill_(0.25);
  expect_close(linear(mirrored(x), moved), linear(x, weight), 0, 0.05);
}

TEST_F(CudaMatmul, RepeatsToTheBit) {
  const Tensor a = mirrored(random_tensor({64, 8192}, DType::bf16, 1));
  const Tensor b = mirrored(random_tensor({8192, 64}, DType::bf16, 2));
  const Tensor first = matmul(a, b).to(kCpu);
  for (int i = 0; i < 5; ++i) test::expect_same(matmul(a, b), first);
}

}  // namespace
}  // namespace weft

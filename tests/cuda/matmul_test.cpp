#include "weft/tensor/ops/matmul.h"

#include <cmath>
#include <functional>
#include <iostream>
#include <vector>

#include "weft/autograd/functions/linear.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/linear.h"

#include "devices.h"
#include "ops/gemm.h"

namespace weft {
namespace {

using test::expect_close;
using test::mirrored;
using test::random_tensor;

class CudaMatmul : public test::CudaTest {};

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

/// What tensor cores may lose of a sum of k products of half types with terms up to 4: they cut
/// off, not round, what a sum of 16 products more has beyond an f32, up to a unit of the sum so
/// far. That grows as the root of k.
double cut_off(DType operands, int64_t k) {
  if (operands != DType::bf16 && operands != DType::f16) return 0;
  const auto count = static_cast<double>(k);
  return 0x1p-23 * 4 * std::sqrt(count) * std::ceil(count / 16);
}

/// Equal but for the rounding of sums over K, whose terms are at most 4, and of the result: the two
/// devices may fall on either side of a border. `lost` comes on top.
void expect_product(const Tensor& on_gpu, const Tensor& on_cpu, int64_t k, const char* what = "",
                    double lost = 0) {
  const DType dtype = on_cpu.dtype();
  const double sum_unit = dtype == DType::f64 ? 0x1p-52 : 0x1p-23;
  const double result_unit = dtype == DType::bf16  ? 0x1p-7
                             : dtype == DType::f16 ? 0x1p-10
                                                   : 4 * sum_unit;
  expect_close(on_gpu, on_cpu, result_unit, 2 * sum_unit * static_cast<double>(k + 1) + lost, what);
}

/// A sum of a product and what is added to it, all in f64. Some algorithms of the library round the
/// product to the type of the result before they add, so half a unit of either is allowed.
void expect_sum(const Tensor& on_gpu, const Tensor& product, const Tensor& sum, int64_t k) {
  const DType dtype = on_gpu.dtype();
  const double half_unit = dtype == DType::bf16  ? 0x1p-8
                           : dtype == DType::f16 ? 0x1p-11
                           : dtype == DType::f32 ? 0x1p-24
                                                 : 0x1p-53;
  const double sum_unit = dtype == DType::f64 ? 0x1p-52 : 0x1p-23;
  const std::vector<double> actual = on_gpu.to_vector<double>();
  const std::vector<double> products = product.to_vector<double>();
  const std::vector<double> expected = sum.to_vector<double>();
  ASSERT_EQ(on_gpu.shape(), sum.shape());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double bound = 1.01 * half_unit * (std::fabs(products[i]) + std::fabs(expected[i])) +
                         2 * sum_unit * static_cast<double>(k + 1);
    ASSERT_LE(std::fabs(actual[i] - expected[i]), bound)
        << "element " << i << " of " << describe(on_gpu) << " is " << actual[i] << ", expected "
        << expected[i];
  }
}

Tensor exact(const Tensor& x) {
  return x.to(DType::f64);
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
          expect_product(matmul(mirrored(a), mirrored(b), options), matmul(a, b, options), k);
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
        expect_product(matmul(mirrored(x), mirrored(y)), expected, 33);
    }
  }
}

TEST_F(CudaMatmul, BroadcastsBatches) {
  for (const DType dtype : kFloating) {
    const Tensor a = random_tensor({4, 1, 9, 16}, dtype, 1);
    const Tensor b = random_tensor({3, 16, 10}, dtype, 2);
    expect_product(matmul(mirrored(a), mirrored(b)), matmul(a, b), 16);
    const Tensor row = random_tensor({16}, dtype, 3);
    expect_product(matmul(mirrored(row), mirrored(b)), matmul(row, b), 16);
    expect_product(matmul(mirrored(a), mirrored(row)), matmul(a, row), 16);
  }
}

TEST_F(CudaMatmul, AddsIntoAnyLayout) {
  for (const DType dtype : kFloating) {
    const Tensor a = random_tensor({2, 12, 40}, dtype, 1);
    const Tensor b = random_tensor({2, 40, 24}, dtype, 2);
    const Tensor product = matmul(exact(a), exact(b));
    for (const double beta : {0.0, 1.0, -0.5}) {
      for (const Tensor& start : test::in_all_layouts(random_tensor({2, 12, 24}, dtype, 3))) {
        Tensor on_gpu = mirrored(start);
        matmul_into(on_gpu, mirrored(a), mirrored(b), beta);
        expect_sum(on_gpu, product, add(product, mul(exact(start), beta)), 40);
      }
    }
  }
}

TEST_F(CudaMatmul, IgnoresNaNInAnOutputThatIsReplaced) {
  for (const int64_t k : {0, 16}) {
    const Tensor a = random_tensor({8, k}, DType::f32, 1), b = random_tensor({k, 8}, DType::f32, 2);
    Tensor out = mirrored(full({8, 8}, std::nan(""), DType::f32));
    matmul_into(out, mirrored(a), mirrored(b), 0);
    expect_product(out, matmul(a, b), k);
  }
}

TEST_F(CudaMatmul, KeepsTheSumsOfHalfTypesInFloat) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Tensor a = random_tensor({33, 500}, dtype, 1), b = random_tensor({500, 65}, dtype, 2);
    const MatmulOptions wide{.out_dtype = DType::f32};
    expect_product(matmul(mirrored(a), mirrored(b), wide), matmul(a, b, wide), 500);
  }
}

TEST_F(CudaMatmul, LinearAndItsGradientsEqualTheCpu) {
  for (const DType dtype : kFloating) {
    for (const DType weight_dtype : {dtype, dtype == DType::f64 ? DType::f64 : DType::f32}) {
      const Tensor x = random_tensor({3, 21, 48}, dtype, 1);
      const Tensor weight = random_tensor({40, 48}, weight_dtype, 2);
      // The GPU adds a bias that it has rounded to the type of the result.
      const Tensor bias = random_tensor({40}, dtype, 3).to(weight_dtype);
      const Tensor dy = random_tensor({3, 21, 40}, dtype, 4);
      expect_product(linear(mirrored(x), mirrored(weight)), linear(x, weight), 63);
      const Tensor product = linear(exact(x), exact(weight.to(dtype)));
      expect_sum(linear(mirrored(x), mirrored(weight), mirrored(bias)), product,
                 add(product, exact(bias)), 63);
      expect_product(linear_backward_input(mirrored(dy), mirrored(weight)),
                     linear_backward_input(dy, weight), 63);
      expect_product(linear_backward_weight(mirrored(dy), mirrored(x), weight_dtype),
                     linear_backward_weight(dy, x, weight_dtype), 63);
      expect_product(linear_backward_bias(mirrored(dy), weight_dtype),
                     linear_backward_bias(dy, weight_dtype), 63);
    }
  }
}

TEST_F(CudaMatmul, GradientsOfWeightAndBiasComeFromOneProduct) {
  for (const DType dtype : kFloating) {
    for (const DType out : {dtype, dtype == DType::f64 ? DType::f64 : DType::f32}) {
      for (const auto& [n, k, rows] :
           {Sizes{1, 1, 1}, Sizes{3, 5, 7}, Sizes{40, 48, 63}, Sizes{31, 129, 130},
            Sizes{256, 128, 64}, Sizes{72, 8, 2000}, Sizes{1, 64, 300}}) {
        SCOPED_TRACE(testing::Message() << rows << " rows of " << k << " to " << n);
        const Tensor dense_x = random_tensor({rows, k}, dtype, 1);
        const Tensor dense_dy = random_tensor({rows, n}, dtype, 2);
        for (const Tensor& x : {dense_x, test::with_gaps(dense_x)}) {
          for (const Tensor& dy : test::in_all_layouts(dense_dy)) {
            const LinearParameterGrads grads =
                linear_backward_parameters(mirrored(dy), mirrored(x), out);
            const double lost = cut_off(dtype, rows);
            expect_product(grads.dweight, linear_backward_weight(dy, x, out), rows, "dweight",
                           lost);
            expect_product(grads.dbias, linear_backward_bias(dy, out), rows, "dbias", lost);
          }
        }
      }
    }
  }
}

TEST_F(CudaMatmul, LargeGradientsOfBiasesAreRightWhicheverWayIsFaster) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor x = random_tensor({4096, 512}, dtype, 1),
                 dy = random_tensor({4096, 1024}, dtype, 2);
    const Tensor on_gpu_x = mirrored(x), on_gpu_dy = mirrored(dy);
    const double lost = cut_off(dtype, 4096);
    for (int run = 0; run < 2; ++run) {  // the first times the algorithms
      const LinearParameterGrads grads =
          linear_backward_parameters(on_gpu_dy, on_gpu_x, DType::f32);
      const Tensor dweight = linear_backward_weight(on_gpu_dy, on_gpu_x, DType::f32);
      expect_product(grads.dweight, dweight.to(kCpu), 4096, "dweight", lost);
      expect_product(grads.dbias, linear_backward_bias(dy, DType::f32), 4096, "dbias", lost);
    }
  }
}

TEST_F(CudaMatmul, LinearTakesABiasAtAnyAddress) {
  for (const DType dtype : kFloating) {
    for (const int64_t n : {1, 7, 40, 64}) {
      const Tensor x = random_tensor({33, 48}, dtype, 1), weight = random_tensor({n, 48}, dtype, 2);
      const Tensor longer = random_tensor({n + 3}, dtype, 3);
      const Tensor product = linear(exact(x), exact(weight));
      for (const int64_t offset : {0, 1, 2, 3}) {
        const Tensor bias = longer.slice(0, offset, offset + n);
        expect_sum(linear(mirrored(x), mirrored(weight), mirrored(bias)), product,
                   add(product, exact(bias)), 48);
      }
    }
  }
}

TEST_F(CudaMatmul, EachOfManyMatricesGetsTheBiasOnce) {
  for (const DType dtype : kFloating) {
    // No single call of the library takes all: the batch axes lie the other way round in one
    // operand.
    const Tensor a = random_tensor({2, 3, 9, 48}, dtype, 1).transpose(0, 1);
    const Tensor b = random_tensor({3, 2, 48, 40}, dtype, 2);
    const Tensor bias = random_tensor({1, 40}, dtype, 3);
    Tensor c = empty({3, 2, 9, 40}, dtype, test::kGpu);
    gemm(mirrored(a), mirrored(b), c, {.bias = mirrored(bias)});
    const Tensor product = matmul(exact(a), exact(b));
    expect_sum(c, product, add(product, exact(bias)), 48);
  }
}

/// Kernels (and copies) that the body puts on the stream.
int64_t count_work(const std::function<void()>& body) {
  body();  // what is made once
  Graph graph(test::kGpu);
  graph.capture(body);
  return graph.nodes();
}

TEST_F(CudaMatmul, BiasesTakeNoPassOfTheirOwn) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(to_string(dtype));
    const Tensor x = mirrored(random_tensor({2048, 256}, dtype, 1));
    const Tensor weight = mirrored(random_tensor({1536, 256}, DType::f32, 2));
    const Tensor bias = mirrored(random_tensor({1536}, DType::f32, 3));
    const Tensor dy = mirrored(random_tensor({2048, 1536}, dtype, 4));
    EXPECT_LE(count_work([&] { linear(x, weight, bias); }), count_work([&] { linear(x, weight); }));
    const int64_t at_once = count_work([&] { linear_backward_parameters(dy, x, DType::f32); });
    const int64_t apart = count_work([&] {
      linear_backward_weight(dy, x, DType::f32);
      linear_backward_bias(dy, DType::f32);
    });
    std::cout << to_string(dtype) << ": both gradients in " << at_once << " of " << apart
              << " pieces of work\n";
    EXPECT_LE(at_once, apart);
    // Of the other types the library may lack the epilogue.
    if (dtype == DType::bf16) {
      EXPECT_LT(at_once, apart);
    }
  }
}

TEST_F(CudaMatmul, LinearLayersTrainAsOnTheCpu) {
  using autograd::Variable;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool has_bias : {true, false}) {
      const Tensor x = random_tensor({3, 21, 45}, dtype, 1),
                   dy = random_tensor({3, 21, 37}, dtype, 2);
      const Tensor weight = random_tensor({37, 45}, DType::f32, 3);
      const Tensor bias = random_tensor({37}, dtype, 4).to(DType::f32);
      const auto gradients = [&](Device device) {
        const Variable in(x.to(device), true), w(weight.to(device), true), b(bias.to(device), true);
        autograd::linear(in, w, has_bias ? b : Variable()).backward(dy.to(device));
        return std::vector<Tensor>{in.grad(), w.grad(), has_bias ? b.grad() : w.grad()};
      };
      const std::vector<Tensor> on_cpu = gradients(kCpu), on_gpu = gradients(test::kGpu);
      for (size_t i = 0; i < on_cpu.size(); ++i) {
        SCOPED_TRACE(i);
        expect_product(on_gpu[i], on_cpu[i], 63);
      }
    }
  }
}

TEST_F(CudaMatmul, FollowsAWeightThatChanges) {
  const Tensor x = random_tensor({5, 16}, DType::bf16, 1);
  Tensor weight = random_tensor({8, 16}, DType::f32, 2), moved = mirrored(weight);
  expect_product(linear(mirrored(x), moved), linear(x, weight), 16);
  weight.fill_(0.25);
  moved.fill_(0.25);
  expect_product(linear(mirrored(x), moved), linear(x, weight), 16);
}

TEST_F(CudaMatmul, RepeatsToTheBit) {
  const Tensor a = mirrored(random_tensor({64, 8192}, DType::bf16, 1));
  const Tensor b = mirrored(random_tensor({8192, 64}, DType::bf16, 2));
  const Tensor first = matmul(a, b).to(kCpu);
  for (int i = 0; i < 5; ++i) test::expect_same(matmul(a, b), first);
}

}  // namespace
}  // namespace weft

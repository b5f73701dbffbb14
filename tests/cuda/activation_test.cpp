#include "weft/tensor/ops/activation.h"

#include "close_bounds.h"

namespace weft {
namespace {

using test::expect_rounded;
using test::in_all_layouts;
using test::kFloating;
using test::mirrored;
using test::random_tensor;

class CudaActivation : public test::CudaTest {};

void expect_activations(const Tensor& x, const Tensor& dy) {
  const Tensor a = mirrored(x);
  const Tensor b = mirrored(dy);
  expect_rounded(silu(a), silu(x), "silu");
  expect_rounded(silu_backward(b, a), silu_backward(dy, x), "silu_backward", 4);
  for (const Gelu form : {Gelu::exact, Gelu::tanh}) {
    expect_rounded(gelu(a, form), gelu(x, form), "gelu", 4);
    expect_rounded(gelu_backward(b, a, form), gelu_backward(dy, x, form), "gelu_backward", 4);
  }
  expect_rounded(swiglu(a, b), swiglu(x, dy), "swiglu", 4);
  const SwigluGrads cpu = swiglu_backward(dy, x, dy);
  const SwigluGrads gpu = swiglu_backward(b, a, b);
  expect_rounded(gpu.dgate, cpu.dgate, "dgate", 8);
  expect_rounded(gpu.dup, cpu.dup, "dup", 8);
}

TEST_F(CudaActivation, EqualsTheCpuInEveryShape) {
  for (const DType dtype : kFloating) {
    for (const Shape& shape : test::elementwise_shapes()) {
      expect_activations(random_tensor(shape, dtype, 1, -6, 6), random_tensor(shape, dtype, 2));
    }
  }
}

TEST_F(CudaActivation, EqualsTheCpuInEveryLayout) {
  for (const DType dtype : kFloating) {
    const Tensor dense = random_tensor({6, 5, 32}, dtype, 1, -6, 6);
    const Tensor dy = random_tensor({6, 5, 32}, dtype, 2);
    for (const Tensor& x : in_all_layouts(dense)) {
      for (const Tensor& grad : in_all_layouts(dy)) expect_activations(x, grad);
    }
  }
}

TEST_F(CudaActivation, SplitsPackedProjections) {
  for (const DType dtype : kFloating) {
    for (const int64_t features : {1, 9, 64, 1000}) {
      const Tensor packed = random_tensor({3, 4, 2 * features}, dtype, 1, -4, 4);
      const Tensor dy = random_tensor({3, 4, features}, dtype, 2);
      expect_rounded(swiglu_packed(mirrored(packed)), swiglu_packed(packed), "swiglu_packed", 4);
      expect_rounded(swiglu_packed_backward(mirrored(dy), mirrored(packed)),
                     swiglu_packed_backward(dy, packed), "swiglu_packed_backward", 8);
      Tensor replaced = mirrored(dy);
      expect_rounded(swiglu_packed_backward_(replaced, mirrored(packed)),
                     swiglu_packed_backward(dy, packed), "swiglu_packed_backward_", 8);
      expect_rounded(replaced, swiglu_packed(packed), "value", 4);
    }
  }
}

TEST_F(CudaActivation, StaysFiniteFarOut) {
  for (const DType dtype : kFloating) {
    const Tensor x =
        from_vector<double>({-1000, -200, -90, -20, 0, 20, 90, 200, 1000}, {9}).to(dtype);
    expect_activations(x, full({9}, 1, dtype));
  }
}

}  // namespace
}  // namespace weft

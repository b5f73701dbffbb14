#include "weft/tensor/ops/layer_norm.h"
#include "weft/tensor/ops/rms_norm.h"

#include "close_bounds.h"

namespace weft {
namespace {

using test::expect_close;
using test::expect_rounded;
using test::in_all_layouts;
using test::kFloating;
using test::mirrored;
using test::random_tensor;

class CudaNorm : public test::CudaTest {};

DType accumulator(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

/// Sums over many rows, whose terms are of size 1.
void expect_sums(const Tensor& on_gpu, const Tensor& on_cpu, int64_t rows, const char* what) {
  const bool exact = on_cpu.dtype() == DType::f64;
  const double terms = static_cast<double>(rows + 64);
  expect_close(on_gpu, on_cpu, exact ? 1e-11 : 1e-4, (exact ? 1e-14 : 1e-6) * terms, what);
}

void expect_rms_norm(const Tensor& x, const Tensor& other, const Tensor& dy) {
  const int64_t length = x.size(-1);
  const Tensor gain = random_tensor({length}, accumulator(x.dtype()), 7, 0.5, 1.5);
  const Tensor x_gpu = mirrored(x);
  const Tensor gain_gpu = mirrored(gain);
  const RmsNormResult cpu = rms_norm_forward(x, gain);
  const RmsNormResult gpu = rms_norm_forward(x_gpu, gain_gpu);
  expect_rounded(gpu.y, cpu.y, "rms_norm");
  expect_rounded(gpu.inverse_rms, cpu.inverse_rms, "inverse_rms");
  const auto sum_cpu = rms_norm_residual(x, other, gain);
  const auto sum_gpu = rms_norm_residual(x_gpu, mirrored(other), gain_gpu);
  test::expect_same(sum_gpu.sum, sum_cpu.sum, "sum");
  expect_rounded(sum_gpu.y, sum_cpu.y, "rms_norm_residual");
  expect_rounded(sum_gpu.inverse_rms, sum_cpu.inverse_rms, "inverse_rms with residual");
  for (const bool with_sum : {false, true}) {
    for (const bool want_dgain : {false, true}) {
      const RmsNormGrads a =
          rms_norm_backward(dy, x, gain, cpu.inverse_rms, with_sum ? other : Tensor(), want_dgain);
      const RmsNormGrads b =
          rms_norm_backward(mirrored(dy), x_gpu, gain_gpu, mirrored(cpu.inverse_rms),
                            with_sum ? mirrored(other) : Tensor(), want_dgain);
      expect_rounded(b.dx, a.dx, "dx", 8);
      ASSERT_EQ(b.dgain.defined(), want_dgain);
      if (want_dgain) expect_sums(b.dgain, a.dgain, x.numel() / length, "dgain");
    }
  }
}

void expect_layer_norm(const Tensor& x, const Tensor& dy) {
  const int64_t length = x.size(-1);
  const Tensor gain = random_tensor({length}, accumulator(x.dtype()), 8, 0.5, 1.5);
  const Tensor bias = random_tensor({length}, accumulator(x.dtype()), 9);
  const Tensor x_gpu = mirrored(x);
  const Tensor gain_gpu = mirrored(gain);
  const LayerNormResult cpu = layer_norm_forward(x, gain, bias);
  const LayerNormResult gpu = layer_norm_forward(x_gpu, gain_gpu, mirrored(bias));
  expect_rounded(gpu.y, cpu.y, "layer_norm", 4);
  expect_rounded(gpu.mean, cpu.mean, "mean");
  expect_rounded(gpu.rstd, cpu.rstd, "rstd");
  expect_rounded(layer_norm(x_gpu, gain_gpu), layer_norm(x, gain), "layer_norm without bias", 4);
  for (const bool want : {false, true}) {
    const LayerNormGrads a = layer_norm_backward(dy, x, gain, cpu.mean, cpu.rstd, {want, want});
    const LayerNormGrads b = layer_norm_backward(mirrored(dy), x_gpu, gain_gpu, mirrored(cpu.mean),
                                                 mirrored(cpu.rstd), {want, want});
    expect_rounded(b.dx, a.dx, "dx", 8);
    if (!want) continue;
    expect_sums(b.dgain, a.dgain, x.numel() / length, "dgain");
    expect_sums(b.dbias, a.dbias, x.numel() / length, "dbias");
  }
}

TEST_F(CudaNorm, EqualsTheCpuForRowsOfEveryLength) {
  for (const DType dtype : kFloating) {
    for (const int64_t length : test::row_lengths()) {
      if (length == 1) continue;  // a row of one element has no variance to speak of
      SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << length);
      const Shape shape{test::rows_of(length), length};
      const Tensor x = random_tensor(shape, dtype, 1);
      const Tensor dy = random_tensor(shape, dtype, 3);
      expect_rms_norm(x, random_tensor(shape, dtype, 2), dy);
      expect_layer_norm(x, dy);
    }
  }
}

TEST_F(CudaNorm, NormalizesRowsOfOneElement) {
  for (const DType dtype : kFloating) {
    const Tensor x = random_tensor({5, 1}, dtype, 1, 1, 2);
    expect_rms_norm(x, random_tensor({5, 1}, dtype, 2), random_tensor({5, 1}, dtype, 3));
  }
}

TEST_F(CudaNorm, EqualsTheCpuForManyRows) {
  for (const DType dtype : kFloating) {
    for (const int64_t length : {24, 65, 256, 768, 2048}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << length);
      const Shape shape{2, 1511, length};
      const Tensor x = random_tensor(shape, dtype, 1);
      const Tensor dy = random_tensor(shape, dtype, 3);
      expect_rms_norm(x, random_tensor(shape, dtype, 2), dy);
      expect_layer_norm(x, dy);
    }
  }
}

TEST_F(CudaNorm, EqualsTheCpuForRowsThatBlocksShareOut) {
  // Blocks of whole and of ragged warps; rows that blocks take one or none of, and odd shares.
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const int64_t length : {136, 264, 1032, 4096, 8184, 8192}) {
      for (const int64_t rows : {1, 2, 9, 17, 1201}) {
        if (rows * length > 1201 * 4096) continue;
        SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << rows << " x " << length);
        const Shape shape{rows, length};
        const Tensor x = random_tensor(shape, dtype, 1, -1, 2);
        const Tensor dy = random_tensor(shape, dtype, 3);
        expect_rms_norm(x, random_tensor(shape, dtype, 2), dy);
        expect_layer_norm(x, dy);
      }
    }
  }
}

TEST_F(CudaNorm, TakesEveryLayout) {
  for (const DType dtype : kFloating) {
    const Tensor dy = random_tensor({3, 7, 40}, dtype, 3);
    for (const Tensor& x : in_all_layouts(random_tensor({3, 7, 40}, dtype, 1))) {
      expect_rms_norm(x, dy, dy);
      expect_layer_norm(x, dy);
    }
    for (const Tensor& grad : in_all_layouts(dy)) {
      expect_rms_norm(random_tensor({3, 7, 40}, dtype, 1), grad, grad);
    }
  }
}

TEST_F(CudaNorm, RepeatsToTheBit) {
  for (const Shape& shape : std::vector<Shape>{{5000, 768}, {20000, 64}, {3001, 4096}}) {
    const Tensor x = mirrored(random_tensor(shape, DType::bf16, 1));
    const Tensor dy = mirrored(random_tensor(shape, DType::bf16, 2));
    const Tensor gain = mirrored(random_tensor({shape[1]}, DType::f32, 3));
    const Tensor inverse_rms = rms_norm_forward(x, gain).inverse_rms;
    const LayerNormResult forward = layer_norm_forward(x, gain);
    const RmsNormGrads rms = rms_norm_backward(dy, x, gain, inverse_rms);
    const LayerNormGrads layer = layer_norm_backward(dy, x, gain, forward.mean, forward.rstd);
    for (int i = 0; i < 4; ++i) {
      const RmsNormGrads rms_again = rms_norm_backward(dy, x, gain, inverse_rms);
      test::expect_same(rms_again.dgain, rms.dgain.to(kCpu), "dgain");
      test::expect_same(rms_again.dx, rms.dx.to(kCpu), "dx");
      const LayerNormGrads again = layer_norm_backward(dy, x, gain, forward.mean, forward.rstd);
      test::expect_same(again.dgain, layer.dgain.to(kCpu), "dgain of layer_norm");
      test::expect_same(again.dbias, layer.dbias.to(kCpu), "dbias");
      test::expect_same(again.dx, layer.dx.to(kCpu), "dx of layer_norm");
    }
  }
}

}  // namespace
}  // namespace weft

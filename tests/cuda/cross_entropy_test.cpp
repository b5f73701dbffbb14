#include "weft/tensor/ops/cross_entropy.h"

#include "weft/tensor/error.h"

#include "close_bounds.h"
#include "ops/cross_entropy_kernels.h"

namespace weft {
namespace {

using test::expect_close;
using test::expect_rounded;
using test::kFloating;
using test::mirrored;
using test::random_tensor;

class CudaCrossEntropy : public test::CudaTest {};

/// Targets over all classes, one of them ignored.
Tensor targets_of(int64_t rows, int64_t classes) {
  Tensor targets = random_tensor({rows}, DType::i64, 4, 0, static_cast<double>(classes));
  if (rows > 1) targets.select(0, 1).fill_(kIgnoreIndex);
  return targets;
}

void expect_cross_entropy(const Tensor& logits, double smoothing) {
  const Tensor targets = targets_of(logits.size(0), logits.size(1));
  const Tensor logits_gpu = mirrored(logits);
  const Tensor targets_gpu = mirrored(targets);
  const CrossEntropyResult cpu = cross_entropy_forward(logits, targets, kIgnoreIndex, smoothing);
  const CrossEntropyResult gpu =
      cross_entropy_forward(logits_gpu, targets_gpu, kIgnoreIndex, smoothing);
  ASSERT_EQ(gpu.counted, cpu.counted);
  expect_rounded(gpu.losses, cpu.losses, "losses", 8);
  expect_rounded(gpu.logsumexp, cpu.logsumexp, "logsumexp", 8);
  const Tensor dlosses = random_tensor({logits.size(0)}, cpu.losses.dtype(), 5);
  expect_rounded(
      cross_entropy_backward(mirrored(dlosses), logits_gpu, targets_gpu, mirrored(cpu.logsumexp),
                             kIgnoreIndex, smoothing),
      cross_entropy_backward(dlosses, logits, targets, cpu.logsumexp, kIgnoreIndex, smoothing),
      "dlogits");
}

TEST_F(CudaCrossEntropy, EqualsTheCpuForAnyNumberOfClasses) {
  for (const DType dtype : kFloating) {
    for (const int64_t classes : {1, 3, 16, 255, 256, 1024, 5000, 20000, 50304, 50257}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << classes);
      const Tensor logits = random_tensor({9, classes}, dtype, 1, -9, 9);
      expect_cross_entropy(logits, 0);
      expect_cross_entropy(logits, 0.1);
      expect_cross_entropy(test::with_gaps(logits), 0.1);
    }
  }
}

TEST_F(CudaCrossEntropy, ComputesLossAndGradientInOnePass) {
  for (const DType dtype : kFloating) {
    const DType accumulator = dtype == DType::f64 ? DType::f64 : DType::f32;
    for (const int64_t classes : {1, 3, 256, 1000, 1024, 20000, 50304, 50257}) {
      for (const double smoothing : {0.0, 0.1}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << classes);
        const Tensor logits = random_tensor({7, classes}, accumulator, 1, -9, 9);
        CrossEntropyRows cpu{logits.clone(), targets_of(7, classes), kIgnoreIndex, smoothing};
        CrossEntropyRows gpu{mirrored(logits), mirrored(cpu.targets), kIgnoreIndex, smoothing};
        Tensor losses = empty({7}, accumulator);
        Tensor losses_gpu = mirrored(losses);
        // In place where the types are equal.
        Tensor dlogits = dtype == accumulator ? cpu.logits : empty(logits.shape(), dtype);
        Tensor dlogits_gpu = dtype == accumulator ? gpu.logits : mirrored(dlogits);
        cross_entropy_both_cpu(cpu, losses, dlogits, current_stream(kCpu));
        cross_entropy_both_cuda(gpu, losses_gpu, dlogits_gpu, current_stream(test::kGpu));
        expect_rounded(losses_gpu, losses, "losses", 8);
        expect_rounded(dlogits_gpu, dlogits, "dlogits");
      }
    }
  }
}

TEST_F(CudaCrossEntropy, RefusesTargetsOutside) {
  const Tensor logits = mirrored(random_tensor({2, 5}, DType::f32));
  EXPECT_THROW(cross_entropy(logits, mirrored(from_vector<int64_t>({1, 5}, {2}))), IndexError);
}

}  // namespace
}  // namespace weft

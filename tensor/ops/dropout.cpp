#include "weft/tensor/ops/dropout.h"

#include "weft/tensor/kernel.h"

#include "ops/dropout_kernels.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, Tensor&, double, GeneratorState, Stream)> kDropout{
    "dropout", &dropout_cpu, WEFT_CUDA_KERNEL(dropout_cuda)};

}  // namespace

Tensor dropout(const Tensor& x, double p, GeneratorState state) {
  WEFT_CHECK(x.defined() && is_floating(x.dtype()), DTypeError,
             "dropout: takes a floating tensor, got {}", x);
  WEFT_CHECK(p >= 0 && p < 1, ConfigError, "dropout: p must lie in [0, 1), got {}", p);
  Tensor result = empty(x.shape(), x.dtype(), x.device());
  kDropout(x.device())(x.contiguous(), result, p, state, current_stream(x.device()));
  return result;
}

Tensor dropout(const Tensor& x, double p, Generator& generator) {
  return dropout(x, p, generator.reserve(static_cast<uint64_t>((x.numel() + 3) / 4)));
}

}  // namespace weft

#include "weft/tensor/ops/dropout.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/op_list.h"
#include "ops/operand.h"
#include "ops/random_kernels.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, double, GeneratorState, Tensor&, Stream)> kDropout{
    "dropout", &dropout_cpu, WEFT_CUDA_KERNEL(dropout_cuda)};

void check(const Tensor& x, double p) {
  check_floating("dropout", x);
  WEFT_CHECK(p >= 0 && p < 1, ConfigError, "dropout: p must lie in [0, 1), got {}", p);
}

}  // namespace

Tensor dropout(const Tensor& x, double p, Generator& generator) {
  check(x, p);
  if (p == 0) return x.clone();
  const uint64_t blocks = (static_cast<uint64_t>(x.numel()) + 3) / 4;
  return dropout(x, p, reserve_for("dropout", generator, x.device(), blocks));
}

Tensor dropout(const Tensor& x, double p, GeneratorState state) {
  check(x, p);
  Tensor out = empty_like(x);
  if (x.numel() > 0) kDropout(x.device())(x, p, state, out, current_stream(x.device()));
  return out;
}

void list_dropout_ops(OpTable& table) {
  table.add(kDropout, kFloatingTypes);
}

}  // namespace weft

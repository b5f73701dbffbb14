#include "weft/tensor/ops/random.h"

#include <cmath>

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/kernel.h"

#include "ops/op_list.h"
#include "ops/operand.h"
#include "ops/random_kernels.h"

namespace weft {
namespace {

using FillTwo = void(Tensor&, double, double, GeneratorState, Stream);
constexpr Kernel<FillTwo> kUniform{"uniform_", &uniform_cpu, WEFT_CUDA_KERNEL(uniform_cuda)};
constexpr Kernel<FillTwo> kNormal{"normal_", &normal_cpu, WEFT_CUDA_KERNEL(normal_cuda)};
constexpr Kernel<void(Tensor&, double, GeneratorState, Stream)> kBernoulli{
    "bernoulli_", &bernoulli_cpu, WEFT_CUDA_KERNEL(bernoulli_cuda)};
constexpr Kernel<void(Tensor&, int64_t, int64_t, GeneratorState, Stream)> kRandint{
    "randint_", &randint_cpu, WEFT_CUDA_KERNEL(randint_cuda)};
constexpr Kernel<void(Tensor&, GeneratorState, Stream)> kPermutation{
    "permutation", &permutation_cpu, WEFT_CUDA_KERNEL(permutation_cuda)};

/// Takes the blocks for the elements of `tensor`, fills them by `kernel` and counts the change.
template <class Launcher, class... Args>
Tensor& fill(const Kernel<Launcher>& kernel, Tensor& tensor, Generator& generator, Args... args) {
  const GeneratorState state = reserve_for(kernel.op, generator, tensor.device(),
                                           (static_cast<uint64_t>(tensor.numel()) + 3) / 4);
  if (tensor.numel() > 0)
    kernel(tensor.device())(tensor, args..., state, current_stream(tensor.device()));
  tensor.storage()->bump_version();
  return tensor;
}

/// The range of an integer type.
struct Range {
  int64_t lowest, highest;
};
Range range_of(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return {0, 255};
    case DType::i32:
      return {INT32_MIN, INT32_MAX};
    default:
      return {INT64_MIN, INT64_MAX};
  }
}

}  // namespace

GeneratorState reserve_for(const char* op, Generator& generator, Device device, uint64_t blocks) {
  WEFT_CHECK(!is_capturing() || (device.is_cuda() && generator.state().advance != nullptr),
             CaptureError,
             "{}: every replay of the graph would draw the same numbers; draw on the GPU, from a "
             "generator that is given to Graph::capture()",
             op);
  return generator.reserve(blocks);
}

Tensor& uniform_(Tensor& tensor, double low, double high, Generator& generator) {
  check_floating("uniform_", tensor);
  check_writable("uniform_", tensor);
  WEFT_CHECK(std::isfinite(low) && std::isfinite(high) && low <= high, ConfigError,
             "uniform_: needs finite bounds, the lower one first, got {} and {}", low, high);
  return fill(kUniform, tensor, generator, low, high);
}

Tensor& normal_(Tensor& tensor, double mean, double std, Generator& generator) {
  check_floating("normal_", tensor);
  check_writable("normal_", tensor);
  WEFT_CHECK(std::isfinite(mean) && std::isfinite(std) && std >= 0, ConfigError,
             "normal_: needs a finite mean and a finite standard deviation of at least 0, got {} "
             "and {}",
             mean, std);
  return fill(kNormal, tensor, generator, mean, std);
}

Tensor& randint_(Tensor& tensor, int64_t low, int64_t high, Generator& generator) {
  check_defined("randint_", tensor);
  check_writable("randint_", tensor);
  WEFT_CHECK(is_integer(tensor.dtype()), DTypeError, "randint_: takes i64, i32 or u8, got {}",
             tensor);
  constexpr uint64_t kMaxRange = uint64_t{1} << 32;
  const uint64_t range = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  WEFT_CHECK(low < high && range <= kMaxRange, ConfigError,
             "randint_: needs low < high <= low + 2^32, got {} and {}", low, high);
  const Range fits = range_of(tensor.dtype());
  WEFT_CHECK(low >= fits.lowest && high - 1 <= fits.highest, ConfigError,
             "randint_: [{}, {}) does not fit into {}", low, high, tensor.dtype());
  return fill(kRandint, tensor, generator, low, static_cast<int64_t>(range));
}

Tensor& bernoulli_(Tensor& tensor, double p, Generator& generator) {
  check_defined("bernoulli_", tensor);
  check_writable("bernoulli_", tensor);
  WEFT_CHECK(p >= 0 && p <= 1, ConfigError, "bernoulli_: p must lie in [0, 1], got {}", p);
  return fill(kBernoulli, tensor, generator, p);
}

Tensor uniform(const Shape& shape, Generator& generator, DType dtype, Device device) {
  Tensor result = empty(shape, dtype, device);
  return uniform_(result, 0, 1, generator);
}

Tensor normal(const Shape& shape, Generator& generator, DType dtype, Device device) {
  Tensor result = empty(shape, dtype, device);
  return normal_(result, 0, 1, generator);
}

Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& generator, DType dtype,
               Device device) {
  Tensor result = empty(shape, dtype, device);
  return randint_(result, low, high, generator);
}

Tensor bernoulli(double p, const Shape& shape, Generator& generator, DType dtype, Device device) {
  Tensor result = empty(shape, dtype, device);
  return bernoulli_(result, p, generator);
}

Tensor permutation(int64_t count, Generator& generator, Device device) {
  WEFT_CHECK(count >= 0, ConfigError, "permutation: needs at least 0 elements, got {}", count);
  WEFT_CHECK(!is_capturing(), CaptureError,
             "permutation: is made on the host, which cannot be captured in a graph");
  Tensor result = empty({count}, DType::i64, device);
  const GeneratorState state = generator.reserve((static_cast<uint64_t>(count) + 1) / 2);
  if (count > 0) kPermutation(device)(result, state, current_stream(device));
  return result;
}

void list_random_ops(OpTable& table) {
  table.add(kUniform, kFloatingTypes);
  table.add(kNormal, kFloatingTypes);
  table.add(kBernoulli, kAllTypes);
  table.add(kRandint, kIntegerTypes);
  table.add(kPermutation, {DType::i64});
}

}  // namespace weft

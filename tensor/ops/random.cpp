#include "weft/tensor/ops/random.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/kernel.h"

#include "ops/random_kernels.h"

namespace weft {
namespace {

constexpr Kernel<void(Tensor&, double, double, GeneratorState, Stream)> kUniform{
    "uniform_", &uniform_cpu, WEFT_CUDA_KERNEL(uniform_cuda)};
constexpr Kernel<void(Tensor&, double, double, GeneratorState, Stream)> kNormal{
    "normal_", &normal_cpu, WEFT_CUDA_KERNEL(normal_cuda)};
constexpr Kernel<void(Tensor&, int64_t, int64_t, GeneratorState, Stream)> kRandint{
    "randint", &randint_cpu, WEFT_CUDA_KERNEL(randint_cuda)};
constexpr Kernel<void(Tensor&, double, GeneratorState, Stream)> kBernoulli{
    "bernoulli", &bernoulli_cpu, WEFT_CUDA_KERNEL(bernoulli_cuda)};

GeneratorState reserve_for(const Tensor& tensor, Generator& generator) {
  return generator.reserve(static_cast<uint64_t>((tensor.numel() + 3) / 4));
}

/// Runs `fill(dense)` on the tensor itself or, where it is strided, on a dense tensor that is then
/// copied in.
template <class Fill>
Tensor& fill_dense(Tensor& tensor, Fill&& fill) {
  if (tensor.is_contiguous()) {
    fill(tensor);
    tensor.storage()->bump_version();
  } else {
    Tensor dense = empty(tensor.shape(), tensor.dtype(), tensor.device());
    fill(dense);
    tensor.copy_(dense);
  }
  return tensor;
}

void check_floating(const char* op, const Tensor& tensor) {
  WEFT_CHECK(is_floating(tensor.dtype()), DTypeError, "{}: fills floating tensors, got {}", op,
             tensor);
}

}  // namespace

Tensor& uniform_(Tensor& tensor, double low, double high, Generator& generator) {
  check_floating("uniform_", tensor);
  WEFT_CHECK(std::isfinite(low) && std::isfinite(high) && low <= high, ConfigError,
             "uniform_: bounds must be finite and in order, got [{}, {})", low, high);
  const GeneratorState state = reserve_for(tensor, generator);
  return fill_dense(tensor, [&](Tensor& dense) {
    kUniform(dense.device())(dense, low, high, state, current_stream(dense.device()));
  });
}

Tensor& normal_(Tensor& tensor, double mean, double std, Generator& generator) {
  check_floating("normal_", tensor);
  WEFT_CHECK(std::isfinite(mean) && std::isfinite(std) && std >= 0, ConfigError,
             "normal_: needs a finite mean and a std of 0 or more, got {} and {}", mean, std);
  const GeneratorState state = reserve_for(tensor, generator);
  return fill_dense(tensor, [&](Tensor& dense) {
    kNormal(dense.device())(dense, mean, std, state, current_stream(dense.device()));
  });
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
  WEFT_CHECK(is_integer(dtype), DTypeError, "randint: makes integers, got type {}", dtype);
  constexpr uint64_t kLargestRange = uint64_t{1} << 32;
  WEFT_CHECK(
      low < high && static_cast<uint64_t>(high) - static_cast<uint64_t>(low) <= kLargestRange,
      ConfigError, "randint: needs low < high, at most 2^32 apart, got [{}, {})", low, high);
  const auto [least, most] = dtype == DType::u8 ? std::pair<int64_t, int64_t>(0, 255)
                             : dtype == DType::i32
                                 ? std::pair<int64_t, int64_t>(std::numeric_limits<int32_t>::min(),
                                                               std::numeric_limits<int32_t>::max())
                                 : std::pair<int64_t, int64_t>(std::numeric_limits<int64_t>::min(),
                                                               std::numeric_limits<int64_t>::max());
  WEFT_CHECK(low >= least && high - 1 <= most, ConfigError,
             "randint: [{}, {}) does not fit into {}", low, high, dtype);
  Tensor result = empty(shape, dtype, device);
  const GeneratorState state = reserve_for(result, generator);
  kRandint(device)(result, low, high, state, current_stream(device));
  return result;
}

Tensor bernoulli(double p, const Shape& shape, Generator& generator, Device device) {
  WEFT_CHECK(p >= 0 && p <= 1, ConfigError, "bernoulli: p must lie in [0, 1], got {}", p);
  Tensor result = empty(shape, DType::boolean, device);
  const GeneratorState state = reserve_for(result, generator);
  kBernoulli(device)(result, p, state, current_stream(device));
  return result;
}

Tensor permutation(int64_t count, Generator& generator, Device device) {
  WEFT_CHECK(count >= 0 && count <= int64_t{1} << 32, ConfigError,
             "permutation: count must lie in [0, 2^32], got {}", count);
  const GeneratorState state = generator.reserve(static_cast<uint64_t>((count + 3) / 4));
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = count - 1; i > 0; --i) {
    const auto at = static_cast<uint64_t>(i);
    const uint64_t word = philox4x32(state.seed, state.offset + at / 4)[at % 4];
    std::swap(order[at], order[word * (at + 1) >> 32]);
  }
  return from_vector(order, {count}, device);
}

}  // namespace weft

#include "weft/attention/kernels/rotary_embedding.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "weft/tensor/check.h"
#include "weft/tensor/dispatch.h"
#include "weft/tensor/kernel.h"

#include "kernels/rotary_embedding_kernels.h"

namespace weft::attention {
namespace {

constexpr Kernel<void(Tensor&, const Tensor&, bool, Stream)> kRotary{
    "rotary_embedding_", &rotary_embedding_cpu, WEFT_CUDA_KERNEL(rotary_embedding_cuda)};

Tensor make_table(int64_t rows, int64_t dim, double theta, DType dtype) {
  const int64_t half = dim / 2;
  Tensor table = empty({rows, 2, half}, dtype);
  dispatch_floating(dtype, "rotary_embedding_", [&]<class T>() {
    for (int64_t i = 0; i < half; ++i) {
      const double frequency =
          std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      for (int64_t p = 0; p < rows; ++p) {
        T* const row = table.data<T>() + p * dim;
        row[i] = static_cast<T>(std::cos(static_cast<double>(p) * frequency));
        row[half + i] = static_cast<T>(std::sin(static_cast<double>(p) * frequency));
      }
    }
  });
  return table;
}

/// Cosines and sines of positions [0, rows) or more; one table per kind, which grows by doubling.
Tensor table_for(int64_t rows, int64_t dim, double theta, DType dtype, Device device) {
  using Key = std::tuple<int64_t, double, DType, DeviceType, int>;
  static std::mutex mutex;
  static std::map<Key, Tensor> tables;
  const std::lock_guard lock(mutex);
  Tensor& table = tables[{dim, theta, dtype, device.type, device.index}];
  if (!table.defined() || table.size(0) < rows) {
    int64_t capacity = 256;
    while (capacity < rows) capacity *= 2;
    table = make_table(capacity, dim, theta, dtype).to(device);
  }
  return table;
}

}  // namespace

void rotary_embedding_(Tensor& x, int64_t position, double theta, bool inverse) {
  WEFT_CHECK(x.defined() && x.rank() == 4, ShapeError,
             "rotary_embedding_: x must be [B, T, H, D], got {}", x);
  WEFT_CHECK(is_floating(x.dtype()), DTypeError,
             "rotary_embedding_: takes f64, f32, bf16 or f16, got {}", x);
  WEFT_CHECK(x.size(3) % 2 == 0, ShapeError, "rotary_embedding_: the head dim must be even, got {}",
             x);
  WEFT_CHECK(std::isfinite(theta) && theta > 0, ConfigError,
             "rotary_embedding_: theta must be finite and above 0, got {}", theta);
  WEFT_CHECK(position >= 0, ConfigError, "rotary_embedding_: position must be at least 0, got {}",
             position);
  if (x.numel() == 0) return;
  const DType table_type = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const int64_t end = position + x.size(1);
  const Tensor table =
      table_for(end, x.size(3), theta, table_type, x.device()).slice(0, position, end);
  if (x.stride(3) == 1) {
    kRotary(x.device())(x, table, inverse, current_stream(x.device()));
    x.storage()->bump_version();
  } else {
    Tensor dense = x.contiguous();
    kRotary(x.device())(dense, table, inverse, current_stream(x.device()));
    x.copy_(dense);
  }
}

}  // namespace weft::attention

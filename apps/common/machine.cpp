#include "common/machine.h"

#include <algorithm>
#include <limits>

#include "weft/tensor/allocator.h"
#include "weft/tensor/check.h"
#include "weft/tensor/device_info.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/parallel.h"
#include "weft/tensor/stream.h"

namespace weft::apps {
namespace {

/// Seconds of the fastest of a few products of two matrices of `size` rows and columns, between
/// events on the device's stream.
double fastest_product(int64_t size, DType dtype, Device device) {
  constexpr int kRepeats = 5;
  // Not one constant: a GPU's rate depends on how many bits change from one number to the next.
  Generator generator(1);
  const Tensor a = normal({size, size}, generator, dtype, device);
  const Stream stream = current_stream(device);
  Event start(device, /*timed=*/true);
  Event end(device, /*timed=*/true);
  Tensor product = matmul(a, a);
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRepeats; ++i) {
    start.record(stream);
    matmul_into(product, a, a);
    end.record(stream);
    end.synchronize();
    best = std::min(best, 1e-3 * start.milliseconds_to(end));
  }
  return best;
}

}  // namespace

void add_device_options(Options& options, std::string* device, std::string* attention_backend,
                        bool in_config) {
  options.add("device", device, "auto (a GPU where there is one), cpu, cuda, or cuda:N");
  if (!in_config) options.not_in_config();
  options.add("attention-backend", attention_backend,
              "whose kernels compute full attention; reference keeps all scores in memory",
              {"automatic", "cudnn", "weft", "reference"});
  if (!in_config) options.not_in_config();
}

Device resolve_device(const std::string& name) {
  if (name == "auto") {
    for (int index = 0; index < cuda_device_count(); ++index) {
      if (const Device gpu{DeviceType::cuda, index}; is_available(gpu)) return gpu;
    }
    return kCpu;
  }
  Device device;
  try {
    device = parse_device(name);
  } catch (const ConfigError&) {
    throw UsageError(
        fmt::format("--device: '{}' is unknown; allowed are auto, cpu, cuda, cuda:N", name));
  }
  const std::string reason = unavailable_reason(device);
  WEFT_CHECK(reason.empty(), DeviceError, "--device {}: {}; --device auto takes the CPU then", name,
             reason);
  return device;
}

std::string describe_device(Device device) {
  if (device.is_cpu()) return to_string(device);
  const DeviceInfo info = device_info(device);
  return fmt::format("{} ({}, {:.1f} GiB)", device, info.name,
                     static_cast<double>(info.memory_bytes) / (1 << 30));
}

std::string describe_machine(Device device) {
  return device.is_cpu() ? fmt::format("{} threads", num_threads()) : describe_device(device);
}

double measure_product_rate(DType dtype, Device device) {
  constexpr int64_t kCpuSize = 768, kGpuSize = 8192, kSmallest = 512;
  int64_t size = device.is_cpu() ? kCpuSize : kGpuSize;
  for (;; size /= 2) {
    try {
      const double flops =
          2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size);
      const double rate = flops / fastest_product(size, dtype, device);
      // Large blocks that nothing later fits into.
      if (device.is_cuda()) allocator(device).empty_cache();
      return rate;
    } catch (const OutOfMemoryError&) {
      if (size / 2 < kSmallest) throw;
    }
  }
}

}  // namespace weft::apps

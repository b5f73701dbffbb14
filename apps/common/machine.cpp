#include "common/machine.h"

#include <algorithm>
#include <chrono>

#include "weft/tensor/check.h"
#include "weft/tensor/ops/matmul.h"

namespace weft::apps {

Device resolve_device(const std::string& name) {
  if (name == "auto") return kCpu;
  const Device device = parse_device(name);
  // The library's GPU kernels are not behind the commands yet: to compute on the CPU in their place
  // without a word would be worse than to refuse.
  WEFT_CHECK(
      device.is_cpu(), DeviceError,
      "--device {}: the commands of this version run on the CPU alone; allowed are auto, cpu",
      name);
  return device;
}

double measure_product_rate(DType dtype) {
  constexpr int64_t kSize = 768;
  const Tensor a = ones({kSize, kSize}, dtype);
  double best = 1e9;
  for (int i = 0; i < 4; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const Tensor product = matmul(a, a);
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return 2.0 * kSize * kSize * kSize / best;
}

}  // namespace weft::apps

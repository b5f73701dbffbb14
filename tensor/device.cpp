#include "weft/tensor/device.h"

#include <charconv>

#include "weft/tensor/check.h"

#ifdef WEFT_HAVE_CUDA
#include "cuda/backend.h"
#endif

namespace weft {

std::string to_string(Device device) {
  return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index);
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return kCpu;
  if (text == "cuda") return {DeviceType::cuda, 0};
  constexpr std::string_view kPrefix = "cuda:";
  if (text.starts_with(kPrefix)) {
    const std::string_view digits = text.substr(kPrefix.size());
    int index = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (error == std::errc() && end == digits.data() + digits.size() && index >= 0) {
      return {DeviceType::cuda, index};
    }
  }
  throw_error<ConfigError>("device: '{}' is not a device; allowed are cpu, cuda, cuda:<index>",
                           text);
}

bool is_available(Device device) {
  return unavailable_reason(device).empty();
}

std::string unavailable_reason(Device device) {
  if (device.is_cpu())
    return device == kCpu ? "" : fmt::format("the CPU has index 0, not {}", device.index);
#ifdef WEFT_HAVE_CUDA
  return cuda::unavailable_reason(device.index);
#else
  return "this build has no CUDA backend (WEFT_ENABLE_CUDA)";
#endif
}

void check_available(Device device) {
  const std::string reason = unavailable_reason(device);
  WEFT_CHECK(reason.empty(), DeviceError, "{} is not available: {}", device, reason);
}

int cuda_device_count() {
#ifdef WEFT_HAVE_CUDA
  return cuda::device_count();
#else
  return 0;
#endif
}

}  // namespace weft

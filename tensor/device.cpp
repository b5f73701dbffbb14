#include "weft/tensor/device.h"

#include <charconv>

#include "weft/tensor/check.h"

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
  return device == kCpu;
}

}  // namespace weft

#pragma once

#include <string>
#include <string_view>

namespace weft {

enum class DeviceType : unsigned char { cpu, cuda };

/// Where a tensor lives: the CPU, or the GPU with this index.
struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  bool is_cpu() const { return type == DeviceType::cpu; }
  bool is_cuda() const { return type == DeviceType::cuda; }
  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device kCpu{};

/// "cpu", "cuda:0".
std::string to_string(Device device);

/// Parses "cpu", "cuda", "cuda:1". Throws ConfigError with the allowed forms.
Device parse_device(std::string_view text);

/// Whether tensors can be made on this device by this build on this machine.
bool is_available(Device device);

/// Why they cannot: no such GPU, no driver, one that is too old, a build without CUDA. Empty where
/// they can.
std::string unavailable_reason(Device device);

/// Throws DeviceError with the reason unless the device is available.
void check_available(Device device);

/// GPUs that the driver shows to this build; 0 without a driver.
int cuda_device_count();

}  // namespace weft

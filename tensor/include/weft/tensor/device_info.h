#pragma once

#include <cstdint>
#include <string>

#include "weft/tensor/device.h"

namespace weft {

/// What a device is, for logs and reports.
struct DeviceInfo {
  std::string name;          ///< "NVIDIA H100 80GB HBM3", or the model of the processor
  int64_t memory_bytes = 0;  ///< in all: of the GPU, or of the machine; 0 where it cannot be told
};

/// Takes no memory on the device. Throws DeviceError where the device is not available.
DeviceInfo device_info(Device device);

}  // namespace weft

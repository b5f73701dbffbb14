#pragma once

#include <cstddef>

#include "weft/tensor/device.h"

namespace weft {

/// From now on at most `bytes` (0: any number) of a GPU's memory are taken from the driver, in
/// pages of 16 MiB; what is taken already stays. Throws DeviceError unless `device` is a usable
/// GPU.
void set_cuda_memory_limit(Device device, size_t bytes);

}  // namespace weft

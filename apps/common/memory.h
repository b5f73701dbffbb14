#pragma once

#include <cstdint>

#include "weft/tensor/device.h"

namespace weft::apps {

/// Most bytes of physical memory that this process has held so far (VmHWM on Linux).
int64_t peak_resident_bytes();
/// Bytes of physical memory that it holds now.
int64_t resident_bytes();

/// What a run on this device takes of its memory: that of the process on the CPU, tensors on a GPU.
int64_t memory_in_use(Device device);
int64_t peak_memory(Device device);

}  // namespace weft::apps

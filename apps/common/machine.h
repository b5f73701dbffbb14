#pragma once

#include <string>

#include "weft/tensor/device.h"
#include "weft/tensor/dtype.h"

namespace weft::apps {

/// The device of a --device argument: auto or cpu. Throws ConfigError for what names no device, and
/// DeviceError for a GPU.
Device resolve_device(const std::string& name);

/// FLOP/s of a matrix product of this type that is large enough to reach the machine's rate: what
/// shares of the machine's speed are measured against.
double measure_product_rate(DType dtype);

}  // namespace weft::apps

#pragma once

#include <string>

#include "weft/tensor/device.h"
#include "weft/tensor/dtype.h"

namespace weft::apps {

/// The device of a --device argument: auto, cpu, cuda or cuda:N. Throws DeviceError where this
/// build or machine has no such device.
Device resolve_device(const std::string& name);

/// FLOP/s of a matrix product of this type that is large enough to reach the machine's rate: what
/// shares of the machine's speed are measured against.
double measure_product_rate(DType dtype);

}  // namespace weft::apps

#pragma once

#include <string>

#include "weft/tensor/device.h"
#include "weft/tensor/dtype.h"

#include "common/options.h"

namespace weft::apps {

/// Adds --device and --attention-backend; `in_config`: they may also stand in the command's config
/// file.
void add_device_options(Options& options, std::string* device, std::string* attention_backend,
                        bool in_config);

/// The device of a --device argument: auto (the first usable GPU, else the CPU), cpu, cuda or
/// cuda:N. Throws UsageError for what names no device, and DeviceError with the reason for a GPU
/// that cannot be used.
Device resolve_device(const std::string& name);

/// "cuda:0 (NVIDIA H100 80GB HBM3, 79.2 GiB)", "cpu".
std::string describe_device(Device device);

/// "16 threads", or the GPU: what a time was taken on.
std::string describe_machine(Device device);

/// FLOP/s of a matrix product of this type that is large enough to reach the device's rate: what
/// shares of its speed are measured against. On a GPU, gives all cached memory back to the driver.
double measure_product_rate(DType dtype, Device device = kCpu);

}  // namespace weft::apps

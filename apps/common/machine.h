#pragma once

#include <string>

#include "weft/tensor/device.h"
#include "weft/tensor/dtype.h"

#include "common/options.h"

namespace weft::apps {

/// Where a command computes, and with whose kernels: --device and --attention-backend.
struct DeviceOptions {
  std::string device = "auto";
  std::string attention_backend = "automatic";

  /// `in_config`: they may also stand in the command's config file.
  void add_to(Options& options, bool in_config);
};

/// The device of a --device argument: auto (the first usable GPU, else the CPU), cpu, cuda or
/// cuda:N. Throws UsageError for what names no device, and DeviceError with the reason for a GPU
/// that cannot be used.
Device resolve_device(const std::string& name);

/// "cuda:0 (NVIDIA H100 80GB HBM3, 79.2 GiB)", "cpu".
std::string describe_device(Device device);

/// FLOP/s of a matrix product of this type that is large enough to reach the device's rate: what
/// shares of its speed are measured against.
double measure_product_rate(DType dtype, Device device = kCpu);

}  // namespace weft::apps

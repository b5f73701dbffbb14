#pragma once

#include <cuda_runtime_api.h>

#include "weft/tensor/device.h"

namespace weft::cuda {

/// Loads a kernel on the current device: fails where this build has no code for it.
cudaError_t probe_kernel();

/// The compute capability that this build's kernels for the device were compiled for, as 90
/// for 9.0. Where the driver compiles portable code it is that code's, however capable the device
/// is: instructions of later ones are then not in the kernels.
int code_capability(Device device);

}  // namespace weft::cuda

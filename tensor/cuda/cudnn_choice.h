#pragma once

// Where it is decided whether an op is cuDNN's or has Weft's own kernels. Free of cuDNN's types.
#include <functional>
#include <string>

#include "weft/tensor/device.h"
#include "weft/tensor/dtype.h"

namespace weft::cudnn {

/// Runs `attempt`, unless the process is not to use cuDNN: it puts the work on the stream, or does
/// nothing and gives, or throws as UnsupportedGraph, the reason why cuDNN cannot. False where
/// Weft's kernels are to run. The listener of weft/tensor/cudnn_choice.h is told.
bool run_by_cudnn(const char* op, DType dtype, Device device,
                  const std::function<std::string()>& attempt);

/// Tells the listener what it has not been told before.
void tell_choice(const char* op, DType dtype, Device device, bool by_cudnn,
                 const std::string& reason);

}  // namespace weft::cudnn

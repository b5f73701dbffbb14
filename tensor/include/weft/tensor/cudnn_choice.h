#pragma once

#include <functional>
#include <string>

namespace weft {

/// Whether convolution, pooling and batch normalisation on a GPU go to cuDNN, where it computes
/// just what they promise; true at the start of a program. Otherwise, and in a build without cuDNN,
/// Weft's own kernels run.
bool is_cudnn_enabled();
void set_cudnn_enabled(bool enabled);

/// Whose kernels run an op that could be cuDNN's.
struct CudnnChoice {
  std::string problem;  ///< "avg_pool2d bf16 on cuda:0"
  bool by_cudnn = false;
  std::string reason;  ///< why it is not cuDNN; cuDNN's version where it is
};

/// Is called when an op first runs on a type and device, and when it first runs another way. An
/// empty function: nobody is told. Calls come one at a time, from the threads that run the ops.
using CudnnListener = std::function<void(const CudnnChoice&)>;
void set_cudnn_listener(CudnnListener listener);

}  // namespace weft

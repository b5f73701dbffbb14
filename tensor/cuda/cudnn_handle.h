#pragma once

// The library cuDNN: its errors, and its handles. For sources of the CUDA backend only.

#include <string>

#include <cudnn_graph.h>

#include "weft/tensor/error.h"
#include "weft/tensor/stream.h"

#include "cuda/device_context.h"

namespace weft::cudnn {

/// What cuDNN has no engine for on this device. The text holds cuDNN's reason.
class UnsupportedGraph : public NotImplementedError {
 public:
  using NotImplementedError::NotImplementedError;
};

/// "cuDNN 9.19.0".
std::string version();

/// Throws CudaError, or UnsupportedGraph where `status` says so, with cuDNN's last message.
void check(cudnnStatus_t status, const char* call);
/// Why a call did nothing: empty where it succeeded. Throws CudaError where it began and failed.
std::string refusal(cudnnStatus_t status, const char* call);

/// A handle whose work goes to `stream`; the stream's device is the current one of the thread for
/// this object's life. Handles are kept for the next user, since making one takes long, and no two
/// users have the same one at a time. The first one must not be made while a graph is captured.
class Handle {
 public:
  explicit Handle(Stream stream);
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  operator cudnnHandle_t() const { return handle_; }

 private:
  const Stream stream_;
  const cuda::DeviceGuard guard_;
  cudnnHandle_t handle_ = nullptr;
};

}  // namespace weft::cudnn

/// Throws CudaError unless the call of cuDNN succeeds; cudnn::UnsupportedGraph where it says that
/// it does not do what was asked.
#define WEFT_CUDNN_CHECK(call) ::weft::cudnn::check((call), #call)

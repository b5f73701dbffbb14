#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include <cublasLt.h>

#include "weft/tensor/allocator.h"
#include "weft/tensor/device.h"
#include "weft/tensor/storage.h"
#include "weft/tensor/stream.h"

#include "cuda/current_device.h"
#include "cuda/error.h"
#include "cuda/fault.h"

namespace weft::cuda {

inline constexpr int kMaxDevices = 64;

/// Makes a device the current one of the CUDA runtime for this thread, and the previous one again
/// at the end of the scope if that one is in use at all (see restore_device()). Calls on streams,
/// events and memory need it.
class DeviceGuard {
 public:
  explicit DeviceGuard(int index) {
    WEFT_CUDA_CHECK(cudaGetDevice(&previous_));
    if (previous_ != index) WEFT_CUDA_CHECK(cudaSetDevice(index));
    changed_ = previous_ != index;
  }
  /// For destructors and the like: goes on where CUDA reports an error, as their work then fails
  /// too.
  DeviceGuard(int index, std::nothrow_t /*tag*/) noexcept : previous_(index) {
    changed_ = cudaGetDevice(&previous_) == cudaSuccess && previous_ != index;
    if (changed_) cudaSetDevice(index);
  }
  ~DeviceGuard() {
    if (changed_) restore_device(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

inline cudaStream_t native(Stream stream) {
  return static_cast<cudaStream_t>(stream.native_handle());
}

/// Whether the stream is recording a graph: nothing that waits for the GPU is allowed then.
bool is_capturing(Stream stream);

/// Scratch memory of a library on one stream.
struct Workspace {
  void* data;
  size_t bytes;
};

/// What the process keeps for a GPU: its properties, main stream, allocator and library handles.
/// Made when first used and kept until the process ends. Thread-safe.
class DeviceContext {
 public:
  explicit DeviceContext(int index);

  Device device() const { return {DeviceType::cuda, index_}; }
  const cudaDeviceProp& properties() const { return properties_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  /// 90 for compute capability 9.0.
  int capability() const { return 10 * properties_.major + properties_.minor; }

  /// On which work runs unless a StreamGuard says otherwise. It does not wait for the default
  /// stream of CUDA, and graphs can be captured on it.
  Stream main_stream() const { return Stream(device(), main_stream_); }
  Stream take_stream();
  void free_stream(Stream stream) noexcept;

  Allocator& allocator() { return *allocator_; }
  Fault* fault_slot() const { return device_fault_; }
  void check_faults();

  /// Made when first asked for.
  cublasLtHandle_t cublas_lt();
  /// Scratch memory for cuBLASLt on `stream`, always the same for a stream, as its work is ordered.
  Workspace cublas_workspace(Stream stream);

 private:
  const int index_;
  cudaDeviceProp properties_{};
  cudaStream_t main_stream_ = nullptr;
  std::unique_ptr<Allocator> allocator_;
  Fault* host_fault_ = nullptr;
  Fault* device_fault_ = nullptr;

  std::mutex mutex_;
  std::vector<cudaStream_t> free_streams_;
  cublasLtHandle_t cublas_lt_ = nullptr;
  std::map<void*, std::unique_ptr<Storage>> workspaces_;  // by stream
};

/// Throws DeviceError with the reason where the device cannot be used.
DeviceContext& device_context(Device device);

}  // namespace weft::cuda

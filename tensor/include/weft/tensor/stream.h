#pragma once

#include "weft/tensor/device.h"

namespace weft {

/// An ordered queue of work on a device. On the CPU work is done when the call returns and the
/// handle is null; on a GPU the handle is the runtime's stream. Kernels take the stream they run
/// on; user functions use current_stream().
class Stream {
 public:
  explicit Stream(Device device, void* native_handle = nullptr)
      : device_(device), native_handle_(native_handle) {}

  Device device() const { return device_; }
  void* native_handle() const { return native_handle_; }
  /// Waits until all work put on the stream so far is done.
  void synchronize() const;

 private:
  Device device_;
  void* native_handle_;
};

/// The stream on which this thread's operations on `device` run.
Stream current_stream(Device device);

/// Makes `stream` current for this thread and restores the previous one at the end of the scope.
class StreamGuard {
 public:
  explicit StreamGuard(Stream stream);
  ~StreamGuard();
  StreamGuard(const StreamGuard&) = delete;
  StreamGuard& operator=(const StreamGuard&) = delete;

 private:
  Stream previous_;
};

}  // namespace weft

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
  /// Waits until all work put on the stream so far is done. Throws what kernels found wrong with
  /// their input meanwhile (IndexError and others), and CudaError.
  void synchronize() const;

 private:
  Device device_;
  void* native_handle_;
};

/// The stream on which this thread's operations on `device` run. Throws DeviceError where the
/// device is not available.
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

/// A stream beside the one on which operations run by default.
class SideStream {
 public:
  explicit SideStream(Device device);
  ~SideStream();
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  Stream stream() const { return stream_; }

 private:
  Stream stream_;
};

/// A point in the work of a stream, for another stream or the host to wait for, or to take times.
class Event {
 public:
  explicit Event(Device device, bool timed = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(Stream stream);
  /// Later work on `stream` starts when the recorded point is reached.
  void make_wait(Stream stream) const;
  /// Waits on the host.
  void synchronize() const;
  /// Milliseconds from this to `later`; both made with `timed`, recorded and reached.
  double milliseconds_to(const Event& later) const;

 private:
  Device device_;
  void* native_handle_ = nullptr;
  double seconds_ = 0;  // on the CPU
};

}  // namespace weft

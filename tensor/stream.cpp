#include "weft/tensor/stream.h"

#include <chrono>

#include "weft/tensor/check.h"

#ifdef WEFT_HAVE_CUDA
#include "cuda/backend.h"
#endif

namespace weft {
namespace {

thread_local Stream current_cpu_stream{kCpu};

void set_current_stream(Stream stream) {
#ifdef WEFT_HAVE_CUDA
  if (stream.device().is_cuda()) return cuda::set_current_stream(stream);
#endif
  current_cpu_stream = stream;
}

}  // namespace

void Stream::synchronize() const {
#ifdef WEFT_HAVE_CUDA
  if (device_.is_cuda()) cuda::synchronize(*this);
#endif
}

Stream current_stream(Device device) {
#ifdef WEFT_HAVE_CUDA
  if (device.is_cuda()) return cuda::current_stream(device.index);
#endif
  if (!device.is_cpu()) check_available(device);
  return current_cpu_stream;
}

StreamGuard::StreamGuard(Stream stream) : previous_(current_stream(stream.device())) {
  set_current_stream(stream);
}

StreamGuard::~StreamGuard() {
  set_current_stream(previous_);
}

#ifdef WEFT_HAVE_CUDA
SideStream::SideStream(Device device)
    : stream_(device.is_cuda() ? cuda::take_stream(device.index) : current_stream(device)) {}

SideStream::~SideStream() {
  if (stream_.device().is_cuda()) cuda::free_stream(stream_);
}

Event::Event(Device device, bool timed) : device_(device) {
  if (device.is_cuda()) native_handle_ = cuda::make_event(device.index, timed);
}

Event::~Event() {
  if (device_.is_cuda()) cuda::destroy_event(native_handle_);
}
#else
SideStream::SideStream(Device device) : stream_(current_stream(device)) {}
SideStream::~SideStream() = default;
Event::Event(Device device, bool /*timed*/) : device_(device) {
  check_available(device);
}
Event::~Event() = default;
#endif

void Event::record(Stream stream) {
  WEFT_CHECK(stream.device() == device_, DeviceError, "event: of {}, recorded on a stream of {}",
             device_, stream.device());
#ifdef WEFT_HAVE_CUDA
  if (device_.is_cuda()) return cuda::record_event(native_handle_, stream);
#endif
  seconds_ =
      std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Event::make_wait(Stream stream) const {
#ifdef WEFT_HAVE_CUDA
  if (device_.is_cuda()) {
    if (stream.device().is_cuda()) return cuda::wait_for_event(native_handle_, stream);
    synchronize();
  }
#endif
  static_cast<void>(stream);
}

void Event::synchronize() const {
#ifdef WEFT_HAVE_CUDA
  if (device_.is_cuda()) cuda::synchronize_event(native_handle_);
#endif
}

double Event::milliseconds_to(const Event& later) const {
#ifdef WEFT_HAVE_CUDA
  if (device_.is_cuda()) return cuda::milliseconds_between(native_handle_, later.native_handle_);
#endif
  return (later.seconds_ - seconds_) * 1e3;
}

}  // namespace weft

#include "weft/tensor/stream.h"

#include "weft/tensor/check.h"

namespace weft {
namespace {

thread_local Stream current_cpu_stream{kCpu};

void check_has_streams(Device device) {
  WEFT_CHECK(device.is_cpu(), DeviceError, "stream: {} is not available in this build", device);
}

}  // namespace

void Stream::synchronize() const {}

Stream current_stream(Device device) {
  check_has_streams(device);
  return current_cpu_stream;
}

StreamGuard::StreamGuard(Stream stream) : previous_(current_stream(stream.device())) {
  current_cpu_stream = stream;
}

StreamGuard::~StreamGuard() {
  current_cpu_stream = previous_;
}

}  // namespace weft

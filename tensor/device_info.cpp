#include "weft/tensor/device_info.h"

#include <fstream>

#include <unistd.h>

#ifdef WEFT_HAVE_CUDA
#include "cuda/backend.h"
#endif

namespace weft {
namespace {

/// The first "model name" of /proc/cpuinfo; "cpu" on machines whose kernel tells none.
std::string cpu_name() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t value = line.find_first_not_of(" \t", line.find(':') + 1);
    if (value != std::string::npos) return line.substr(value);
  }
  return "cpu";
}

}  // namespace

DeviceInfo device_info(Device device) {
  check_available(device);
#ifdef WEFT_HAVE_CUDA
  if (device.is_cuda()) return cuda::device_info(device.index);
#endif
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  return {cpu_name(), pages > 0 ? pages * sysconf(_SC_PAGESIZE) : 0};
}

}  // namespace weft

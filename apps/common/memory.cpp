#include "common/memory.h"

#include <fstream>

#include <sys/resource.h>
#include <unistd.h>

#include "weft/tensor/allocator.h"

namespace weft::apps {

int64_t peak_resident_bytes() {
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  if (!(statm >> total_pages >> resident_pages)) return 0;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

int64_t memory_in_use(Device device) {
  return device.is_cpu() ? resident_bytes() : allocator(device).stats().allocated;
}

int64_t peak_memory(Device device) {
  return device.is_cpu() ? peak_resident_bytes() : allocator(device).stats().peak_allocated;
}

}  // namespace weft::apps

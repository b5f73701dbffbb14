#pragma once

// How a kernel reports bad input. Kernels cannot throw, and to wait for each of them would cost
// more than they do; so they note the first bad value in page-locked memory, go on with a harmless
// one, and the next wait of the host throws.
#include <cstdint>

#include "weft/tensor/stream.h"

namespace weft::cuda {

enum class FaultKind : unsigned {
  none,
  index,             ///< IndexError: `value` is not in [0, limit)
  division_by_zero,  ///< ConfigError: an integer over zero
  target             ///< IndexError: `value` is not one of `limit` classes
};

/// Written by kernels through report_fault() of launch.cuh.
struct Fault {
  unsigned kind;
  const char* op;  // a literal of the host, passed through
  int64_t value;
  int64_t limit;
};

/// Where kernels on this device report, as an address that they can write.
Fault* fault_slot(Device device);
/// Throws what kernels that are done have reported on this device, and forgets it.
void check_faults(Device device);

}  // namespace weft::cuda

#pragma once

#include <cstdint>

namespace weft::apps {

/// Most bytes of physical memory that this process has held so far (VmHWM on Linux).
int64_t peak_resident_bytes();
/// Bytes of physical memory that it holds now.
int64_t resident_bytes();

}  // namespace weft::apps

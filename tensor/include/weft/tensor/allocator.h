#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "weft/tensor/device.h"
#include "weft/tensor/stream.h"

namespace weft {

/// Counters of one allocator, in bytes but for `count`.
struct AllocatorStats {
  int64_t allocated = 0;       ///< handed out now
  int64_t peak_allocated = 0;  ///< most ever handed out since reset_peak()
  int64_t reserved = 0;        ///< taken from the system now, in whole pages: in use and cached
  int64_t peak_reserved = 0;
  int64_t count = 0;  ///< allocations so far
};

/// Source of device memory. Thread-safe. Blocks are aligned to 64 bytes on the CPU and 256 on a
/// GPU.
class Allocator {
 public:
  virtual ~Allocator() = default;

  /// At least `bytes` bytes, usable in order on `stream`. Zero bytes give a valid pointer or null.
  /// Throws OutOfMemoryError.
  virtual void* allocate(size_t bytes, Stream stream) = 0;
  /// Gives back a block of allocate(); work already on `stream` may still use it.
  virtual void deallocate(void* pointer, size_t bytes, Stream stream) noexcept = 0;

  /// Returns cached blocks to the system.
  virtual void empty_cache() = 0;
  virtual AllocatorStats stats() const = 0;
  virtual void reset_peak() = 0;
};

/// The process-wide allocator of a device: caching, or direct with WEFT_ALLOCATOR=direct in the
/// environment.
Allocator& allocator(Device device);

/// A fresh allocator over system memory. A caching one keeps pages of 2 MiB, which blocks share; at
/// most `limit_bytes`, rounded up to whole pages, are reserved (0: no limit). With `poison` a block
/// is filled with the byte 0xff (NaN in every floating type) before it is handed out.
std::unique_ptr<Allocator> make_cpu_allocator(size_t limit_bytes = 0, bool caching = true,
                                              bool poison = false);

}  // namespace weft

#pragma once

#include <memory>

#include "weft/tensor/allocator.h"
#include "weft/tensor/device.h"

namespace weft::cuda {

struct AllocatorOptions {
  size_t limit_bytes = 0;  ///< of memory taken from the driver, in pages of 16 MiB; 0: no limit
  bool caching = true;     ///< false: cudaMalloc and cudaFree each time, for compute-sanitizer
  bool poison = false;     ///< fill blocks with the byte 0xff before they are handed out
};

/// WEFT_ALLOCATOR=caching|direct|poison and WEFT_CUDA_MEMORY_LIMIT=<bytes>.
AllocatorOptions allocator_options_from_environment();

std::unique_ptr<Allocator> make_cuda_allocator(Device device, const AllocatorOptions& options);

/// The memory of one CUDA graph. What is allocated on a stream while it is captured comes from
/// here, and nobody else uses it as long as this object lives, so that replays may write to it.
/// Blocks that were allocated before the capture and freed during it are kept as well.
class GraphMemory {
 public:
  explicit GraphMemory(Device device);
  /// Waits for the device.
  ~GraphMemory();
  GraphMemory(const GraphMemory&) = delete;
  GraphMemory& operator=(const GraphMemory&) = delete;

  /// To be called around the capture.
  void begin_capture(Stream stream);
  void end_capture(Stream stream);

 private:
  Device device_;
  void* heap_;
};

}  // namespace weft::cuda

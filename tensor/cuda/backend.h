#pragma once

// What the host code of this folder asks of the CUDA backend. Free of types of CUDA, so that those
// files compile with and without it; they call this under WEFT_HAVE_CUDA alone.
#include <string>

#include "weft/tensor/allocator.h"
#include "weft/tensor/device_info.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::cuda {

/// GPUs that the driver shows, usable or not; 0 without a driver.
int device_count();
/// Why this GPU cannot be used: no driver, one too old, no such GPU, a GPU that this build has no
/// code for. Empty where it can.
std::string unavailable_reason(int index);
/// Whether some GPU can be used. Tries none where one is in use, since trying makes a context.
bool is_any_usable();
DeviceInfo device_info(int index);

/// The stream of this thread for the device: its main one unless a StreamGuard says otherwise.
Stream current_stream(int index);
void set_current_stream(Stream stream);
/// Waits for the stream, then throws what kernels reported (see fault.h).
void synchronize(Stream stream);

/// A stream of its own, from a pool to which free_stream() gives it back.
Stream take_stream(int index);
void free_stream(Stream stream) noexcept;

void* make_event(int index, bool timed);
void destroy_event(void* event) noexcept;
void record_event(void* event, Stream stream);
void wait_for_event(void* event, Stream stream);
void synchronize_event(void* event);
double milliseconds_between(void* from, void* to);

/// The process-wide allocator of a GPU. Throws DeviceError with the reason where it is unusable.
Allocator& allocator(int index);

void set_memory_limit(int index, size_t bytes);

/// Page-locked bytes of system memory, which every GPU reads and writes without a staging copy.
/// They are taken through a GPU that is in use. The block is used again once copies from it are
/// done.
std::shared_ptr<void> allocate_pinned(size_t bytes);

/// Copies between a GPU and system memory, or between two GPUs; shapes are equal, types and layouts
/// may differ. Returns when `destination` can be read, if that is in system memory, and when
/// `source` may be changed; only page-locked system memory is still being read then.
void copy_between_devices(const Tensor& source, Tensor& destination);

}  // namespace weft::cuda

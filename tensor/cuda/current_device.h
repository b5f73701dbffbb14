#pragma once

// Which device of CUDA is the current one of a thread. A context costs memory of its
// GPU and cannot be had where that GPU is full or another process has it for itself, so only GPUs
// that are used may get one. But threads start on GPU 0, cudaSetDevice() makes the context of the
// device that it is given, and most other calls make that of the current device.

namespace weft::cuda {

/// Makes a device the current one of this thread again if it has a context. Else the thread stays
/// where it is.
void restore_device(int index) noexcept;

/// For calls that need some device but no certain one: has this thread leave a device without a
/// context for the one of first_device_in_use().
void leave_unused_device() noexcept;

/// The GPU that the process used first; -1 before that.
int first_device_in_use() noexcept;

/// To be called once the device has a context and has been found usable.
void note_device_in_use(int index) noexcept;

}  // namespace weft::cuda

#include "cuda/current_device.h"

#include <atomic>

#include <cuda_runtime_api.h>

#include "cuda/driver_api.h"

namespace weft::cuda {
namespace {

std::atomic<int> first_in_use = -1;

/// Where the driver cannot tell, every device counts as one with a context.
bool has_context(int index) noexcept {
  const DriverApi* const api = driver_api();
  if (api == nullptr) return true;
  CUdevice device = 0;
  unsigned flags = 0;
  int is_active = 0;
  return api->get_device(&device, index) == CUDA_SUCCESS &&
         api->get_context_state(device, &flags, &is_active) == CUDA_SUCCESS && is_active != 0;
}

}  // namespace

void restore_device(int index) noexcept {
  if (has_context(index)) cudaSetDevice(index);
}

void leave_unused_device() noexcept {
  // Once: guards bring a thread to no other device than one with a context.
  thread_local bool has_left = false;
  const int used = first_device_in_use();
  if (has_left || used < 0) return;
  int current = 0;
  if (cudaGetDevice(&current) == cudaSuccess && !has_context(current)) cudaSetDevice(used);
  has_left = true;
}

int first_device_in_use() noexcept {
  return first_in_use.load(std::memory_order_acquire);
}

void note_device_in_use(int index) noexcept {
  int none = -1;
  first_in_use.compare_exchange_strong(none, index, std::memory_order_acq_rel);
}

}  // namespace weft::cuda

#pragma once

#include <dlfcn.h>

namespace weft::test {

/// Whether this process has a context on the GPU, as the driver tells. False where it does not
/// tell.
inline bool has_gpu_context(int gpu) {
  using State = int(int device, unsigned* flags, int* is_active);
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return false;
  auto* const state = reinterpret_cast<State*>(dlsym(driver, "cuDevicePrimaryCtxGetState"));
  unsigned flags = 0;
  int is_active = 0;
  return state != nullptr && state(gpu, &flags, &is_active) == 0 && is_active != 0;
}

}  // namespace weft::test

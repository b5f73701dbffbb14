#include "cuda/driver_api.h"

#include <cuda_runtime_api.h>

namespace weft::cuda {
namespace {

template <class Function>
bool load(const char* name, Function*& function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  // The interface as of CUDA 12, whatever the toolkit's is.
#if CUDART_VERSION >= 12050
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result);
#else
  const cudaError_t status = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &result);
#endif
  function = reinterpret_cast<Function*>(found);
  return status == cudaSuccess && result == cudaDriverEntryPointSuccess && found != nullptr;
}

}  // namespace

const DriverApi* driver_api() {
  static DriverApi api;
  static const bool is_complete =
      load("cuMemGetAllocationGranularity", api.get_granularity) &&
      load("cuMemAddressReserve", api.reserve_addresses) &&
      load("cuMemAddressFree", api.free_addresses) && load("cuMemCreate", api.create_memory) &&
      load("cuMemRelease", api.release_memory) && load("cuMemMap", api.map_memory) &&
      load("cuMemUnmap", api.unmap_memory) && load("cuMemSetAccess", api.set_access) &&
      load("cuDeviceGet", api.get_device) &&
      load("cuDevicePrimaryCtxGetState", api.get_context_state);
  return is_complete ? &api : nullptr;
}

}  // namespace weft::cuda

#pragma once

#include <cuda.h>

namespace weft::cuda {

/// The functions of the driver that the runtime does not wrap. They are asked for when needed, so
/// that programs start where there is no driver.
struct DriverApi {
  decltype(&cuMemGetAllocationGranularity) get_granularity;
  decltype(&cuMemAddressReserve) reserve_addresses;
  decltype(&cuMemAddressFree) free_addresses;
  decltype(&cuMemCreate) create_memory;
  decltype(&cuMemRelease) release_memory;
  decltype(&cuMemMap) map_memory;
  decltype(&cuMemUnmap) unmap_memory;
  decltype(&cuMemSetAccess) set_access;
  decltype(&cuDeviceGet) get_device;
  decltype(&cuDevicePrimaryCtxGetState) get_context_state;
};

/// Null where the driver lacks one of them.
const DriverApi* driver_api();

}  // namespace weft::cuda

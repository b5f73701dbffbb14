#include <algorithm>
#include <array>
#include <atomic>

#include "cuda/launch.cuh"
#include "cuda/launch_check.h"
#include "cuda/probe.h"

namespace weft::cuda {
namespace {

__global__ void probe() {}

}  // namespace

cudaError_t probe_kernel() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, probe);
}

int code_capability(Device device) {
  static std::array<std::atomic<int>, kMaxDevices> known;
  std::atomic<int>& capability = known.at(static_cast<size_t>(device.index));
  if (capability.load() == 0) {
    const DeviceContext& context = device_context(device);
    const DeviceGuard guard(device.index);
    cudaFuncAttributes attributes{};
    WEFT_CUDA_CHECK(cudaFuncGetAttributes(&attributes, probe));
    capability.store(std::min(attributes.ptxVersion, context.capability()));
  }
  return capability.load();
}

void detail::check_launch(const char* op, Stream stream, const LaunchShape& shape) {
  cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess && waits_for_kernels() && !is_capturing(stream)) {
    status = cudaStreamSynchronize(native(stream));
    if (status == cudaSuccess) return check_faults(stream.device());
  }
  if (status == cudaSuccess) [[likely]]
    return;
  throw_launch_error(status, op, stream.device(),
                     {{shape.grid.x, shape.grid.y, shape.grid.z},
                      {shape.block.x, shape.block.y, shape.block.z},
                      shape.shared_bytes});
}

}  // namespace weft::cuda

#include "cuda/error.h"

#include <string_view>

#include "weft/tensor/check.h"

namespace weft::cuda {
namespace {

/// "cuda/allocator.cpp": a path of the building machine says nothing to the reader.
std::string_view short_path(std::string_view path) {
  const size_t name = path.rfind('/');
  if (name == std::string_view::npos || name == 0) return path;
  const size_t folder = path.rfind('/', name - 1);
  return folder == std::string_view::npos ? path : path.substr(folder + 1);
}

}  // namespace

void throw_cuda_error(cudaError_t status, const char* call, const char* file, int line) {
  cudaGetLastError();  // an error that is not fatal shall not be found again by the next check
  int device = -1;
  if (cudaGetDevice(&device) != cudaSuccess) cudaGetLastError();
  throw_error<CudaError>("cuda:{}: {} failed with {} ({}) at {}:{}", device, call,
                         cudaGetErrorName(status), cudaGetErrorString(status), short_path(file),
                         line);
}

}  // namespace weft::cuda

// One error of each kind that compute-sanitizer finds, so that scripts/sanitize-gpu.sh can tell a
// clean run from one in which nothing was looked at.
//
//   weft_sanitizer_probe memcheck|racecheck|initcheck|synccheck
#include <cstdio>
#include <cstring>

#include <cuda_runtime_api.h>

namespace weft::probe {

constexpr int kThreads = 64;

__global__ void write_beyond_the_end(int* out) {
  out[threadIdx.x + 1] = static_cast<int>(threadIdx.x);
}

__global__ void read_another_warps_word_too_early(int* out) {
  __shared__ int words[kThreads];
  words[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = words[(threadIdx.x + 32) % kThreads];
}

__global__ void read_what_nobody_wrote(const int* in, int* out) {
  out[threadIdx.x] = in[threadIdx.x] + 1;
}

/// Thread 16 waits with threads among which it does not count itself.
__global__ void wait_with_others(int* out) {
  if (threadIdx.x <= 16) __syncwarp(0xffff);
  out[threadIdx.x] = 1;
}

}  // namespace weft::probe

int main(int argc, char** argv) {
  using namespace weft::probe;
  const char* const tool = argc == 2 ? argv[1] : "";
  int* in = nullptr;
  int* out = nullptr;
  if (cudaMalloc(&in, kThreads * sizeof(int)) != cudaSuccess ||
      cudaMalloc(&out, kThreads * sizeof(int)) != cudaSuccess) {
    std::fprintf(stderr, "weft_sanitizer_probe: %s\n", cudaGetErrorString(cudaGetLastError()));
    return 1;
  }
  if (std::strcmp(tool, "memcheck") == 0) {
    write_beyond_the_end<<<1, kThreads>>>(out);
  } else if (std::strcmp(tool, "racecheck") == 0) {
    read_another_warps_word_too_early<<<1, kThreads>>>(out);
  } else if (std::strcmp(tool, "initcheck") == 0) {
    read_what_nobody_wrote<<<1, kThreads>>>(in, out);
  } else if (std::strcmp(tool, "synccheck") == 0) {
    wait_with_others<<<1, 32>>>(out);
  } else {
    std::fprintf(stderr, "weft_sanitizer_probe: the tool is missing\n");
    return 2;
  }
  cudaDeviceSynchronize();
  cudaFree(in);
  cudaFree(out);
  return 0;
}

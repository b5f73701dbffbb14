#pragma once

// The frame of cuda_ops_benchmark.cpp and the cases that have a file of their own.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "weft/tensor/generator.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::bench {

inline constexpr Device kGpu{DeviceType::cuda, 0};

inline void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  fmt::print(stderr, "{}\n", cudaGetErrorString(status));
  std::exit(1);
}

struct Settings {
  DType dtype = DType::bf16;
  std::string filter;
  int repeats = 21;
  bool list = false;
};

struct Case {
  Shape shape;
  int64_t bytes;
  std::function<void()> run;
};

/// Normal values, made of a small block repeated, so that set-up takes no time.
inline Tensor random(const Shape& shape, DType dtype, uint64_t seed) {
  std::vector<float> values(1 << 20);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto words = philox4x32(seed, i);
    values[i] = static_cast<float>(words[0] * 0x1p-31 - 1 + words[1] * 0x1p-31 - 1);
  }
  const auto count = static_cast<int64_t>(values.size());
  const Tensor block = from_vector(values, {1, count}).to(dtype).to(kGpu);
  Tensor result = empty({(shape.numel() + count - 1) / count, count}, dtype, kGpu);
  result.copy_(block.expand(result.shape()));
  return result.view({-1}).slice(0, 0, shape.numel()).view(shape);
}

inline Tensor random_ids(const Shape& shape, int64_t size, uint64_t seed) {
  std::vector<int64_t> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<int64_t>(philox4x32(seed, i)[0] % static_cast<uint64_t>(size));
  }
  return from_vector(values, shape).to(kGpu);
}

inline int64_t bytes_of(const std::vector<Tensor>& tensors) {
  int64_t total = 0;
  for (const Tensor& tensor : tensors) {
    total += tensor.numel() * static_cast<int64_t>(size_of(tensor.dtype()));
  }
  return total;
}

/// Median seconds of one call.
inline double median_seconds(int repeats, const std::function<void()>& body) {
  const auto stream = static_cast<cudaStream_t>(current_stream(kGpu).native_handle());
  cudaEvent_t begin;
  cudaEvent_t end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  const auto timed = [&](int calls) {
    check(cudaEventRecord(begin, stream));
    for (int i = 0; i < calls; ++i) body();
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    return 1e-3 * static_cast<double>(milliseconds) / calls;
  };
  timed(3);  // warms up
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) seconds.push_back(timed(4));
  std::sort(seconds.begin(), seconds.end());
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  return seconds[seconds.size() / 2];
}

inline double copy_seconds(int repeats, int64_t bytes) {
  const Tensor from = full({bytes / 2}, 1, DType::u8, kGpu);
  Tensor to = full({bytes / 2}, 2, DType::u8, kGpu);
  const auto stream = static_cast<cudaStream_t>(current_stream(kGpu).native_handle());
  return median_seconds(repeats, [&] {
    check(cudaMemcpyAsync(to.raw_data(), from.raw_data(), static_cast<size_t>(bytes / 2),
                          cudaMemcpyDeviceToDevice, stream));
  });
}

class Benchmark {
 public:
  explicit Benchmark(const Settings& settings) : settings_(settings) {}

  /// Times `run` if its name is wanted; `make` prepares the case.
  void add(const std::string& name, const std::function<Case()>& make) {
    if (!wanted(name)) return;
    if (settings_.list) {
      fmt::print("{}\n", name);
      return;
    }
    const Case c = make();
    const double copy = copy_seconds(settings_.repeats, c.bytes);
    const double seconds = median_seconds(settings_.repeats, c.run);
    const auto bytes = static_cast<double>(c.bytes);
    fmt::print(
        "{{\"benchmark\": \"{}\", \"dtype\": \"{}\", \"shape\": {}, \"bytes\": {}, \"us\": "
        "{:.2f}, \"gb_per_s\": {:.1f}, \"copy_gb_per_s\": {:.1f}, \"of_copy\": {:.3f}}}\n",
        name, to_string(settings_.dtype), to_string(c.shape), c.bytes, 1e6 * seconds,
        1e-9 * bytes / seconds, 1e-9 * bytes / copy, copy / seconds);
    std::fflush(stdout);
  }

 private:
  bool wanted(std::string_view name) const {
    if (settings_.filter.empty()) return true;
    std::string_view rest = settings_.filter;
    while (!rest.empty()) {
      const size_t comma = std::min(rest.find(','), rest.size());
      if (name.find(rest.substr(0, comma)) != std::string_view::npos) return true;
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    return false;
  }

  Settings settings_;
};

/// Ops that read and write at places that indices name, and the loss; in cuda_ops_tables.cpp.
void add_tables(Benchmark& benchmark, DType dtype);
/// Layers of features and of images, some of them by cuDNN and by Weft; in cuda_ops_layers.cpp.
void add_linear(Benchmark& benchmark, DType dtype);
void add_hidden_layers(Benchmark& benchmark, DType dtype);
void add_mlps(Benchmark& benchmark, DType dtype);
void add_layers(Benchmark& benchmark, DType dtype);
/// Lists of parameters, 64 Mi elements together; in cuda_ops_tables.cpp.
void add_optimizers(Benchmark& benchmark);

}  // namespace weft::bench

// Times the full-attention primitive: on the CPU against this machine's matrix products, on a GPU
// by every backend.
//
//   weft_flash_attention_benchmark [--dtype f32] [--filter long,decode] [--repeats 7]
//   weft_flash_attention_benchmark --device cuda [--dtype bf16] [--filter P-8k] [--backend cudnn]
//
// One JSON object a row on stdout. FLOPs count visible (query, key) pairs alone: forward
// 2 H (D + Dv) P, backward 2 H (3 D + 2 Dv) P. `matmul_gflops` is a 1024^3 product of the same
// type, timed between the cases; `fraction` is the rate of attention over it. On a GPU times are
// medians between events of the stream; peers/torch_gpu_attention.py does the same with PyTorch.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "weft/attention/attention_backend.h"
#include "weft/attention/kernels/flash_attention.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/parallel.h"
#include "weft/tensor/stream.h"

#include "answer_version.h"
#include "random_operand.h"

namespace {

using namespace weft;
using attention::FlashAttentionOptions;
using bench::random_operand;

struct Case {
  const char* name;
  int64_t batch, queries, keys, heads, kv_heads, dim;
  int64_t window = 0;
};

constexpr Case kCases[] = {
    {"long", 1, 8192, 8192, 8, 2, 64},        {"train-d32", 16, 256, 256, 6, 6, 32},
    {"train-d64", 8, 256, 256, 6, 6, 64},     {"train-768", 2, 256, 256, 12, 12, 64},
    {"window", 1, 8192, 8192, 8, 2, 64, 512}, {"wide", 1, 2048, 2048, 8, 2, 128},
    {"decode", 1, 1, 8192, 8, 2, 64},         {"decode-mha", 1, 1, 2048, 12, 12, 64},
    {"decode-long", 1, 1, 65536, 8, 2, 64},   {"prefill", 1, 64, 8192, 8, 2, 64},
};

/// P and S are shapes of sparse attention's papers, 124M and 340M those of models.
constexpr Case kGpuCases[] = {
    {"124M-1k", 32, 1024, 1024, 12, 12, 64},       {"340M-8k", 4, 8192, 8192, 16, 16, 64},
    {"340M-32k", 1, 32768, 32768, 16, 16, 64},     {"340M-64k", 1, 65536, 65536, 16, 16, 64},
    {"P-8k", 1, 8192, 8192, 64, 4, 128},           {"P-32k", 1, 32768, 32768, 64, 4, 128},
    {"P-64k", 1, 65536, 65536, 64, 4, 128},        {"S-8k", 1, 8192, 8192, 32, 2, 64},
    {"S-32k", 1, 32768, 32768, 32, 2, 64},         {"S-64k", 1, 65536, 65536, 32, 2, 64},
    {"P-8k-w512", 1, 8192, 8192, 64, 4, 128, 512}, {"P-64k-w512", 1, 65536, 65536, 64, 4, 128, 512},
};

double pairs(const Case& c) {
  double sum = 0;
  for (int64_t t = 0; t < c.queries; ++t) {
    const int64_t seen = c.keys - c.queries + t + 1;
    sum += static_cast<double>(c.window > 0 ? std::min(seen, c.window) : seen);
  }
  return sum;
}

template <class Body>
double median_seconds(int repeats, Body&& body) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  for (int i = 0; i < repeats + 1; ++i) {
    const auto start = Clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(seconds.begin() + 1, seconds.end());  // the first call warms up
  return seconds[static_cast<size_t>(1 + repeats / 2)];
}

double matmul_gflops(DType dtype) {
  const Tensor a = random_operand({1024, 1024}, dtype, 1),
               b = random_operand({1024, 1024}, dtype, 2);
  const double seconds = median_seconds(9, [&] { matmul(a, b); });
  return 2.0 * 1024 * 1024 * 1024 / seconds * 1e-9;
}

void report(const Case& c, DType dtype, int repeats) {
  const Tensor q = random_operand({c.batch, c.queries, c.heads, c.dim}, dtype, 1);
  const Tensor k = random_operand({c.batch, c.keys, c.kv_heads, c.dim}, dtype, 2);
  const Tensor v = random_operand({c.batch, c.keys, c.kv_heads, c.dim}, dtype, 3);
  const Tensor dout = random_operand(q.shape(), dtype, 4);
  const FlashAttentionOptions options{.window = c.window};
  const double matmul_rate = matmul_gflops(dtype);
  // Short problems are repeated inside one timing.
  const double flops = 2.0 * static_cast<double>(c.batch * c.heads * 2 * c.dim) * pairs(c);
  const int inner = std::clamp(static_cast<int>(2e9 / flops), 1, 200);
  attention::FlashAttentionOutput out;
  const double forward =
      median_seconds(repeats,
                     [&] {
                       for (int i = 0; i < inner; ++i)
                         out = attention::flash_attention_forward(q, k, v, options);
                     }) /
      inner;
  double backward = 0;
  if (c.queries == c.keys) {
    backward = median_seconds(repeats,
                              [&] {
                                for (int i = 0; i < inner; ++i)
                                  attention::flash_attention_backward(dout, q, k, v, out.o, out.lse,
                                                                      options);
                              }) /
               inner;
  }
  const double kv_bytes =
      static_cast<double>(k.numel() + v.numel()) * static_cast<double>(size_of(dtype));
  std::cout << fmt::format(
      "{{\"case\": \"{}\", \"dtype\": \"{}\", \"threads\": {}, \"shape\": \"B{} T{} S{} H{} Hk{} "
      "D{} w{}\", \"matmul_gflops\": {:.1f}, \"forward_ms\": {:.3f}, \"forward_gflops\": {:.1f}, "
      "\"forward_kv_gb_per_s\": {:.2f}",
      c.name, to_string(dtype), num_threads(), c.batch, c.queries, c.keys, c.heads, c.kv_heads,
      c.dim, c.window, matmul_rate, forward * 1e3, flops / forward * 1e-9,
      kv_bytes / forward * 1e-9);
  if (backward > 0) {
    const double all = 3.5 * flops / (forward + backward) * 1e-9;
    std::cout << fmt::format(
        ", \"backward_ms\": {:.3f}, \"backward_gflops\": {:.1f}, \"gflops\": {:.1f}, "
        "\"fraction\": {:.3f}",
        backward * 1e3, 2.5 * flops / backward * 1e-9, all, all / matmul_rate);
  }
  std::cout << "}" << std::endl;
}

/// Random rows of the GPU, which repeat after some.
Tensor random_on(Device device, const Shape& shape, DType dtype, uint64_t seed) {
  constexpr int64_t kRows = 256;
  Tensor all = empty(shape, dtype, device);
  Shape some = shape;
  some[1] = std::min(shape[1], kRows);
  const Tensor rows = random_operand(some, dtype, seed).to(device);
  for (int64_t first = 0; first < shape[1]; first += kRows) {
    const int64_t count = std::min(kRows, shape[1] - first);
    all.slice(1, first, first + count).copy_(rows.slice(1, 0, count));
  }
  return all;
}

/// Median time on the device; fewer repeats where one takes long.
template <class Body>
double median_ms(Device device, int repeats, Body&& body) {
  constexpr double kMostMs = 3000;
  std::vector<double> times;
  double sum = 0;
  for (int i = 0; i < repeats + 2 && (sum < kMostMs || times.empty()); ++i) {
    Event begin(device, true), end(device, true);
    begin.record(current_stream(device));
    body();
    end.record(current_stream(device));
    end.synchronize();
    sum += begin.milliseconds_to(end);
    if (i >= 2 || sum > kMostMs / 3) times.push_back(begin.milliseconds_to(end));  // after warm-up
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void report_on(Device device, const Case& c, DType dtype, attention::AttentionBackend backend,
               int repeats) {
  attention::set_attention_backend(backend);
  const std::string head = fmt::format(
      "{{\"case\": \"{}\", \"device\": \"{}\", \"backend\": \"{}\", \"dtype\": \"{}\", \"shape\": "
      "\"B{} T{} S{} H{} Hk{} D{} w{}\"",
      c.name, to_string(device), to_string(backend), to_string(dtype), c.batch, c.queries, c.keys,
      c.heads, c.kv_heads, c.dim, c.window);
  try {
    const Tensor q = random_on(device, {c.batch, c.queries, c.heads, c.dim}, dtype, 1);
    const Tensor k = random_on(device, {c.batch, c.keys, c.kv_heads, c.dim}, dtype, 2);
    const Tensor v = random_on(device, {c.batch, c.keys, c.kv_heads, c.dim}, dtype, 3);
    const Tensor dout = random_on(device, q.shape(), dtype, 4);
    const FlashAttentionOptions options{.window = c.window};
    const double flops = 2.0 * static_cast<double>(c.batch * c.heads * 2 * c.dim) * pairs(c);
    attention::FlashAttentionOutput out;
    const double forward = median_ms(
        device, repeats, [&] { out = attention::flash_attention_forward(q, k, v, options); });
    const double backward = median_ms(device, repeats, [&] {
      attention::flash_attention_backward(dout, q, k, v, out.o, out.lse, options);
    });
    std::cout << head
              << fmt::format(
                     ", \"forward_ms\": {:.4f}, \"forward_tflops\": {:.1f}, \"backward_ms\": "
                     "{:.4f}, \"backward_tflops\": {:.1f}}}",
                     forward, flops / forward * 1e-9, backward, 2.5 * flops / backward * 1e-9)
              << std::endl;
  } catch (const Error& error) {
    std::cout << head << ", \"error\": \"" << error.what() << "\"}" << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (weft::bench::answer_version(argc, argv)) return 0;
  Device device = kCpu;
  std::optional<DType> dtype;
  std::string filter, backends = ",cudnn,weft,";
  int repeats = 7;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--dtype") dtype = parse_dtype(argv[i + 1]);
    if (flag == "--filter") filter = std::string(",") + argv[i + 1] + ",";
    if (flag == "--repeats") repeats = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--device") device = parse_device(argv[i + 1]);
    if (flag == "--backend") backends = fmt::format(",{},", argv[i + 1]);
  }
  const auto is_wanted = [&](const Case& c) {
    return filter.empty() || filter.find(fmt::format(",{},", c.name)) != std::string::npos;
  };
  if (device.is_cuda()) {
    using attention::AttentionBackend;
    for (const Case& c : kGpuCases) {
      if (!is_wanted(c)) continue;
      for (const auto backend :
           {AttentionBackend::cudnn, AttentionBackend::weft, AttentionBackend::reference}) {
        if (backends.find(fmt::format(",{},", to_string(backend))) != std::string::npos)
          report_on(device, c, dtype.value_or(DType::bf16), backend, repeats);
      }
    }
    return 0;
  }
  // The first products compile their code and bring the cores up to speed.
  for (int i = 0; i < 5; ++i) matmul_gflops(dtype.value_or(DType::f32));
  for (const Case& c : kCases)
    if (is_wanted(c)) report(c, dtype.value_or(DType::f32), repeats);
  return 0;
}

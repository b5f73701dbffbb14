// Times the full-attention primitive against this machine's matrix products.
//
//   weft_flash_attention_benchmark [--dtype f32] [--filter long,decode] [--repeats 7]
//
// One JSON object a row on stdout. FLOPs count visible (query, key) pairs alone: forward
// 2 H (D + Dv) P, backward 2 H (3 D + 2 Dv) P. `matmul_gflops` is a 1024^3 product of the same
// type, timed between the cases; `fraction` is the rate of attention over it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "weft/attention/kernels/flash_attention.h"
#include "weft/tensor/generator.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/parallel.h"

namespace {

using namespace weft;
using attention::FlashAttentionOptions;

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

Tensor random(const Shape& shape, DType dtype, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    // The sum of two uniform numbers: close enough to normal for realistic softmax rows.
    const auto words = philox4x32(seed, i);
    values[i] = static_cast<float>((words[0] * 0x1p-31 - 1 + words[1] * 0x1p-31 - 1) * 1.2);
  }
  return from_vector(values, shape).to(dtype);
}

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
  const Tensor a = random({1024, 1024}, dtype, 1), b = random({1024, 1024}, dtype, 2);
  const double seconds = median_seconds(9, [&] { matmul(a, b); });
  return 2.0 * 1024 * 1024 * 1024 / seconds * 1e-9;
}

void report(const Case& c, DType dtype, int repeats) {
  const Tensor q = random({c.batch, c.queries, c.heads, c.dim}, dtype, 1);
  const Tensor k = random({c.batch, c.keys, c.kv_heads, c.dim}, dtype, 2);
  const Tensor v = random({c.batch, c.keys, c.kv_heads, c.dim}, dtype, 3);
  const Tensor dout = random(q.shape(), dtype, 4);
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

}  // namespace

int main(int argc, char** argv) {
  DType dtype = DType::f32;
  std::string filter;
  int repeats = 7;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--dtype") dtype = parse_dtype(argv[i + 1]);
    if (flag == "--filter") filter = std::string(",") + argv[i + 1] + ",";
    if (flag == "--repeats") repeats = std::max(1, std::atoi(argv[i + 1]));
  }
  // The first products compile their code and bring the cores up to speed.
  for (int i = 0; i < 5; ++i) matmul_gflops(dtype);
  for (const Case& c : kCases) {
    if (filter.empty() || filter.find(fmt::format(",{},", c.name)) != std::string::npos)
      report(c, dtype, repeats);
  }
  return 0;
}

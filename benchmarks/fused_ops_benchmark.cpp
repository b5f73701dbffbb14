// Times the fused ops of a transformer block against copies of as many bytes.
//
//   weft_fused_ops_benchmark [--dtype f32] [--filter rms_norm,swiglu] [--repeats 15]
//
// One JSON object a row on stdout. `gb_per_s` counts the operands that an op must read and the
// results that it must write, once each; `copy_gb_per_s` is what Tensor::copy_ reaches when it
// reads and writes as many bytes in all, timed right before; `fraction` is their ratio. Operands
// are warm, as they are in training, where the previous op has just written them. Rows with
// `gflops` are bound by products: there `fraction` is the rate over that of the products alone.
#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "weft/tensor/generator.h"
#include "weft/tensor/ops/activation.h"
#include "weft/tensor/ops/cross_entropy.h"
#include "weft/tensor/ops/layer_norm.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/ops/rms_norm.h"
#include "weft/tensor/ops/rope.h"
#include "weft/tensor/parallel.h"

#include "answer_version.h"
#include "random_operand.h"

namespace {

using namespace weft;
using bench::random_operand;

struct Settings {
  DType dtype = DType::f32;
  std::string filter;
  int repeats = 15;
};

/// Median seconds of one call; calls are repeated inside one timing until it lasts a while.
double median_seconds(int repeats, const std::function<void()>& body) {
  using Clock = std::chrono::steady_clock;
  const auto timed = [&](int calls) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) body();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  timed(2);  // warms up
  const int calls = std::clamp(static_cast<int>(3e-3 / timed(1)), 1, 1000);
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) seconds.push_back(timed(calls) / calls);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

double copy_rate(int64_t bytes, int repeats) {
  const Tensor source = zeros({bytes / 2}, DType::u8);
  Tensor destination = zeros({bytes / 2}, DType::u8);
  const double seconds = median_seconds(repeats, [&] { destination.copy_(source); });
  return static_cast<double>(bytes) / seconds * 1e-9;
}

class Report {
 public:
  explicit Report(const Settings& settings) : settings_(settings) {}

  /// An op that reads and writes `operands` tensors of `shape`.
  void streaming(const std::string& op, const Shape& shape, int64_t operands,
                 const std::function<void()>& body) {
    if (!wanted(op)) return;
    const int64_t bytes = operands * shape.numel() * static_cast<int64_t>(size_of(settings_.dtype));
    const double copy = copy_rate(bytes, settings_.repeats);
    const double seconds = median_seconds(settings_.repeats, body);
    const double rate = static_cast<double>(bytes) / seconds * 1e-9;
    std::cout << fmt::format(
                     "{{\"op\": \"{}\", \"shape\": \"{}\", \"dtype\": \"{}\", \"threads\": {}, "
                     "\"us\": {:.1f}, \"gb_per_s\": {:.1f}, \"copy_gb_per_s\": {:.1f}, "
                     "\"fraction\": {:.2f}}}",
                     op, to_string(shape), to_string(settings_.dtype), num_threads(), seconds * 1e6,
                     rate, copy, rate / copy)
              << std::endl;
  }

  /// An op bound by products, which alone take what `products` takes.
  void products(const std::string& op, const std::string& shape, double flops,
                const std::function<void()>& products, const std::function<void()>& body) {
    if (!wanted(op)) return;
    const int repeats = std::max(3, settings_.repeats / 3);
    const double alone = median_seconds(repeats, products);
    const double seconds = median_seconds(repeats, body);
    std::cout << fmt::format(
                     "{{\"op\": \"{}\", \"shape\": \"{}\", \"dtype\": \"{}\", \"threads\": {}, "
                     "\"us\": {:.1f}, \"gflops\": {:.1f}, \"products_gflops\": {:.1f}, "
                     "\"fraction\": {:.2f}}}",
                     op, shape, to_string(settings_.dtype), num_threads(), seconds * 1e6,
                     flops / seconds * 1e-9, flops / alone * 1e-9, alone / seconds)
              << std::endl;
  }

  bool wanted(const std::string& op) const {
    if (settings_.filter.empty()) return true;
    size_t start = 0;
    while (start <= settings_.filter.size()) {
      const size_t stop = std::min(settings_.filter.find(',', start), settings_.filter.size());
      if (op.find(settings_.filter.substr(start, stop - start)) != std::string::npos) return true;
      start = stop + 1;
    }
    return false;
  }

 private:
  Settings settings_;
};

void norms(Report& report, DType dtype) {
  for (const Shape& shape : {Shape{4096, 192}, Shape{2048, 384}, Shape{512, 768}, Shape{2048, 1024},
                             Shape{16384, 1024}}) {
    const Tensor x = random_operand(shape, dtype, 1);
    const Tensor other = random_operand(shape, dtype, 2);
    const Tensor dy = random_operand(shape, dtype, 3);
    const Tensor gain = random_operand({shape[1]}, DType::f32, 4);
    const Tensor inverse = rms_norm_forward(x, gain).inverse_rms;
    report.streaming("rms_norm", shape, 2, [&] { rms_norm_forward(x, gain); });
    report.streaming("rms_norm_residual", shape, 4, [&] { rms_norm_residual(x, other, gain); });
    report.streaming("rms_norm_backward", shape, 3,
                     [&] { rms_norm_backward(dy, x, gain, inverse); });
    report.streaming("rms_norm_residual_backward", shape, 4,
                     [&] { rms_norm_backward(dy, x, gain, inverse, other); });
    const LayerNormResult norm = layer_norm_forward(x, gain, gain);
    report.streaming("layer_norm", shape, 2, [&] { layer_norm_forward(x, gain, gain); });
    report.streaming("layer_norm_backward", shape, 3,
                     [&] { layer_norm_backward(dy, x, gain, norm.mean, norm.rstd); });
  }
}

void activations(Report& report, DType dtype) {
  for (const Shape& shape :
       {Shape{4096, 512}, Shape{2048, 1024}, Shape{512, 2048}, Shape{8192, 2816}}) {
    const Tensor gate = random_operand(shape, dtype, 1);
    const Tensor up = random_operand(shape, dtype, 2);
    const Tensor dy = random_operand(shape, dtype, 3);
    const Tensor packed = random_operand({shape[0], 2 * shape[1]}, dtype, 4);
    report.streaming("swiglu", shape, 3, [&] { swiglu(gate, up); });
    report.streaming("swiglu_backward", shape, 5, [&] { swiglu_backward(dy, gate, up); });
    report.streaming("swiglu_packed", shape, 3, [&] { swiglu_packed(packed); });
    report.streaming("swiglu_packed_backward", shape, 5,
                     [&] { swiglu_packed_backward(dy, packed); });
    report.streaming("gelu", shape, 2, [&] { gelu(gate); });
    report.streaming("gelu_backward", shape, 3, [&] { gelu_backward(dy, gate); });
    report.streaming("gelu_tanh", shape, 2, [&] { gelu(gate, Gelu::tanh); });
    report.streaming("gelu_tanh_backward", shape, 3, [&] { gelu_backward(dy, gate, Gelu::tanh); });
  }
}

void ropes(Report& report, DType dtype) {
  for (const Shape& shape : {Shape{16, 256, 6, 32}, Shape{8, 256, 6, 64}, Shape{2, 256, 12, 64},
                             Shape{4, 2048, 16, 128}}) {
    Tensor x = random_operand(shape, dtype, 1);
    const QkvSplit split{.heads = shape[2], .kv_heads = shape[2], .head_dim = shape[3]};
    Tensor packed = random_operand({shape[0], shape[1], split.width()}, dtype, 2);
    Qkv parts = split_qkv(packed, split);
    report.streaming("rope", shape, 2, [&] { rope(x); });
    report.streaming("rope_in_place", shape, 2, [&] { rope_(x); });
    report.streaming("rope_packed_in_place", shape, 2, [&] { rope_(parts.q); });
    report.streaming("rope_qkv", shape, 4, [&] { rope_qkv(packed, split); });
    report.streaming("rope_qkv_backward", shape, 6, [&] {
      rope_qkv_backward({x, x, x}, packed.shape(), dtype, split);
    });
  }
}

Tensor random_targets(int64_t n, int64_t classes) {
  std::vector<int64_t> targets;
  for (int64_t i = 0; i < n; ++i) {
    targets.push_back(philox4x32(9, static_cast<uint64_t>(i))[0] % classes);
  }
  return from_vector(targets, {n});
}

void losses(Report& report, DType dtype) {
  for (const Shape& shape : {Shape{4096, 256}, Shape{512, 50304}, Shape{2048, 32000}}) {
    if (!report.wanted("cross_entropy_") && !report.wanted("cross_entropy")) break;
    const Tensor logits = random_operand(shape, dtype, 1);
    const Tensor targets = random_targets(shape[0], shape[1]);
    const CrossEntropyResult result = cross_entropy_forward(logits, targets);
    const Tensor dlosses = full({1}, 1e-3).expand({shape[0]});
    report.streaming("cross_entropy", shape, 1, [&] { cross_entropy_forward(logits, targets); });
    report.streaming("cross_entropy_backward", shape, 2,
                     [&] { cross_entropy_backward(dlosses, logits, targets, result.logsumexp); });
  }
  struct Size {
    int64_t n, classes, width;
  };
  for (const auto& [n, classes, width] :
       {Size{4096, 256, 192}, Size{2048, 256, 384}, Size{512, 50304, 768}}) {
    if (!report.wanted("linear_cross_entropy")) break;
    const Tensor hidden = random_operand({n, width}, dtype, 1);
    const Tensor weight = random_operand({classes, width}, DType::f32, 2);
    const Tensor targets = random_targets(n, classes);
    const Tensor factor = low_precision_copy(weight, dtype);
    const Tensor dlogits = random_operand({n, classes}, dtype, 3);
    const double flops = 6.0 * static_cast<double>(n * classes * width);
    report.products(
        "linear_cross_entropy", fmt::format("N{} V{} E{}", n, classes, width), flops,
        [&] {
          matmul(hidden, factor, {.transpose_b = true, .out_dtype = DType::f32});
          matmul(dlogits, factor);
          matmul(dlogits, hidden, {.transpose_a = true, .out_dtype = DType::f32});
        },
        [&] {
          linear_cross_entropy_forward(hidden, weight, targets,
                                       {.want_dhidden = true, .want_dweight = true});
        });
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (weft::bench::answer_version(argc, argv)) return 0;
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--dtype") settings.dtype = parse_dtype(argv[i + 1]);
    if (flag == "--filter") settings.filter = argv[i + 1];
    if (flag == "--repeats") settings.repeats = std::max(1, std::atoi(argv[i + 1]));
  }
  Report report(settings);
  norms(report, settings.dtype);
  activations(report, settings.dtype);
  ropes(report, settings.dtype);
  losses(report, settings.dtype);
  return 0;
}

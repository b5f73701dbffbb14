// Times ops on the GPU against copies of as many bytes: one JSON object a line.
//
//   weft_cuda_ops_benchmark [--dtype bf16] [--filter rms_norm,swiglu] [--repeats 21]
//
// `bytes` counts the operands that an op must read and the results that it must write, once each.
// `copy_gb_per_s` is what a copy within device memory reaches that reads and writes as many bytes
// in all, timed right before; `of_copy` is the ratio of the rates. Operands are larger than the L2
// cache. Times are medians between events on the stream. Where checks of indices wait for the GPU,
// the kernels are timed without them.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "weft/tensor/cudnn_choice.h"
#include "weft/tensor/generator.h"
#include "weft/tensor/ops/activation.h"
#include "weft/tensor/ops/batch_norm.h"
#include "weft/tensor/ops/cumsum.h"
#include "weft/tensor/ops/embedding.h"
#include "weft/tensor/ops/layer_norm.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/pool.h"
#include "weft/tensor/ops/reduce.h"
#include "weft/tensor/ops/rms_norm.h"
#include "weft/tensor/ops/rope.h"
#include "weft/tensor/ops/softmax.h"
#include "weft/tensor/ops/topk.h"

#include "kernels/adamw.h"
#include "kernels/grad_norm.h"
#include "kernels/muon.h"
#include "kernels/sgd.h"
#include "ops/cross_entropy_kernels.h"
#include "ops/embedding_kernels.h"
#include "ops/gather_kernels.h"

namespace {

using namespace weft;

constexpr Device kGpu{DeviceType::cuda, 0};

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  fmt::print(stderr, "{}\n", cudaGetErrorString(status));
  std::exit(1);
}

struct Settings {
  DType dtype = DType::bf16;
  std::string filter;
  int repeats = 21;
};

struct Case {
  Shape shape;
  int64_t bytes;
  std::function<void()> run;
};

/// Normal values, made of a small block repeated, so that set-up takes no time.
Tensor random(const Shape& shape, DType dtype, uint64_t seed) {
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

Tensor random_ids(const Shape& shape, int64_t size, uint64_t seed) {
  std::vector<int64_t> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<int64_t>(philox4x32(seed, i)[0] % static_cast<uint64_t>(size));
  }
  return from_vector(values, shape).to(kGpu);
}

int64_t bytes_of(const std::vector<Tensor>& tensors) {
  int64_t total = 0;
  for (const Tensor& tensor : tensors) {
    total += tensor.numel() * static_cast<int64_t>(size_of(tensor.dtype()));
  }
  return total;
}

/// Median seconds of one call.
double median_seconds(int repeats, const std::function<void()>& body) {
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

double copy_seconds(int repeats, int64_t bytes) {
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

void add_rows(Benchmark& benchmark, DType dtype) {
  for (const int64_t width : {1024, 2048, 8192, 50304}) {
    const Shape shape{(int64_t{1} << 26) / width, width};
    benchmark.add("softmax", [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      return {shape, 2 * bytes_of({x}), [x] { softmax(x); }};
    });
    benchmark.add("softmax_backward", [&]() -> Case {
      const Tensor y = softmax(random(shape, dtype, 1));
      const Tensor dy = random(shape, dtype, 2);
      return {shape, 3 * bytes_of({y}), [y, dy] { softmax_backward(dy, y); }};
    });
  }
  for (const int64_t width : {768, 1024, 4096, 8192}) {
    const Shape shape{(int64_t{1} << 26) / width, width};
    const auto gain = [&] { return random({width}, DType::f32, 3); };
    benchmark.add("rms_norm", [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      return {shape, 2 * bytes_of({x}), [x, gain = gain()] { rms_norm(x, gain); }};
    });
    benchmark.add("rms_norm_residual", [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      const Tensor y = random(shape, dtype, 2);
      return {shape, 4 * bytes_of({x}), [x, y, gain = gain()] { rms_norm_residual(x, y, gain); }};
    });
    benchmark.add("rms_norm_backward", [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      const Tensor dy = random(shape, dtype, 2);
      const Tensor g = gain();
      const Tensor rms = rms_norm_forward(x, g).inverse_rms;
      return {shape, 3 * bytes_of({x}), [=] { rms_norm_backward(dy, x, g, rms); }};
    });
    benchmark.add("rms_norm_residual_backward", [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      const Tensor dy = random(shape, dtype, 2);
      const Tensor dsum = random(shape, dtype, 3);
      const Tensor g = gain();
      const Tensor rms = rms_norm_forward(x, g).inverse_rms;
      return {shape, 4 * bytes_of({x}), [=] { rms_norm_backward(dy, x, g, rms, dsum); }};
    });
    benchmark.add("layer_norm", [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      return {shape, 2 * bytes_of({x}), [x, g = gain()] { layer_norm(x, g, g); }};
    });
    benchmark.add("layer_norm_backward", [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      const Tensor dy = random(shape, dtype, 2);
      const Tensor g = gain();
      const LayerNormResult r = layer_norm_forward(x, g);
      return {shape, 3 * bytes_of({x}), [=] { layer_norm_backward(dy, x, g, r.mean, r.rstd); }};
    });
  }
}

void add_elementwise(Benchmark& benchmark, DType dtype) {
  const Shape shape{32768, 2048};
  benchmark.add("silu", [&]() -> Case {
    const Tensor x = random(shape, dtype, 1);
    return {shape, 2 * bytes_of({x}), [x] { silu(x); }};
  });
  benchmark.add("gelu_tanh", [&]() -> Case {
    const Tensor x = random(shape, dtype, 1);
    return {shape, 2 * bytes_of({x}), [x] { gelu(x, Gelu::tanh); }};
  });
  benchmark.add("gelu_exact_backward", [&]() -> Case {
    const Tensor x = random(shape, dtype, 1);
    return {shape, 3 * bytes_of({x}), [x] { gelu_backward(x, x); }};
  });
  benchmark.add("swiglu_packed", [&]() -> Case {
    const Tensor packed = random({32768, 4096}, dtype, 1);
    return {packed.shape(), bytes_of({packed}) * 3 / 2, [packed] { swiglu_packed(packed); }};
  });
  benchmark.add("swiglu_packed_backward", [&]() -> Case {
    const Tensor packed = random({32768, 4096}, dtype, 1);
    const Tensor dy = random(shape, dtype, 2);
    return {packed.shape(), bytes_of({packed}) * 5 / 2,
            [packed, dy] { swiglu_packed_backward(dy, packed); }};
  });
  benchmark.add("swiglu_packed_backward_with_value", [&]() -> Case {
    const Tensor packed = random({32768, 4096}, dtype, 1);
    Tensor dy = random(shape, dtype, 2);
    return {packed.shape(), bytes_of({packed}) * 3,
            [packed, dy]() mutable { swiglu_packed_backward_(dy, packed); }};
  });
  for (const int64_t channels : {64, 128}) {
    benchmark.add("rope", [&]() -> Case {
      const Tensor x = random({8, 4096, 2048 / channels, channels}, dtype, 1);
      return {x.shape(), 2 * bytes_of({x}), [x] { rope(x); }};
    });
  }
}

void add_reductions(Benchmark& benchmark, DType dtype) {
  const Shape shape{32768, 2048};
  const auto add = [&](const char* name, const std::function<void(const Tensor&)>& run) {
    benchmark.add(name, [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      return {shape, bytes_of({x}), [x, run] { run(x); }};
    });
  };
  add("sum_last", [](const Tensor& x) { sum(x, -1); });
  add("sum_first", [](const Tensor& x) { sum(x, 0); });
  add("sum_all", [](const Tensor& x) { sum(x); });
  add("norm_all", [](const Tensor& x) { norm(x); });
  add("var_last", [](const Tensor& x) { var(x, -1); });
  add("max_first", [](const Tensor& x) { max(x, 0); });
  add("argmax_last", [](const Tensor& x) { argmax(x, -1); });
  add("logsumexp_last", [](const Tensor& x) { logsumexp(x, -1); });
  add("topk_last", [](const Tensor& x) { topk(x, 16); });
  benchmark.add("cumsum_last", [&]() -> Case {
    const Tensor x = random(shape, dtype, 1);
    return {shape, 2 * bytes_of({x}), [x] { cumsum(x, -1); }};
  });
}

void add_tables(Benchmark& benchmark, DType dtype) {
  const Stream stream = current_stream(kGpu);
  constexpr int64_t kVocabulary = 50304;
  benchmark.add("embedding", [&]() -> Case {
    const Tensor table = random({kVocabulary, 1024}, dtype, 1);
    const Tensor ids = random_ids({65536}, kVocabulary, 2);
    Tensor out = empty({65536, 1024}, dtype, kGpu);
    return {out.shape(), 2 * bytes_of({out}),
            [=]() mutable { embedding_cuda(table, ids, out, stream); }};
  });
  benchmark.add("embedding_of_f32", [&]() -> Case {
    const Tensor table = random({kVocabulary, 1024}, DType::f32, 1);
    const Tensor ids = random_ids({65536}, kVocabulary, 2);
    return {{65536, 1024}, int64_t{65536} * 1024 * (4 + static_cast<int64_t>(size_of(dtype))), [=] {
              embedding(table, ids, dtype);
            }};
  });
  benchmark.add("embedding_backward", [&]() -> Case {
    const Tensor dy = random({65536, 1024}, dtype, 1);
    const Tensor ids = random_ids({65536}, kVocabulary, 2);
    Tensor dtable = zeros({kVocabulary, 1024}, dtype, kGpu);
    return {dy.shape(), bytes_of({dy, dtable}),
            [=]() mutable { embedding_backward_cuda(dy, ids, dtable, stream); }};
  });
  benchmark.add("gather_rows", [&]() -> Case {
    const Tensor x = random({kVocabulary, 1024}, dtype, 1);
    const Tensor index = random_ids({65536, 1}, kVocabulary, 2).expand({65536, 1024});
    Tensor out = empty({65536, 1024}, dtype, kGpu);
    return {out.shape(), 2 * bytes_of({out}),
            [=]() mutable { gather_cuda(x, 0, index, out, stream); }};
  });
  const int64_t rows = 4096;
  const auto targets = [&] { return random_ids({rows}, kVocabulary, 3); };
  benchmark.add("cross_entropy", [&]() -> Case {
    const CrossEntropyRows given{random({rows, kVocabulary}, dtype, 1), targets(), -100, 0};
    Tensor losses = empty({rows}, DType::f32, kGpu);
    Tensor logsumexp = empty({rows}, DType::f32, kGpu);
    return {given.logits.shape(), bytes_of({given.logits}),
            [=]() mutable { cross_entropy_forward_cuda(given, losses, logsumexp, stream); }};
  });
  benchmark.add("cross_entropy_backward", [&]() -> Case {
    const CrossEntropyRows given{random({rows, kVocabulary}, dtype, 1), targets(), -100, 0};
    const Tensor ones = full({rows}, 1, DType::f32, kGpu);
    const Tensor logsumexp = full({rows}, 11, DType::f32, kGpu);
    Tensor dlogits = empty(given.logits.shape(), dtype, kGpu);
    return {given.logits.shape(), 2 * bytes_of({given.logits}), [=]() mutable {
              cross_entropy_backward_cuda(given, logsumexp, ones, dlogits, stream);
            }};
  });
  for (const int64_t some : {512, 4096}) {
    benchmark.add("cross_entropy_both", [&]() -> Case {
      const CrossEntropyRows given{random({some, kVocabulary}, dtype, 1),
                                   random_ids({some}, kVocabulary, 3), -100, 0};
      Tensor losses = empty({some}, DType::f32, kGpu);
      return {given.logits.shape(), 2 * bytes_of({given.logits}), [=]() mutable {
                CrossEntropyRows both = given;
                cross_entropy_both_cuda(both, Tensor(), losses, both.logits, stream);
              }};
    });
  }
}

/// A layer of 1024 to 4096 features with and without its bias. These are bound by arithmetic, so
/// that only the differences of their times say something.
void add_linear(Benchmark& benchmark, DType dtype) {
  const Shape shape{32768, 1024, 4096};
  const auto x = [&] { return random({shape[0], shape[1]}, dtype, 1); };
  const auto dy = [&] { return random({shape[0], shape[2]}, dtype, 2); };
  const auto weight = [&] { return random({shape[2], shape[1]}, DType::f32, 3); };
  benchmark.add("linear_without_bias", [&]() -> Case {
    return {shape, bytes_of({x(), dy()}), [x = x(), w = weight()] { linear(x, w); }};
  });
  benchmark.add("linear_with_bias", [&]() -> Case {
    const Tensor bias = random({shape[2]}, DType::f32, 4);
    return {shape, bytes_of({x(), dy()}), [x = x(), w = weight(), bias] { linear(x, w, bias); }};
  });
  benchmark.add("linear_gradient_of_weight", [&]() -> Case {
    return {shape, bytes_of({x(), dy()}),
            [x = x(), dy = dy()] { linear_backward_weight(dy, x, DType::f32); }};
  });
  benchmark.add("linear_gradients_of_weight_and_bias", [&]() -> Case {
    return {shape, bytes_of({x(), dy()}),
            [x = x(), dy = dy()] { linear_backward_parameters(dy, x, DType::f32); }};
  });
  benchmark.add("linear_gradients_of_weight_then_bias", [&]() -> Case {
    return {shape, bytes_of({x(), dy()}), [x = x(), dy = dy()] {
              linear_backward_weight(dy, x, DType::f32);
              linear_backward_bias(dy, DType::f32);
            }};
  });
}

/// Layers of images, by cuDNN and by Weft's kernels.
void add_layers(Benchmark& benchmark, DType dtype) {
  const Shape shape{64, 64, 112, 112};
  const Pool2dOptions pooling{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}};
  for (const bool by_cudnn : {true, false}) {
    const auto add = [&](const std::string& name, const std::function<Case()>& make) {
      benchmark.add(name + (by_cudnn ? "_cudnn" : "_weft"), [&] {
        set_cudnn_enabled(by_cudnn);
        return make();
      });
    };
    const auto x = [&] { return random(shape, dtype, 1); };
    const auto y = [&] { return random({64, 64, 56, 56}, dtype, 2); };
    const auto channel = [&] { return random({64}, DType::f32, 3); };
    add("max_pool2d", [&]() -> Case {
      return {shape, bytes_of({x(), y()}), [=, x = x()] { max_pool2d(x, pooling); }};
    });
    add("avg_pool2d", [&]() -> Case {
      return {shape, bytes_of({x(), y()}), [=, x = x()] { avg_pool2d(x, pooling); }};
    });
    add("avg_pool2d_backward", [&]() -> Case {
      return {shape, bytes_of({x(), y()}),
              [=, dy = y()] { avg_pool2d_backward(dy, shape, pooling); }};
    });
    add("batch_norm_train", [&]() -> Case {
      const Tensor gain = channel();
      return {shape, 3 * bytes_of({x()}), [=, x = x()] { batch_norm_train(x, gain, gain); }};
    });
    add("batch_norm_eval", [&]() -> Case {
      const Tensor gain = channel(), ones = full({64}, 1, DType::f32, kGpu);
      return {shape, 2 * bytes_of({x()}), [=, x = x()] {
                batch_norm_eval(x, gain, gain, {gain, ones});
              }};
    });
    add("batch_norm_backward", [&]() -> Case {
      const Tensor gain = channel();
      return {shape, 5 * bytes_of({x()}),
              [=, x = x()] { batch_norm_backward(x, x, gain, gain, gain); }};
    });
  }
  set_cudnn_enabled(true);
}

/// Lists of `count` tensors of uneven sizes, 64 Mi elements together.
void add_optimizers(Benchmark& benchmark) {
  const Stream stream = current_stream(kGpu);
  for (const int64_t count : {1, 200}) {
    std::vector<int64_t> sizes;
    int64_t total = 0;
    for (int64_t i = 0; i < count; ++i) {
      sizes.push_back(count == 1 ? 1 << 26 : (int64_t{1} << 27) * (i + 1) / (count * (count + 1)));
      total += sizes.back();
    }
    const auto list = [&](double value) {
      std::vector<Tensor> tensors;
      for (const int64_t size : sizes) tensors.push_back(full({size}, value, DType::f32, kGpu));
      return tensors;
    };
    const auto inputs = [count](const optim::StepNumbers& row) {
      const std::vector<double> numbers(row.begin(), row.end());
      return optim::StepInputs{from_vector(numbers, {1, optim::kStepNumbers}, kGpu)
                                   .expand({count, optim::kStepNumbers})
                                   .contiguous(),
                               scalar(1, DType::f64, kGpu)};
    };
    const std::string suffix = fmt::format("_of_{}", count);
    benchmark.add("adamw" + suffix, [&]() -> Case {
      std::vector<optim::AdamWItem> items;
      const auto p = list(0.5), g = list(0.01), m = list(0), v = list(0);
      for (size_t i = 0; i < p.size(); ++i) {
        items.push_back({p[i], g[i], m[i], v[i], {}, static_cast<int64_t>(i)});
      }
      const auto numbers = inputs(optim::AdamWNumbers{0.9999, 1e-6, 1.5}.row());
      return {{total}, 28 * total, [=]() mutable {
                optim::adamw_cuda({items, 0.9, 0.95, 1e-8, numbers}, stream);
              }};
    });
    benchmark.add("adamw_with_bf16_copies" + suffix, [&]() -> Case {
      std::vector<optim::AdamWItem> items;
      const auto p = list(0.5), g = list(0.01), m = list(0), v = list(0);
      for (size_t i = 0; i < p.size(); ++i) {
        items.push_back({p[i], g[i], m[i], v[i], p[i].to(DType::bf16), static_cast<int64_t>(i)});
      }
      const auto numbers = inputs(optim::AdamWNumbers{0.9999, 1e-6, 1.5}.row());
      return {{total}, 30 * total, [=]() mutable {
                optim::adamw_cuda({items, 0.9, 0.95, 1e-8, numbers}, stream);
              }};
    });
    benchmark.add("sgd_momentum" + suffix, [&]() -> Case {
      std::vector<optim::SgdItem> items;
      const auto p = list(0.5), g = list(0.01), b = list(0);
      for (size_t i = 0; i < p.size(); ++i) {
        items.push_back({p[i], g[i], b[i], {}, static_cast<int64_t>(i)});
      }
      const auto numbers = inputs(optim::SgdNumbers{1e-6, 0.01, 0.9, 1}.row());
      return {{total}, 20 * total, [=]() mutable {
                optim::sgd_cuda({items, 0.9, false, numbers}, stream);
              }};
    });
    benchmark.add("grad_norm" + suffix, [&]() -> Case {
      return {{total}, 4 * total, [g = list(0.01), stream] {
                Tensor norm = empty({}, DType::f64, kGpu);
                optim::grad_norm_cuda(g, norm, stream);
              }};
    });
    benchmark.add("scale" + suffix, [&]() -> Case {
      return {{total}, 8 * total, [g = list(0.01), stream]() mutable {
                optim::scale_cuda(g, 0.999, stream);
              }};
    });
    benchmark.add("muon_momentum" + suffix, [&]() -> Case {
      std::vector<optim::MuonItem> items;
      const auto p = list(0.5), g = list(0.01), b = list(0);
      for (size_t i = 0; i < p.size(); ++i)
        items.push_back({p[i], g[i], b[i], {}, static_cast<int64_t>(i)});
      const auto numbers = inputs(optim::MuonNumbers{0.99, 1e-6}.row());
      Tensor sums = empty({count}, DType::f64, kGpu);
      return {{total}, 12 * total, [=]() mutable {
                optim::muon_momentum_cuda({items, 0.95, true, numbers}, sums, stream);
              }};
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    const bool has_value = i + 1 < argc;
    if (has_value && option == "--dtype") {
      settings.dtype = parse_dtype(argv[i + 1]);
    } else if (has_value && option == "--filter") {
      settings.filter = argv[i + 1];
    } else if (has_value && option == "--repeats" && std::atoi(argv[i + 1]) > 0) {
      settings.repeats = std::atoi(argv[i + 1]);
    } else {
      fmt::print(stderr, "usage: {} [--dtype f32|bf16|f16] [--filter NAME,...] [--repeats N]\n",
                 argv[0]);
      return 2;
    }
  }
  if (!is_available(kGpu)) {
    fmt::print(stderr, "there is no GPU that can be used\n");
    return 1;
  }
  Benchmark benchmark(settings);
  add_rows(benchmark, settings.dtype);
  add_elementwise(benchmark, settings.dtype);
  add_reductions(benchmark, settings.dtype);
  add_tables(benchmark, settings.dtype);
  add_linear(benchmark, settings.dtype);
  add_layers(benchmark, settings.dtype);
  add_optimizers(benchmark);
  return 0;
}

// Times ops on the GPU against copies of as many bytes: one JSON object a line.
//
//   weft_cuda_ops_benchmark [--dtype bf16] [--filter rms_norm,swiglu] [--repeats 21] [--list]
//
// --filter takes what has one of these in its name; --list names all, and runs none.
// `bytes` counts the operands that an op must read and the results that it must write, once each.
// `copy_gb_per_s` is what a copy within device memory reaches that reads and writes as many bytes
// in all, timed right before; `of_copy` is the ratio of the rates. Operands are larger than the L2
// cache. Times are medians between events on the stream. Where checks of indices wait for the GPU,
// the kernels are timed without them.
#include "cuda_ops_benchmark.h"

#include <tuple>

#include "weft/tensor/ops/activation.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/cumsum.h"
#include "weft/tensor/ops/dropout.h"
#include "weft/tensor/ops/join.h"
#include "weft/tensor/ops/layer_norm.h"
#include "weft/tensor/ops/reduce.h"
#include "weft/tensor/ops/rms_norm.h"
#include "weft/tensor/ops/rope.h"
#include "weft/tensor/ops/softmax.h"
#include "weft/tensor/ops/topk.h"
#include "weft/tensor/ops/unary.h"

#include "answer_version.h"

namespace weft::bench {
namespace {

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
  {
    const Shape shape{32768, 2048};
    benchmark.add("softmax_first", [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      return {shape, 2 * bytes_of({x}), [x] { softmax(x, 0); }};
    });
    benchmark.add("log_softmax_last", [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      return {shape, 2 * bytes_of({x}), [x] { log_softmax(x); }};
    });
  }
  for (const int64_t width : {768, 1024, 2048, 4096, 8192}) {
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
  // Of operands x and y of this shape; `moves` counts them and the results.
  const auto add = [&](const char* name, int moves,
                       const std::function<void(const Tensor&, const Tensor&)>& run) {
    benchmark.add(name, [&]() -> Case {
      const Tensor x = random(shape, dtype, 1);
      const Tensor y = random(shape, dtype, 2);
      return {shape, moves * bytes_of({x}), [x, y, run] { run(x, y); }};
    });
  };
  const auto state = Generator(1).state();
  add("add", 3, [](const Tensor& x, const Tensor& y) { weft::add(x, y); });
  add("add_in_place", 3, [](Tensor x, const Tensor& y) { add_(x, y); });
  add("mul_by_scalar", 2, [](const Tensor& x, const Tensor&) { mul(x, 1.5); });
  add("exp", 2, [](const Tensor& x, const Tensor&) { exp(x); });
  add("tanh", 2, [](const Tensor& x, const Tensor&) { tanh(x); });
  add("relu", 2, [](const Tensor& x, const Tensor&) { relu(x); });
  add("tanh_backward", 3,
      [](const Tensor& x, const Tensor& y) { unary_backward(UnaryFunction::tanh, x, y); });
  add("silu", 2, [](const Tensor& x, const Tensor&) { silu(x); });
  add("silu_backward", 3, [](const Tensor& x, const Tensor& y) { silu_backward(y, x); });
  add("gelu_tanh", 2, [](const Tensor& x, const Tensor&) { gelu(x, Gelu::tanh); });
  add("gelu_exact_backward", 3, [](const Tensor& x, const Tensor& y) { gelu_backward(y, x); });
  add("swiglu", 3, [](const Tensor& x, const Tensor& y) { swiglu(x, y); });
  add("swiglu_backward", 5, [](const Tensor& x, const Tensor& y) { swiglu_backward(x, x, y); });
  add("dropout", 2, [state](const Tensor& x, const Tensor&) { dropout(x, 0.1, state); });
  // As in the replays of a graph, which read on the device how far the stream is.
  benchmark.add("dropout_in_a_graph", [&]() -> Case {
    const Tensor x = random(shape, dtype, 1);
    const Tensor advance = zeros({1}, DType::i64, kGpu);
    GeneratorState recorded = state;
    recorded.advance = {advance.storage(), static_cast<const uint64_t*>(advance.raw_data())};
    return {shape, 2 * bytes_of({x}), [x, recorded] { dropout(x, 0.1, recorded); }};
  });
  add("fill", 1, [](Tensor x, const Tensor&) { x.fill_(1); });
  add("uniform", 1, [](Tensor x, const Tensor&) {
    Generator generator(1);
    uniform_(x, 0, 1, generator);
  });
  add("normal", 1, [](Tensor x, const Tensor&) {
    Generator generator(1);
    normal_(x, 0, 1, generator);
  });
  add("cat", 4, [](const Tensor& x, const Tensor& y) { cat({x, y}, 0); });
  add("copy_of_rows_with_gaps", 1,
      [](const Tensor& x, const Tensor&) { x.slice(1, 0, 1024).contiguous(); });
  add("copy_transposed", 2, [](const Tensor& x, const Tensor&) { x.transpose(0, 1).contiguous(); });
  const int64_t element = static_cast<int64_t>(size_of(dtype));
  benchmark.add("greater", [&]() -> Case {
    const Tensor x = random(shape, dtype, 1);
    const Tensor y = random(shape, dtype, 2);
    return {shape, x.numel() * (2 * element + 1), [x, y] { gt(x, y); }};
  });
  benchmark.add("where", [&]() -> Case {
    const Tensor x = random(shape, dtype, 1);
    const Tensor y = random(shape, dtype, 2);
    return {shape, x.numel() * (3 * element + 1), [x, y, c = gt(x, y)] { where(c, x, y); }};
  });
  for (const auto& [name, from, to] : {std::tuple{"f32_to_bf16", DType::f32, DType::bf16},
                                       std::tuple{"bf16_to_f32", DType::bf16, DType::f32}}) {
    benchmark.add(name, [&, from = from, to = to]() -> Case {
      const Tensor x = random(shape, from, 1);
      return {shape, 6 * x.numel(), [x, to] { x.to(to); }};
    });
  }
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
  // Queries and keys turn where a projection has left them, as in the layers of a model.
  for (const int64_t heads : {12, 16}) {
    for (const bool inverse : {false, true}) {
      benchmark.add(inverse ? "rope_packed_backward" : "rope_packed", [&]() -> Case {
        const Tensor packed = random({48, 1024, 3 * heads * 64}, dtype, 1);
        Tensor turned = packed.slice(2, 0, 2 * heads * 64).view({48, 1024, 2 * heads, 64});
        return {turned.shape(), 2 * bytes_of({turned}),
                [turned, inverse]() mutable { rope_into(turned, turned, {}, inverse); }};
      });
    }
  }
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
  add("sum_of_rows_of_64", [](const Tensor& x) { sum(x.view({-1, 64}), -1); });
  add("sum_of_rows_of_1024", [](const Tensor& x) { sum(x.view({-1, 1024}), -1); });
  add("sum_of_rows_of_65536", [](const Tensor& x) { sum(x.view({-1, 65536}), -1); });
  add("sum_of_columns_of_64", [](const Tensor& x) { sum(x.view({-1, 64}), 0); });
  add("mean_middle", [](const Tensor& x) { mean(x.view({64, 512, 2048}), 1); });
  add("norm_all", [](const Tensor& x) { norm(x); });
  add("norm_last", [](const Tensor& x) { norm(x, -1); });
  add("var_last", [](const Tensor& x) { var(x, -1); });
  add("var_first", [](const Tensor& x) { var(x, 0); });
  add("max_last", [](const Tensor& x) { max(x, -1); });
  add("max_first", [](const Tensor& x) { max(x, 0); });
  add("argmax_last", [](const Tensor& x) { argmax(x, -1); });
  add("argmax_first", [](const Tensor& x) { argmax(x, 0); });
  add("logsumexp_last", [](const Tensor& x) { logsumexp(x, -1); });
  add("logsumexp_first", [](const Tensor& x) { logsumexp(x, 0); });
  const auto add_topk = [&](int64_t k, int64_t length) {
    benchmark.add(fmt::format("topk_{}_of_{}", k, length), [&, k, length]() -> Case {
      const Tensor x = random({shape.numel() / length, length}, dtype, 1);
      const TopK result = topk(x, k);
      return {shape, bytes_of({x, result.values, result.indices}), [x, k] { topk(x, k); }};
    });
  };
  add_topk(1, 2048);
  add_topk(16, 2048);
  add_topk(8, 64);
  add_topk(50, 32768);
  benchmark.add("cumsum_last", [&]() -> Case {
    const Tensor x = random(shape, dtype, 1);
    return {shape, 2 * bytes_of({x}), [x] { cumsum(x, -1); }};
  });
  benchmark.add("cumsum_first", [&]() -> Case {
    const Tensor x = random(shape, dtype, 1);
    return {shape, 2 * bytes_of({x}), [x] { cumsum(x, 0); }};
  });
  benchmark.add("cumsum_of_16_lines", [&]() -> Case {
    const Tensor x = random({16, 1 << 22}, dtype, 1);
    return {x.shape(), 2 * bytes_of({x}), [x] { cumsum(x, -1); }};
  });
}

}  // namespace
}  // namespace weft::bench

int main(int argc, char** argv) {
  if (weft::bench::answer_version(argc, argv)) return 0;
  using namespace weft;
  using namespace weft::bench;
  Settings settings;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    const bool has_value = i + 1 < argc;
    if (option == "--list") {
      settings.list = true;
      --i;
    } else if (has_value && option == "--dtype") {
      settings.dtype = parse_dtype(argv[i + 1]);
    } else if (has_value && option == "--filter") {
      settings.filter = argv[i + 1];
    } else if (has_value && option == "--repeats" && std::atoi(argv[i + 1]) > 0) {
      settings.repeats = std::atoi(argv[i + 1]);
    } else {
      fmt::print(stderr,
                 "usage: {} [--dtype f32|bf16|f16] [--filter NAME,...] [--repeats N] [--list]\n",
                 argv[0]);
      return 2;
    }
  }
  if (!settings.list && !is_available(kGpu)) {
    fmt::print(stderr, "there is no GPU that can be used\n");
    return 1;
  }
  Benchmark benchmark(settings);
  add_rows(benchmark, settings.dtype);
  add_elementwise(benchmark, settings.dtype);
  add_reductions(benchmark, settings.dtype);
  add_tables(benchmark, settings.dtype);
  add_linear(benchmark, settings.dtype);
  add_hidden_layers(benchmark, settings.dtype);
  add_mlps(benchmark, settings.dtype);
  add_layers(benchmark, settings.dtype);
  add_optimizers(benchmark);
  return 0;
}

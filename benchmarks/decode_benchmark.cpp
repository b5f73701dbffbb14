// Times the kernels of a decoding step on the GPU: one JSON object a line.
//
//   weft_decode_benchmark [--dtype bf16] [--filter linear]
//
// A case runs over many weights, or caches, one after another, which together are larger than the
// L2 cache, as the layers of a model are; the calls are captured in a graph and replayed, so that
// the host takes no part. `us` is the time of one call, `gb_per_s` the weights or cached rows that
// it reads in that time; `copy_gb_per_s` is what a copy of 1 GiB within device memory reads and
// writes. With `overlap` kernels start before the one in front of them is done.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "weft/attention/kernels/decode_attention.h"
#include "weft/tensor/generator.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/decode_linear.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/stream.h"

#include "answer_version.h"

namespace {

using namespace weft;

constexpr Device kGpu{DeviceType::cuda, 0};
/// What the operands of a case take together at least.
constexpr double kWorkingSet = 4e8;

struct Settings {
  DType dtype = DType::bf16;
  std::string filter;
};

Tensor normal_tensor(const Shape& shape, DType dtype, double deviation) {
  static Generator generator(1);
  Tensor values = empty(shape, DType::f32, kGpu);
  normal_(values, 0, deviation, generator);
  return values.to(dtype);
}

/// Median seconds of a replay.
double median_seconds(Graph& graph) {
  const Stream stream = current_stream(kGpu);
  std::vector<double> seconds;
  for (int i = 0; i < 23; ++i) {
    Event begin(kGpu, /*timed=*/true), end(kGpu, /*timed=*/true);
    begin.record(stream);
    graph.replay();
    end.record(stream);
    end.synchronize();
    if (i >= 2) seconds.push_back(1e-3 * begin.milliseconds_to(end));
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

double copy_rate() {
  static const double rate = [] {
    const int64_t bytes = int64_t{1} << 30;
    const Tensor from = zeros({bytes}, DType::u8, kGpu);
    Tensor to = zeros({bytes}, DType::u8, kGpu);
    Graph graph(kGpu);
    to.copy_(from);
    graph.capture([&] { to.copy_(from); });
    return 2 * static_cast<double>(bytes) / median_seconds(graph);
  }();
  return rate;
}

/// Times `calls` calls that read so many bytes each.
void report(const Settings& settings, const std::string& name, const std::string& sizes,
            double bytes, int calls, const std::function<void(int call, bool settled)>& call) {
  for (const bool overlap : {false, true}) {
    for (int i = 0; i < calls; ++i) call(i, false);
    Graph graph(kGpu);
    graph.capture([&] {
      for (int i = 0; i < calls; ++i) call(i, overlap);
    });
    const double seconds = median_seconds(graph) / calls;
    fmt::print(
        "{{\"benchmark\": \"{}\", \"dtype\": \"{}\", {}, \"overlap\": {}, \"us\": {:.2f}, "
        "\"gb_per_s\": {:.1f}, \"copy_gb_per_s\": {:.1f}, \"of_copy\": {:.3f}}}\n",
        name, to_string(settings.dtype), sizes, overlap, 1e6 * seconds, 1e-9 * bytes / seconds,
        1e-9 * copy_rate(), bytes / seconds / copy_rate());
  }
}

bool wanted(const Settings& settings, std::string_view name) {
  return settings.filter.empty() || name.find(settings.filter) != std::string_view::npos;
}

int calls_for(double bytes) {
  return std::clamp(static_cast<int>(kWorkingSet / bytes) + 1, 4, 400);
}

void time_product(const Settings& settings, const std::string& name, int64_t rows, int64_t outputs,
                  int64_t inputs, bool normed) {
  if (!wanted(settings, name)) return;
  const bool gated = name == "swiglu";
  const double bytes = static_cast<double>((gated ? 2 : 1) * outputs * inputs) *
                       static_cast<double>(size_of(settings.dtype));
  const int calls = calls_for(bytes);
  std::vector<Tensor> weights, ups;
  for (int i = 0; i < calls; ++i) {
    weights.push_back(normal_tensor({outputs, inputs}, settings.dtype, 0.02));
    if (gated) ups.push_back(normal_tensor({outputs, inputs}, settings.dtype, 0.02));
  }
  const Tensor x = normal_tensor({rows, inputs}, settings.dtype, 1);
  const Tensor residual = normal_tensor({rows, inputs}, settings.dtype, 1);
  const DecodeRows in{.x = x,
                      .residual = normed ? residual : Tensor(),
                      .gain = normed ? ones({inputs}, DType::f32, kGpu) : Tensor(),
                      .eps = 1e-6};
  report(settings, name,
         fmt::format("\"rows\": {}, \"outputs\": {}, \"inputs\": {}, \"normed\": {}", rows, outputs,
                     inputs, normed),
         bytes, calls, [&](int call, bool settled) {
           const auto at = static_cast<size_t>(call);
           if (gated) {
             decode_swiglu(in, weights[at], ups[at], settled);
           } else {
             decode_linear(in, weights[at], settled);
           }
         });
}

void time_attention(const Settings& settings, int64_t batch, int64_t heads, int64_t kv_heads,
                    int64_t dim, int64_t context) {
  if (!wanted(settings, "attention")) return;
  const QkvSplit split{.heads = heads, .kv_heads = kv_heads, .head_dim = dim};
  const double bytes = 2.0 * static_cast<double>(batch * kv_heads * dim * context) *
                       static_cast<double>(size_of(settings.dtype));
  const int calls = calls_for(bytes);
  const int64_t slots = context + 128;
  std::vector<Tensor> keys, values;
  std::vector<attention::DecodeScratch> scratch;
  for (int i = 0; i < calls; ++i) {
    const Shape shape{batch, kv_heads, slots, dim};
    keys.push_back(normal_tensor(shape, settings.dtype, 1));
    values.push_back(normal_tensor(shape, settings.dtype, 1));
    scratch.emplace_back(batch, slots, split, settings.dtype, kGpu);
  }
  const Tensor packed = normal_tensor({batch, split.width()}, settings.dtype, 1);
  const Tensor position = full({1}, static_cast<double>(context), DType::i64, kGpu);
  const Tensor table = rope_table(10000, dim, slots, DType::f32, kGpu);
  report(settings, "attention",
         fmt::format("\"batch\": {}, \"heads\": {}, \"kv_heads\": {}, \"head_dim\": {}, "
                     "\"context\": {}",
                     batch, heads, kv_heads, dim, context),
         bytes, calls, [&](int call, bool settled) {
           const auto at = static_cast<size_t>(call);
           attention::decode_attention(packed, split, keys[at], values[at], position, table,
                                       scratch[at], settled);
         });
}

}  // namespace

int main(int argc, char** argv) {
  if (weft::bench::answer_version(argc, argv)) return 0;
  setenv("WEFT_CUDA_OVERLAP", "1", /*overwrite=*/1);  // which cases ask for it says each row
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i], value = argv[i + 1];
    if (flag == "--filter") {
      settings.filter = value;
    } else if (flag == "--dtype") {
      settings.dtype = parse_dtype(std::string(value));
    } else {
      fmt::print(stderr, "unknown flag {}; known are --dtype and --filter\n", flag);
      return 2;
    }
  }
  if (!is_available(kGpu)) {
    fmt::print(stderr, "{}\n", unavailable_reason(kGpu));
    return 1;
  }
  // The layers of a model of 340M parameters: width 1024, 16 heads of 64, MLP of 2816.
  time_product(settings, "linear", 1, 3072, 1024, true);
  time_product(settings, "linear", 1, 1024, 1024, false);
  time_product(settings, "linear", 1, 1024, 2816, false);
  time_product(settings, "linear", 1, 32000, 1024, true);
  time_product(settings, "swiglu", 1, 2816, 1024, true);
  // Of one of 7B, and of several rows.
  time_product(settings, "linear", 1, 4096, 4096, true);
  time_product(settings, "linear", 1, 4096, 11008, false);
  for (const int64_t rows : {2, 4, 8}) {
    time_product(settings, "linear", rows, 3072, 1024, true);
    time_product(settings, "linear", rows, 1024, 2816, false);
    time_product(settings, "swiglu", rows, 2816, 1024, true);
  }
  for (const int64_t context : {256, 1024, 4096, 8192, 32768})
    time_attention(settings, 1, 16, 16, 64, context);
  time_attention(settings, 1, 16, 4, 64, 8192);
  time_attention(settings, 1, 32, 8, 128, 8192);
  time_attention(settings, 8, 16, 16, 64, 1024);
  return 0;
}

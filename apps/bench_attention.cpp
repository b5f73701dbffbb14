#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "weft/io/atomic_file.h"
#include "weft/tensor/device_info.h"
#include "weft/tensor/parallel.h"

#include "bench.h"
#include "common/attention_bench.h"
#include "common/attention_log.h"
#include "common/attention_plot.h"
#include "common/bench_options.h"
#include "common/console.h"
#include "common/exit_code.h"
#include "common/machine.h"
#include "common/options.h"
#include "common/rows.h"
#include "common/version.h"

namespace weft::apps {
namespace {

using Json = nlohmann::ordered_json;

struct Settings {
  std::vector<std::string> mechanisms = {"full"};
  std::vector<std::string> seq_lens = {"1k", "2k", "4k", "8k"};
  AttentionBenchOptions bench{.shape = {.d_model = 512, .n_heads = 8, .n_kv_heads = 2},
                              .options = {}};
  std::string dtype = "f32";
  MeasurementOptions measurement;
  std::string plot;

  void add_to(Options& options) {
    options.add("attention", &mechanisms,
                "mechanisms and schedules to time; the others are compared with the first");
    options.add("seq-len", &seq_lens, "lengths");
    options.group("Layer");
    options.add("d-model", &bench.shape.d_model, "width of the residual stream", {1, 1 << 20});
    options.add("n-heads", &bench.shape.n_heads, "query heads", {1, 1 << 16});
    options.add("n-kv-heads", &bench.shape.n_kv_heads, "key and value heads; 0 means n-heads",
                {0, 1 << 16});
    options.add("attention-opt", &bench.options,
                "key=value, or mechanism.key=value; taken by the mechanisms that have it");
    options.add("rope-theta", &bench.shape.rope_theta, "base of the rotary frequencies", {1, 1e12});
    options.add("batch-size", &bench.batch_size, "sequences", {1, 1 << 20});
    options.add("dtype", &dtype, "type of activations and products", {"f32", "bf16"});
    options.group("Measurement");
    options.add("forward", &bench.forward,
                "time passes over the whole sequence; off times decoding alone");
    options.add("backward", &bench.backward,
                "time training passes; off times forward alone, unrecorded");
    options.add("decode", &bench.decode,
                "time decoding steps behind seq-len cached tokens, 16 at a time");
    options.add("repeats", &bench.repeats, "timed passes; their median counts", {1, 1 << 20});
    options.add("max-seconds", &bench.max_seconds,
                "no further repeat of one measurement after this time", {0, 1e6});
    options.add("plot", &plot, "file for charts of the result (SVG)");
    measurement.add_to(options);
  }

  std::vector<int64_t> lengths() const {
    constexpr int64_t kLongest = 1 << 24;
    std::vector<int64_t> parsed;
    for (const std::string& text : seq_lens) {
      int64_t length = 0;
      try {
        length = parse_size(text);
      } catch (const UsageError& error) {
        throw UsageError(fmt::format("--seq-len: {}", error.what()));
      }
      if (length < 1 || length > kLongest) {
        throw UsageError(
            fmt::format("--seq-len: {} is out of range; allowed is 1 to {}", text, kLongest));
      }
      parsed.push_back(length);
    }
    if (parsed.empty()) throw UsageError("--seq-len names no length");
    return parsed;
  }
};

/// Every mechanism with its options and shape, before minutes are spent on the first.
void check_mechanisms(const Settings& settings) {
  if (settings.mechanisms.empty()) throw UsageError("--attention names no mechanism");
  std::vector<std::string> taken;
  for (const std::string& name : settings.mechanisms) {
    attention::AttentionConfig config{.shape = settings.bench.shape,
                                      .schedule = name,
                                      .options = options_of_schedule(name, settings.bench.options)};
    config.shape.n_layers = static_cast<int64_t>(schedule_pattern(name).size());
    Generator generator(0);
    const nn::MixerFactory factory = attention::make_mixer_factory(config, generator);
    for (int layer = 0; layer < static_cast<int>(config.shape.n_layers); ++layer) factory(layer);
    taken.insert(taken.end(), config.options.begin(), config.options.end());
  }
  for (const std::string& option : settings.bench.options) {
    if (std::find(taken.begin(), taken.end(), option) == taken.end()) {
      throw UsageError(fmt::format("--attention-opt: none of {} has the option '{}'",
                                   fmt::join(settings.mechanisms, ", "), option));
    }
  }
}

Json row_of(const AttentionBenchPoint& point, const AttentionBenchResult& first,
            const Settings& settings, double product_rate) {
  const AttentionBenchResult& result = point.result;
  const AttentionBenchOptions& bench = settings.bench;
  const double flops = result.forward.total();
  const auto ms = [](bool measured, double seconds) {
    return measured ? Json(1e3 * seconds) : Json(nullptr);
  };
  const auto of_forward = [&](double value) { return bench.forward ? Json(value) : Json(nullptr); };
  return {
      {"attention", point.name},
      {"seq_len", point.seq_len},
      {"fwd_ms", ms(bench.forward, result.forward_s)},
      {"bwd_ms", ms(bench.backward, result.backward_s)},
      {"decode_ms", ms(bench.decode, result.decode_s)},
      {"flops_fwd", flops},
      {"peak_bytes", of_forward(result.peak_bytes)},
      {"cache_bytes_per_token", result.cache_bytes_per_token},
      {"fwd_ms_min", ms(bench.forward, result.best_forward_s)},
      {"bwd_ms_min", ms(bench.backward, result.best_backward_s)},
      {"decode_ms_min", ms(bench.decode, result.best_decode_s)},
      {"flops_core", result.forward.core_flops},
      {"flops_projections", result.forward.projection_flops},
      {"flops_decode", result.decode.total()},
      {"kept_bytes", of_forward(result.kept_bytes)},
      {"params", result.parameters},
      {"fwd_gflops_per_s", of_forward(flops / result.best_forward_s * 1e-9)},
      {"fwd_percent_of_matmul", of_forward(100 * flops / result.best_forward_s / product_rate)},
      {"fwd_ps_per_flop", of_forward(1e12 * result.best_forward_s / flops)},
      {"time_to_first", of_forward((result.best_forward_s + result.best_backward_s) /
                                   (first.best_forward_s + first.best_backward_s))},
      {"decode_time_to_first",
       bench.decode ? Json(result.best_decode_s / first.best_decode_s) : Json(nullptr)},
      {"matmul_gflops_per_s", of_forward(product_rate * 1e-9)},
      {"batch_size", bench.batch_size},
      {"dtype", settings.dtype},
      {"d_model", bench.shape.d_model},
      {"n_heads", bench.shape.n_heads},
      {"n_kv_heads", bench.shape.n_kv_heads > 0 ? bench.shape.n_kv_heads : bench.shape.n_heads},
      {"layers", result.layers},
      {"device", to_string(bench.device)},
      {"device_name", device_info(bench.device).name},
      {"graph", result.replayed},
      {"attention_backend", settings.measurement.attention_backend},
      {"threads", num_threads()},
      {"weft", version()},
  };
}

std::string text_of(const Json& rows, const Settings& settings) {
  std::vector<std::vector<std::string>> lines = {{"attention", "length", "fwd ms", "bwd ms",
                                                  "decode ms", "GFLOP fwd", "% matmul", "ps/FLOP",
                                                  "peak MB", "cache B/token", "time", "decode"}};
  for (const Json& row : rows) {
    const auto number = [&](const char* key, const char* format, double factor = 1) {
      return row.at(key).is_null()
                 ? std::string("-")
                 : fmt::format(fmt::runtime(format), factor * row.at(key).get<double>());
    };
    lines.push_back({row.at("attention"), row.at("seq_len").dump(), number("fwd_ms", "{:.2f}"),
                     number("bwd_ms", "{:.2f}"), number("decode_ms", "{:.3f}"),
                     number("flops_fwd", "{:.2f}", 1e-9), number("fwd_percent_of_matmul", "{:.0f}"),
                     number("fwd_ps_per_flop", "{:.1f}"), number("peak_bytes", "{:.1f}", 1e-6),
                     number("cache_bytes_per_token", "{:.1f}"), number("time_to_first", "{:.2f}x"),
                     number("decode_time_to_first", "{:.2f}x")});
  }
  const Json& row = rows.front();
  if (!settings.bench.forward) {
    return to_table(lines) +
           fmt::format(
               "One layer of width {} with {} query and {} key heads, {} sequence(s), {}, {}.\n",
               row.at("d_model").dump(), row.at("n_heads").dump(), row.at("n_kv_heads").dump(),
               row.at("batch_size").dump(), settings.dtype,
               describe_machine(settings.bench.device));
  }
  return to_table(lines) +
         fmt::format(
             "One layer of width {} with {} query and {} key heads, {} sequence(s), {}, {}; "
             "products reach {:.0f} GFLOP/s.\nThe first columns are medians; rates, and "
             "times as shares of {}'s (forward and backward, "
             "decoding), are those of the fastest repeats. A schedule is the mean of its layers.\n",
             row.at("d_model").dump(), row.at("n_heads").dump(), row.at("n_kv_heads").dump(),
             row.at("batch_size").dump(), settings.dtype, describe_machine(settings.bench.device),
             row.at("matmul_gflops_per_s").get<double>(), settings.mechanisms.front());
}

}  // namespace

int bench_attention_layers(const std::vector<std::string>& arguments) {
  Settings settings;
  Options options("bench attention",
                  "Times attention layers: forward, backward, and decoding one token.",
                  "weft bench attention --attention full --seq-len 1k,2k,4k,8k --format json");
  settings.add_to(options);
  if (!options.parse(arguments)) return kDone;
  const std::vector<int64_t> lengths = settings.lengths();
  if (!settings.bench.forward) {
    if (!settings.bench.decode)
      throw UsageError("--no-forward and --no-decode leave nothing to time");
    if (!settings.plot.empty())
      throw UsageError("--plot draws passes, which --no-forward leaves out");
    settings.bench.backward = false;
  }
  settings.bench.device = settings.measurement.start();
  settings.bench.dtype = parse_dtype(settings.dtype);
  check_mechanisms(settings);

  Console console(settings.measurement.messages);
  const AttentionLog attention(settings.measurement.attention_backend, console,
                               AttentionLog::Wanted::always);
  double product_rate = 0;
  std::vector<AttentionBenchPoint> points;
  for (const int64_t length : lengths) {
    for (const std::string& name : settings.mechanisms) {
      console.status(fmt::format("{} at {}", name, length));
      // What else runs on the machine can only slow it down: the best of all counts.
      if (settings.bench.forward)
        product_rate = std::max(product_rate,
                                measure_product_rate(settings.bench.dtype, settings.bench.device));
      points.push_back({name, length, bench_attention(name, length, settings.bench)});
      if (const std::string& refusal = points.back().result.graph_refusal; !refusal.empty())
        console.warn(fmt::format("{} at {}: timed without CUDA graphs: {}", name, length, refusal));
    }
  }
  Json rows = Json::array();
  for (size_t i = 0; i < points.size(); ++i) {
    const AttentionBenchPoint& first = points[i - i % settings.mechanisms.size()];
    rows.push_back(row_of(points[i], first.result, settings, product_rate));
  }
  if (!settings.plot.empty()) {
    io::write_file_atomically(
        settings.plot,
        plot_attention(points, fmt::format("One attention layer, width {}, {}, weft {}",
                                           settings.bench.shape.d_model,
                                           describe_machine(settings.bench.device), version())));
    console.info("charts in " + settings.plot);
  }
  settings.measurement.print(rows, text_of(rows, settings));
  return kDone;
}

}  // namespace weft::apps

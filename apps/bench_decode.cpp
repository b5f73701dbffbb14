#include <algorithm>
#include <chrono>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "weft/nn/decode_loop.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/ops/reduce.h"

#include "bench.h"
#include "common/attention_log.h"
#include "common/bench_options.h"
#include "common/exit_code.h"
#include "common/machine.h"
#include "common/memory.h"
#include "common/options.h"

namespace weft::apps {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct DecodeBenchOptions {
  BenchModelOptions decoder;
  MeasurementOptions measurement;
  int64_t context = 1024;
  int64_t new_tokens = 128;
  int64_t warmup = 8;
  int64_t batch_size = 1;

  void add_to(Options& options) {
    decoder.add_to(options);
    options.add("context", &context, "tokens of a sequence that are cached before", {1, 1 << 24});
    options.add("new-tokens", &new_tokens, "timed steps of one token a sequence", {1, 1 << 20});
    options.add("warmup", &warmup, "steps before that", {0, 1 << 20});
    options.add("batch-size", &batch_size, "sequences", {1, 1 << 16});
    measurement.add_to(options);
  }
};

/// Bytes per second, read and written, of a copy within the device's memory: the best of a few.
double measure_copy_rate(Device device) {
  const int64_t bytes = device.is_cuda() ? int64_t{1} << 30 : int64_t{1} << 27;
  const Tensor from = zeros({bytes}, DType::u8, device);
  Tensor to = zeros({bytes}, DType::u8, device);
  const Stream stream = current_stream(device);
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    Event start(device, /*timed=*/true), end(device, /*timed=*/true);
    start.record(stream);
    to.copy_(from);
    end.record(stream);
    end.synchronize();
    best = std::max(best, 2e3 * static_cast<double>(bytes) / start.milliseconds_to(end));
  }
  return best;
}

/// Bytes of parameters that a step reads: of the embedding a row a sequence, unless it is the head.
double parameter_bytes(const nn::DecoderLM& model) {
  double count = 0;
  for (const nn::NamedParameter& named : model.named_parameters()) {
    if (named.name == "model.embed_tokens.weight" && !model.config().tie_embeddings) continue;
    count += static_cast<double>(named.parameter.numel());
  }
  return count * static_cast<double>(size_of(model.config().compute_dtype));
}

/// Bytes of what `batch` caches hold of sequences of this length.
double cache_bytes(const nn::DecoderLM& model, int64_t batch, int64_t length) {
  double bytes = 0;
  for (int i = 0; i < model.n_layers(); ++i) {
    bytes += static_cast<double>(model.mixer(i).cache_bytes(length, model.config().compute_dtype));
  }
  return bytes * static_cast<double>(batch);
}

struct DecodeTime {
  double seconds = 0;
  int64_t graph_nodes = 0;
  bool one_kernel = false;
};

/// Steps whose tokens stay on the device. The host takes each token as generation does, while the
/// next step runs.
DecodeTime time_loop(nn::DecoderLM& model, nn::DecoderCache& cache,
                     const DecodeBenchOptions& config) {
  nn::DecodeLoop loop(model, cache);
  loop.set_tokens(std::vector<int64_t>(static_cast<size_t>(config.batch_size), 0));
  const auto take = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      while (loop.steps() < std::min(i + 2, last)) loop.step();
      loop.chosen(i);
    }
  };
  take(0, config.warmup);
  const auto start = Clock::now();
  take(config.warmup, config.warmup + config.new_tokens);
  return {seconds_since(start), loop.nodes(), loop.is_one_kernel()};
}

/// Steps one by one, by any mechanism.
DecodeTime time_steps(nn::DecoderLM& model, nn::DecoderCache& cache,
                      const DecodeBenchOptions& config) {
  std::vector<int64_t> tokens(static_cast<size_t>(config.batch_size), 0);
  const auto take = [&](int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) {
      const Tensor logits = model.prefill(from_vector(tokens, {config.batch_size, 1}), cache);
      tokens = argmax(logits, -1).to_vector<int64_t>();
    }
  };
  take(config.warmup);
  const auto start = Clock::now();
  take(config.new_tokens);
  return {seconds_since(start)};
}

}  // namespace

int bench_decode(const std::vector<std::string>& arguments) {
  DecodeBenchOptions config;
  Options options("bench decode",
                  "Times greedy decoding, token by token, after a cached context of random tokens.",
                  "weft bench decode --d-model 1024 --n-layers 24 --n-heads 16 --d-ff 2816 "
                  "--vocab-size 32000 --dtype bf16 --context 8k --format json");
  config.add_to(options);
  if (!config.decoder.parse(options, arguments)) return kDone;

  const Device device = config.measurement.start();
  Console console(config.measurement.messages);
  const AttentionLog attention_log(config.measurement.attention_backend, console,
                                   AttentionLog::Wanted::always);
  const double copy_rate = measure_copy_rate(device);
  const auto model = config.decoder.make_model(device);
  model->eval();
  const autograd::NoGradGuard no_grad;
  Generator generator(1);
  nn::DecoderCache cache =
      model->make_cache(config.batch_size, config.context + config.warmup + config.new_tokens);
  model->prefill(randint(0, config.decoder.vocab_size, {config.batch_size, config.context},
                         generator, DType::i64),
                 cache);
  current_stream(device).synchronize();
  const DecodeTime time = device.is_cuda() && model->can_decode(cache)
                              ? time_loop(*model, cache, config)
                              : time_steps(*model, cache, config);

  const double token_seconds = time.seconds / static_cast<double>(config.new_tokens);
  const double weights = parameter_bytes(*model);
  // Steps read ever longer caches: those in the middle of the timed ones.
  const double cached = cache_bytes(*model, config.batch_size,
                                    config.context + config.warmup + (config.new_tokens + 1) / 2);
  const double share = (weights + cached) / copy_rate / token_seconds;
  nlohmann::ordered_json result = {
      {"tokens_per_s", static_cast<double>(config.batch_size) / token_seconds},
      {"token_ms", 1e3 * token_seconds},
      {"bytes_per_step", weights + cached},
      {"parameter_bytes", weights},
      {"cache_bytes", cached},
      {"copy_bytes_per_s", copy_rate},
      {"bandwidth_share", share},
      {"graph_nodes", time.graph_nodes},
      {"one_kernel", time.one_kernel},
      {"peak_bytes", peak_memory(device)},
      {"context", config.context},
      {"new_tokens", config.new_tokens},
      {"batch_size", config.batch_size},
  };
  result.update(config.decoder.facts(*model, device));
  config.measurement.print(
      result, fmt::format("{:.1f} tokens/s, {:.3f} ms a token; {:.1f} MB read of parameters and "
                          "{:.1f} MB of caches, "
                          "{:.0f} % of what a copy's {:.1f} GB/s allow, {}\n",
                          static_cast<double>(config.batch_size) / token_seconds,
                          1e3 * token_seconds, 1e-6 * weights, 1e-6 * cached, 1e2 * share,
                          1e-9 * copy_rate, describe_machine(device)));
  return kDone;
}

}  // namespace weft::apps

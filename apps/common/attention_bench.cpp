#include "common/attention_bench.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>

#include "weft/tensor/allocator.h"
#include "weft/tensor/error.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/stream.h"

namespace weft::apps {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

/// Calls `measure` up to `repeats` times, at least once, while there is time.
void repeat(int64_t repeats, double max_seconds, const std::function<void()>& measure) {
  const auto start = Clock::now();
  for (int64_t i = 0; i < repeats && (i == 0 || seconds_since(start) < max_seconds); ++i) measure();
}

/// Measures one layer.
class LayerBench {
 public:
  LayerBench(nn::SequenceMixer& mixer, int64_t seq_len, const AttentionBenchOptions& options)
      : mixer_(mixer),
        seq_len_(seq_len),
        options_(options),
        memory_(allocator(options.device)),
        stream_(current_stream(options.device)),
        generator_(1) {}

  void forward_and_backward(AttentionBenchResult& result) {
    mixer_.train(options_.backward);
    const autograd::GradModeGuard record(options_.backward);
    nn::Variable x = random(seq_len_);
    x.set_requires_grad(options_.backward);
    const Tensor dy = random(seq_len_).data();
    std::vector<double> forward;
    std::vector<double> backward;
    int64_t kept = 0;
    const auto timed = [&](const auto& first, const auto& second) {
      begin_.record(stream_);
      first();
      turn_.record(stream_);
      second();
      end_.record(stream_);
      stream_.synchronize();
      forward.push_back(1e-3 * begin_.milliseconds_to(turn_));
      backward.push_back(1e-3 * turn_.milliseconds_to(end_));
    };
    const auto pass = [&] {
      mixer_.zero_grad();
      x.zero_grad();
      nn::Variable y;
      timed([&] { y = mixer_.forward(x, {.position = 0, .generator = &generator_}); },
            [&] {
              kept = memory_.stats().allocated;
              if (options_.backward) y.backward(dy);
            });
    };
    // Libraries of a GPU take scratch memory when they are first used, which is no layer's own.
    if (options_.device.is_cuda()) pass();
    // The first pass warms caches up and is the one whose memory counts.
    memory_.reset_peak();
    const int64_t before = memory_.stats().allocated;
    pass();
    result.peak_bytes = static_cast<double>(memory_.stats().peak_allocated - before);
    result.kept_bytes = static_cast<double>(kept - before);
    const std::unique_ptr<Recorded> recorded = record_passes(x, dy, result.graph_refusal);
    result.replayed = recorded != nullptr;
    const auto replay = [&] {
      timed([&] { recorded->forward.replay(); },
            [&] {
              if (options_.backward) recorded->backward.replay();
            });
    };
    if (recorded != nullptr) replay();  // the first one brings the graph to the GPU
    forward.clear();
    backward.clear();
    if (recorded != nullptr) {
      repeat(options_.repeats, options_.max_seconds, replay);
    } else {
      repeat(options_.repeats, options_.max_seconds, pass);
    }
    mixer_.zero_grad();
    result.forward_s = median(forward);
    result.best_forward_s = least(forward);
    if (!options_.backward) return;
    result.backward_s = median(backward);
    result.best_backward_s = least(backward);
  }

  void decode(AttentionBenchResult& result) {
    mixer_.eval();
    const autograd::NoGradGuard no_grad;
    // Some steps complete a block or choose for several: a round holds all kinds.
    constexpr int64_t kRound = 16;
    const int64_t rounds = 4 * options_.repeats;
    const auto cache = mixer_.make_cache(options_.batch_size, seq_len_ + (1 + rounds) * kRound,
                                         options_.dtype, options_.device);
    mixer_.prefill(random(seq_len_), *cache);
    std::vector<double> seconds;
    const auto round = [&] {
      std::vector<nn::Variable> tokens;
      for (int64_t i = 0; i < kRound; ++i) tokens.push_back(random(1));
      begin_.record(stream_);
      for (const nn::Variable& x : tokens) mixer_.step(x, *cache);
      end_.record(stream_);
      stream_.synchronize();
      seconds.push_back(1e-3 * begin_.milliseconds_to(end_) / kRound);
    };
    round();  // warms up
    seconds.clear();
    repeat(rounds, options_.max_seconds, round);
    result.decode_s = median(seconds);
    result.best_decode_s = least(seconds);
  }

 private:
  /// Both passes as graphs: a layer of a recorded training step waits for no launch of the host.
  struct Recorded {
    explicit Recorded(Device device) : forward(device), backward(device) {}
    Graph forward;
    Graph backward;
    nn::Variable y;
  };

  /// Null on the CPU, and where the layer cannot be recorded.
  std::unique_ptr<Recorded> record_passes(nn::Variable& x, const Tensor& dy, std::string& refusal) {
    if (options_.device.is_cpu()) return nullptr;
    try {
      auto recorded = std::make_unique<Recorded>(options_.device);
      mixer_.zero_grad();
      x.zero_grad();
      recorded->forward.capture(
          [&] { recorded->y = mixer_.forward(x, {.position = 0, .generator = &generator_}); });
      if (options_.backward) recorded->backward.capture([&] { recorded->y.backward(dy); });
      return recorded;
    } catch (const CaptureError& error) {
      refusal = error.what();
    } catch (const OutOfMemoryError& error) {  // a graph shares none of its memory
      refusal = error.what();
    }
    mixer_.zero_grad();
    x.zero_grad();
    return nullptr;
  }

  nn::Variable random(int64_t tokens) {
    return nn::Variable(normal({options_.batch_size, tokens, options_.shape.d_model}, generator_,
                               options_.dtype, options_.device));
  }

  nn::SequenceMixer& mixer_;
  int64_t seq_len_;
  const AttentionBenchOptions& options_;
  Allocator& memory_;
  Stream stream_;
  Event begin_{options_.device, /*timed=*/true};
  Event turn_{options_.device, /*timed=*/true};
  Event end_{options_.device, /*timed=*/true};
  Generator generator_;
};

AttentionBenchResult bench_layer(nn::SequenceMixer& mixer, int64_t seq_len,
                                 const AttentionBenchOptions& options) {
  AttentionBenchResult result;
  result.parameters = static_cast<double>(mixer.num_parameters());
  result.forward = mixer.forward_cost(seq_len);
  result.decode = mixer.step_cost(seq_len);
  for (nn::MixerCost* cost : {&result.forward, &result.decode}) {
    cost->projection_flops *= static_cast<double>(options.batch_size);
    cost->core_flops *= static_cast<double>(options.batch_size);
  }
  result.cache_bytes_per_token =
      static_cast<double>(mixer.cache_bytes(seq_len, options.dtype)) / static_cast<double>(seq_len);
  LayerBench bench(mixer, seq_len, options);
  if (options.forward) bench.forward_and_backward(result);
  if (options.decode) bench.decode(result);
  return result;
}

void add(AttentionBenchResult& sum, const AttentionBenchResult& layer, double share) {
  using Result = AttentionBenchResult;
  for (double Result::*value :
       {&Result::parameters, &Result::forward_s, &Result::backward_s, &Result::decode_s,
        &Result::best_forward_s, &Result::best_backward_s, &Result::best_decode_s,
        &Result::peak_bytes, &Result::kept_bytes, &Result::cache_bytes_per_token}) {
    sum.*value += share * layer.*value;
  }
  for (nn::MixerCost Result::*cost : {&Result::forward, &Result::decode}) {
    (sum.*cost).projection_flops += share * (layer.*cost).projection_flops;
    (sum.*cost).core_flops += share * (layer.*cost).core_flops;
  }
}

}  // namespace

std::vector<std::string> schedule_pattern(const std::string& schedule) {
  // Models whose depth is no multiple of the pattern are refused, so the first that is taken has
  // its length.
  constexpr int64_t kLongest = 256;
  for (int64_t layers = 1; layers < kLongest; ++layers) {
    try {
      return attention::parse_schedule(schedule, layers);
    } catch (const ConfigError&) {
    }
  }
  return attention::parse_schedule(schedule, 1);  // for its error
}

std::vector<std::string> options_of_schedule(const std::string& schedule,
                                             const std::vector<std::string>& options) {
  const std::vector<std::string> layers = schedule_pattern(schedule);
  std::vector<std::string> taken;
  for (const std::string& option : options) {
    std::string key = option.substr(0, option.find('='));
    const size_t dot = key.find('.');
    const std::string owner = dot == std::string::npos ? "" : key.substr(0, dot);
    if (dot != std::string::npos) key.erase(0, dot + 1);
    const bool fits = std::any_of(layers.begin(), layers.end(), [&](const std::string& layer) {
      const auto& known = attention::find_mechanism(layer).options;
      return (owner.empty() || owner == layer || owner == schedule) &&
             std::any_of(known.begin(), known.end(),
                         [&](const attention::OptionInfo& info) { return info.name == key; });
    });
    if (fits) taken.push_back(option);
  }
  return taken;
}

AttentionBenchResult bench_attention(const std::string& schedule, int64_t seq_len,
                                     const AttentionBenchOptions& options) {
  const std::vector<std::string> layers = schedule_pattern(schedule);
  attention::AttentionConfig config{.shape = options.shape,
                                    .schedule = schedule,
                                    .options = options_of_schedule(schedule, options.options)};
  config.shape.n_layers = static_cast<int64_t>(layers.size());
  Generator generator(0);
  const nn::MixerFactory factory = attention::make_mixer_factory(config, generator);
  // Layers of one mechanism have one shape: one of them is timed for all.
  std::map<std::string, AttentionBenchResult> by_mechanism;
  AttentionBenchResult mean;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const auto [found, added] = by_mechanism.try_emplace(layers[layer]);
    if (added) {
      const auto mixer = factory(static_cast<int>(layer));
      mixer->to(options.device);
      found->second = bench_layer(*mixer, seq_len, options);
    }
    if (mean.graph_refusal.empty()) mean.graph_refusal = found->second.graph_refusal;
    add(mean, found->second, 1.0 / static_cast<double>(layers.size()));
  }
  mean.replayed = std::all_of(by_mechanism.begin(), by_mechanism.end(),
                              [](const auto& layer) { return layer.second.replayed; });
  mean.layers = static_cast<int64_t>(layers.size());
  return mean;
}

}  // namespace weft::apps

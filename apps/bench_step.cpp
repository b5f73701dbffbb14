#include <algorithm>
#include <chrono>
#include <iostream>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "weft/tensor/allocator.h"
#include "weft/tensor/ops/random.h"

#include "bench.h"
#include "common/attention_log.h"
#include "common/bench_options.h"
#include "common/exit_code.h"
#include "common/machine.h"
#include "common/memory.h"
#include "common/options.h"
#include "common/profile.h"
#include "common/training_step.h"

namespace weft::apps {
namespace {

struct StepBenchOptions {
  BenchModelOptions decoder;
  OptimizerOptions optimizer;
  MeasurementOptions measurement;
  int64_t seq_len = 256;
  int64_t batch_size = 16;
  int64_t steps = 10;
  int64_t warmup = 2;
  std::string profile;
  bool peer = false;

  void add_to(Options& options) {
    decoder.add_to(options);
    options.add("seq-len", &seq_len, "tokens of a sequence", {1, 1 << 24});
    options.add("batch-size", &batch_size, "sequences of a step", {1, 1 << 20});
    options.add("steps", &steps, "timed steps; the median counts", {1, 1 << 20});
    options.add("warmup", &warmup, "steps before that", {0, 1 << 20});
    add_profile_option(options, &profile);
    options.add("peer", &peer, "say how the yardsticks are run, then stop").not_in_config();
    measurement.add_to(options);
    optimizer.add_to(options);
  }
};

constexpr const char* kPeers =
    "Yardsticks that train the same decoder on random tokens; run them on the same machine in the\n"
    "same hour.\n"
    "\n"
    "GPU, PyTorch with torch.compile, bf16 autocast, fused AdamW (a Python with PyTorch is "
    "needed):\n"
    "  scripts/bench-gpu.sh --suites step           Weft and PyTorch by turns, into a result file\n"
    "  python3 benchmarks/peers/torch_gpu_step.py   PyTorch alone, cases 124m and 340m-8k\n"
    "Weft's side of the case 124m:\n"
    "  weft bench step --device cuda --dtype bf16 --n-layers 12 --d-model 768 --n-heads 12 \\\n"
    "    --d-ff 2048 --vocab-size 50304 --seq-len 1024 --batch-size 32 \\\n"
    "    --optimizer adamw --grad-clip 1\n"
    "\n"
    "CPU, libtorch (installed by scripts/setup.sh --with peers):\n"
    "  scripts/bench.sh                             Weft and libtorch by turns, likewise\n"
    "\n"
    "benchmarks/README.md says how the numbers are taken, docs/performance.md what they were.\n";

}  // namespace

int bench_step(const std::vector<std::string>& arguments) {
  StepBenchOptions config;
  Options options(
      "bench step",
      "Times whole training steps (forward, backward, clipping, optimizer) on random tokens.",
      "weft bench step --d-model 192 --n-layers 6 --n-heads 6 --d-ff 512 --seq-len 256 "
      "--batch-size 16 --vocab-size 256 --format json");
  config.add_to(options);
  if (!config.decoder.parse(options, arguments)) return kDone;
  if (config.peer) {
    std::cout << kPeers;
    return kDone;
  }

  const Device device = config.measurement.start();
  Console console(config.measurement.messages);
  const AttentionLog attention_log(config.measurement.attention_backend, console,
                                   AttentionLog::Wanted::always);
  const auto model = config.decoder.make_model(device);
  const auto optimizer = config.optimizer.make_optimizer(*model);
  const int64_t all_steps = config.warmup + config.steps;
  const optim::Schedule schedule = config.optimizer.make_schedule(all_steps);
  Generator generator(1);
  TrainingStep training_step(*model, *optimizer, schedule, config.optimizer.grad_clip, generator);
  const auto random_tokens = [&] {
    return randint(0, config.decoder.vocab_size, {config.batch_size, config.seq_len}, generator,
                   DType::i32);
  };

  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  double loss = 0;
  std::optional<ProfileRun> profile;
  for (int64_t step = 0; step < all_steps; ++step) {
    if (step == config.warmup) profile.emplace(config.profile, device);
    const io::Batch batch{.inputs = random_tokens(),
                          .targets = random_tokens(),
                          .scored = config.batch_size * config.seq_len,
                          .step = step,
                          .micro_batch = 0};
    const auto start = Clock::now();
    loss = training_step.run(step, {batch}).loss;
    if (step >= config.warmup)
      seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  profile->write(console);
  if (const std::string& refusal = training_step.graph_refusal(); !refusal.empty())
    console.warn("without a CUDA graph: " + refusal);
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double tokens = static_cast<double>(config.batch_size * config.seq_len);
  nlohmann::ordered_json result = {
      {"tokens_per_s", tokens / median},
      {"step_ms", 1e3 * median},
      {"step_ms_min", 1e3 * seconds.front()},
      {"peak_bytes", peak_memory(device)},
      {"peak_tensor_bytes", allocator(device).stats().peak_allocated},
      {"tflops", tokens / median * model->training_flops_per_token(config.seq_len) * 1e-12},
      {"loss", loss},
      {"graph", training_step.is_replayed()},
      {"seq_len", config.seq_len},
      {"batch_size", config.batch_size},
      {"optimizer", config.optimizer.optimizer},
  };
  result.update(config.decoder.facts(*model, device));
  config.measurement.print(
      result,
      fmt::format(
          "{:.0f} tokens/s, {:.1f} ms a step (best {:.1f}), {:.3f} TFLOP/s, {:.1f} MB at most, "
          "{:.2f}M parameters, {}\n",
          tokens / median, 1e3 * median, 1e3 * seconds.front(), result["tflops"].get<double>(),
          static_cast<double>(peak_memory(device)) * 1e-6,
          static_cast<double>(model->num_parameters()) * 1e-6, describe_machine(device)));
  return kDone;
}

}  // namespace weft::apps

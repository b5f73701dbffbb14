#include <algorithm>
#include <chrono>
#include <iostream>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "weft/attention/attention_backend.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/device_info.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/parallel.h"

#include "bench.h"
#include "common/exit_code.h"
#include "common/machine.h"
#include "common/memory.h"
#include "common/model_options.h"
#include "common/options.h"
#include "common/profile.h"
#include "common/rows.h"
#include "common/train_config.h"
#include "common/training_step.h"
#include "common/version.h"

namespace weft::apps {
namespace {

struct StepBenchOptions {
  ModelOptions model;
  OptimizerOptions optimizer;
  int64_t vocab_size = 256;
  int64_t seq_len = 256;
  int64_t batch_size = 16;
  int64_t steps = 10;
  int64_t warmup = 2;
  int64_t threads = 0;
  std::string device = "auto";
  std::string attention_backend = "automatic";
  std::string format = "text";
  std::string profile;
  bool peer = false;

  void add_to(Options& options) {
    model.add_to(options);
    options.group("Measurement");
    options.add("vocab-size", &vocab_size, "number of tokens; 0 means 256", {0, 1 << 24});
    options.add("seq-len", &seq_len, "tokens of a sequence", {1, 1 << 24});
    options.add("batch-size", &batch_size, "sequences of a step", {1, 1 << 20});
    options.add("steps", &steps, "timed steps; the median counts", {1, 1 << 20});
    options.add("warmup", &warmup, "steps before that", {0, 1 << 20});
    options.add("threads", &threads, "threads; 0 means OMP_NUM_THREADS, else all cores", {0, 4096});
    add_device_options(options, &device, &attention_backend, /*in_config=*/true);
    options.add("format", &format, "of the result on stdout", {"text", "csv", "json"});
    add_profile_option(options, &profile);
    options.add("peer", &peer, "say how the yardsticks are run, then stop").not_in_config();
    optimizer.add_to(options);
  }
};

constexpr const char* kPeers =
    "Yardsticks that train the same decoder on random tokens; run them on the same machine in the "
    "same "
    "hour.\n"
    "\n"
    "GPU, PyTorch with torch.compile, bf16 autocast, fused AdamW (a Python with PyTorch is "
    "needed):\n"
    "  scripts/bench-gpu.sh --suites step           Weft and PyTorch by turns, into a result file\n"
    "  python3 benchmarks/peers/torch_gpu_step.py   PyTorch alone, cases 124m and 340m-8k\n"
    "Weft's side of the case 124m:\n"
    "  weft bench step --device cuda --dtype bf16 --n-layers 12 --d-model 768 --n-heads 12 --d-ff "
    "2048 "
    "\\\n"
    "    --vocab-size 50304 --seq-len 1024 --batch-size 32 --optimizer adamw --grad-clip 1\n"
    "\n"
    "CPU, libtorch (installed by scripts/setup.sh --with peers):\n"
    "  scripts/bench.sh                             Weft and libtorch by turns, into a result "
    "file\n"
    "\n"
    "benchmarks/README.md says how the numbers are taken, docs/performance.md what they were.\n";

}  // namespace

int bench_step(const std::vector<std::string>& arguments) {
  StepBenchOptions config;
  Options options(
      "bench step",
      "Times whole training steps (forward, backward, clipping, optimizer) on random tokens.",
      "weft bench step --d-model 192 --n-layers 6 --n-heads 6 --d-ff 512 --seq-len 256 "
      "--batch-size 16 "
      "--vocab-size 256 --format json");
  config.add_to(options);
  TrainConfig train_config;
  Options train_options("train", "", "");
  train_config.add_to(train_options);
  options.accept_config_of(train_options);
  if (!options.parse(arguments)) return kDone;
  if (config.peer) {
    std::cout << kPeers;
    return kDone;
  }
  if (config.vocab_size == 0) config.vocab_size = 256;
  if (config.threads > 0) set_num_threads(static_cast<int>(config.threads));

  const Device device = resolve_device(config.device);
  attention::set_attention_backend(attention::parse_attention_backend(config.attention_backend));
  const auto model = config.model.make_model(config.vocab_size, /*seed=*/0, device);
  const auto optimizer = config.optimizer.make_optimizer(*model);
  const int64_t all_steps = config.warmup + config.steps;
  const optim::Schedule schedule = config.optimizer.make_schedule(all_steps);
  Generator generator(1);
  TrainingStep training_step(*model, *optimizer, schedule, config.optimizer.grad_clip, generator);
  const auto random_tokens = [&] {
    return randint(0, config.vocab_size, {config.batch_size, config.seq_len}, generator,
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
  Console console{Console::Settings()};
  profile->write(console);
  if (!training_step.graph_refusal().empty())
    std::cerr << "bench step: without a CUDA graph: " << training_step.graph_refusal() << "\n";
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double tokens = static_cast<double>(config.batch_size * config.seq_len);
  const nlohmann::ordered_json result = {
      {"tokens_per_s", tokens / median},
      {"step_ms", 1e3 * median},
      {"step_ms_min", 1e3 * seconds.front()},
      {"peak_bytes", peak_memory(device)},
      {"peak_tensor_bytes", allocator(device).stats().peak_allocated},
      {"tflops", tokens / median * model->training_flops_per_token(config.seq_len) * 1e-12},
      {"params", model->num_parameters()},
      {"loss", loss},
      {"device", to_string(device)},
      {"device_name", device_info(device).name},
      {"graph", training_step.is_replayed()},
      {"attention", config.model.attention},
      {"dtype", to_string(model->config().compute_dtype)},
      {"n_layers", config.model.n_layers},
      {"d_model", config.model.d_model},
      {"n_heads", config.model.n_heads},
      {"d_ff", config.model.d_ff},
      {"vocab_size", config.vocab_size},
      {"seq_len", config.seq_len},
      {"batch_size", config.batch_size},
      {"optimizer", config.optimizer.optimizer},
      {"threads", num_threads()},
      {"weft", version()},
  };
  if (config.format == "json") {
    std::cout << to_json_text(result);
  } else if (config.format == "csv") {
    std::cout << to_csv(result);
  } else {
    std::cout << fmt::format(
        "{:.0f} tokens/s, {:.1f} ms a step (best {:.1f}), {:.3f} TFLOP/s, {:.1f} MB at most, "
        "{:.2f}M parameters, {}\n",
        tokens / median, 1e3 * median, 1e3 * seconds.front(), result["tflops"].get<double>(),
        static_cast<double>(peak_memory(device)) * 1e-6,
        static_cast<double>(model->num_parameters()) * 1e-6, describe_machine(device));
  }
  return kDone;
}

}  // namespace weft::apps

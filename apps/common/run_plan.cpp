#include "common/run_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "weft/io/loader.h"
#include "weft/tensor/check.h"
#include "weft/tensor/device_info.h"
#include "weft/tensor/parallel.h"

#include "common/machine.h"
#include "common/version.h"

namespace weft::apps {
namespace {

/// 341114880 -> "341,114,880".
std::string with_commas(int64_t count) {
  const std::string digits = std::to_string(count);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string describe_layers(const ModelSummary& model) {
  std::string text;
  for (const LayerGroup& group : model.layers) {
    text += fmt::format("{}{} {} of {}", text.empty() ? "" : ", ", group.layers, group.mechanism,
                        with_commas(group.parameters));
  }
  return text;
}

}  // namespace

int64_t vocab_size_of(const TrainConfig& config, const io::Tokenizer& tokenizer) {
  WEFT_CHECK(config.vocab_size == 0 || config.vocab_size >= tokenizer.vocab_size(), ConfigError,
             "--vocab-size {} must be 0 or at least the {} tokens of the {} tokenizer",
             config.vocab_size, tokenizer.vocab_size(), tokenizer.name());
  return config.vocab_size > 0 ? config.vocab_size : tokenizer.vocab_size();
}

RunPlan::RunPlan(const TrainConfig& run_config)
    : config(run_config),
      device(resolve_device(config.device)),
      data(open_data(config.data, config.tokenizer, config.valid_fraction, config.seed)),
      model(
          summarize(config.model, vocab_size_of(config, *data.tokenizer), config.seq_len, device)) {
  // Now rather than at the first sample.
  if (config.sample_every > 0) data.tokenizer->encode(config.sample_prompt);
}

int64_t RunPlan::vocab_size() const {
  return model.config.vocab_size;
}

double RunPlan::estimated_bytes() const {
  const nn::DecoderConfig& shape = model.config;
  const auto element = static_cast<double>(size_of(shape.compute_dtype));
  const auto tokens = static_cast<double>(config.batch_size * config.seq_len);
  const auto width = static_cast<double>(shape.d_model);
  const auto hidden = static_cast<double>(shape.d_ff);
  const auto layers = static_cast<double>(shape.n_layers);
  // Kept for backward in each layer: both sums and norms, the mixer's projections and output (about
  // 4 widths), and the MLP's gate, up and product. While one layer is walked backward, its
  // gradients stand beside them.
  const double mlp =
      shape.recompute == nn::Recompute::none || device.is_cpu() ? 3 * hidden : 2 * hidden;
  const double layer = tokens * element * (8 * width + mlp);
  const double kept_of_layer = [&] {
    switch (shape.recompute) {
      case nn::Recompute::elementwise:
        return 6 * width + mlp;
      case nn::Recompute::attention:
        return 3 * width + mlp;  // full attention keeps its output
      case nn::Recompute::block:
        return width;
      default:
        return 8 * width + mlp;
    }
  }();
  const double recomputed = shape.recompute == nn::Recompute::none ? 0.0 : layer;
  const double kept = tokens * element * kept_of_layer * layers + recomputed;
  // f32 parameters, gradients and the optimizer's state (two moments, or Muon's one), and bf16
  // copies of the weights.
  const double per_parameter =
      4 + 4 + (config.optimizer.optimizer == "sgd" ? 4 : 8) + (element < 4 ? element : 0);
  // The loss holds some rows of logits at a time, in f32 and as their gradients.
  const double most_logits = device.is_cpu() ? 1 << 27 : 1 << 30;
  const double logits = std::min(tokens * 4 * static_cast<double>(shape.vocab_size), most_logits) *
                        (element < 4 ? 1 + element / 4 : 1);
  return kept + std::max(layer, logits) +
         per_parameter * static_cast<double>(model.num_parameters());
}

void RunPlan::describe(Console& console) const {
  const auto parameters = static_cast<double>(model.num_parameters());
  const int64_t step_tokens = config.batch_size * config.seq_len * config.grad_accum_steps;
  const double run_tokens =
      static_cast<double>(step_tokens) * static_cast<double>(config.max_steps);
  const io::Loader loader(data.train, {.batch_size = config.batch_size,
                                       .seq_len = config.seq_len,
                                       .micro_batches = config.grad_accum_steps,
                                       .seed = config.seed,
                                       .prefetch = 0});
  const double epochs = loader.epoch(config.max_steps);
  std::string parts;
  for (const ParameterCount& part : model.parts) {
    if (part.count > 0)
      parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", part.part,
                           format_count(static_cast<double>(part.count)));
  }
  const double cache = model.cache_bytes_per_token();
  console.info(
      fmt::format("weft {} on {}, {} threads", version(), describe_device(device), num_threads()));
  if (config.device == "auto" && device.is_cpu()) {
    console.info(
        fmt::format("device      cpu, since {}", unavailable_reason({DeviceType::cuda, 0})));
  }
  console.info(fmt::format("data        {}", data.description));
  console.info(
      fmt::format("model       {} parameters: {}", with_commas(model.num_parameters()), parts));
  console.info(fmt::format("attention   {}: {} parameters each; width {}, {}",
                           config.model.schedule(), describe_layers(model), model.config.d_model,
                           to_string(model.config.compute_dtype)));
  console.info(fmt::format(
      "cache       {:.1f} bytes per token and layer, {:.1f} per token in all, over {} tokens",
      cache / static_cast<double>(model.config.n_layers), cache, model.cache_tokens));
  console.info(fmt::format("step        {} x {} x {} = {} tokens", config.grad_accum_steps,
                           config.batch_size, config.seq_len, step_tokens));
  console.info(fmt::format("run         {} steps, {} tokens, {:.1f} tokens per parameter{}",
                           config.max_steps, format_count(run_tokens), run_tokens / parameters,
                           epochs > 0 ? fmt::format(", {:.2f} epochs", epochs) : ""));
  const double needed = estimated_bytes();
  const auto there = static_cast<double>(device_info(device).memory_bytes);
  console.info(fmt::format("memory      about {} for training{}", format_bytes(needed),
                           there > 0 ? fmt::format(", of {}", format_bytes(there)) : ""));
  console.info(fmt::format("output      {}", config.out_dir));
  if (there > 0 && needed > there) {
    console.warn(fmt::format(
        "the run may need more memory than {} has; a smaller --batch-size (with more "
        "--grad-accum-steps) or --seq-len, --recompute block and --dtype bf16 need less",
        device));
  }
}

}  // namespace weft::apps

#include "common/trainer.h"

#include <cmath>

#include <fmt/format.h>

#include "weft/nn/generation.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/parallel.h"

#include "common/exit_code.h"
#include "common/machine.h"
#include "common/memory.h"
#include "common/process_time.h"
#include "common/signals.h"
#include "common/version.h"

namespace weft::apps {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool is_due(int64_t period, int64_t steps_done) {
  return period > 0 && steps_done % period == 0;
}

}  // namespace

Trainer::Trainer(RunPlan plan, std::string config_text, Console& console)
    : config_(plan.config),
      config_text_(std::move(config_text)),
      console_(console),
      data_(std::move(plan.data)),
      device_(plan.device),
      model_(config_.model.make_model(plan.vocab_size(), config_.seed, device_)),
      optimizer_(config_.optimizer.make_optimizer(*model_)),
      schedule_(config_.optimizer.make_schedule(config_.max_steps)),
      dropout_generator_(config_.seed + 1),
      loader_(data_.train, {.batch_size = config_.batch_size,
                            .seq_len = config_.seq_len,
                            .micro_batches = config_.grad_accum_steps,
                            .seed = config_.seed,
                            .pinned = device_.is_cuda()}) {
  if (model_->config().compute_dtype == DType::f16)
    loss_scaler_.emplace(optim::LossScalerOptions{.min_scale = 1}, device_);
}

RunState Trainer::state() {
  return {.steps_done = steps_done_,
          .model = *model_,
          .optimizer = *optimizer_,
          .loss_scaler = loss_scaler_ ? &*loss_scaler_ : nullptr,
          .dropout = dropout_generator_};
}

int Trainer::run() {
  run_.emplace(config_);
  console_.attach_file(run_->folder().log().string());
  RunState saved = state();
  run_->resume(saved, config_text_, *data_.tokenizer, console_);
  steps_done_ = saved.steps_done;
  if (steps_done_ >= config_.max_steps) {
    console_.info(fmt::format("nothing to do: the run has its {} steps", steps_done_));
    return kDone;
  }
  StopSignals::note_first();
  run_->begin(steps_done_, config_text_, *data_.tokenizer);
  product_rate_ = measure_product_rate(model_->config().compute_dtype, device_);
  allocator(device_).reset_peak();  // that of the measurement is not the run's
  loader_.seek(steps_done_);
  model_->train();
  TrainingStep training_step(*model_, *optimizer_, schedule_, config_.optimizer.grad_clip,
                             dropout_generator_, loss_scaler_ ? &*loss_scaler_ : nullptr);
  while (steps_done_ < config_.max_steps) {
    const auto start = Clock::now();
    const TrainingStep::Result result = training_step.run(steps_done_, next_batches());
    ++steps_done_;
    note_graph_refusal(training_step);
    if (first_step_seconds_ == 0) {
      first_step_seconds_ = process_seconds();
      console_.info(fmt::format("first step done {:.2f} s after the start of the program",
                                first_step_seconds_));
    }
    log_step(result, seconds_since(start));
    const bool last = steps_done_ == config_.max_steps;
    if (is_due(config_.eval_every, steps_done_) || last) evaluate();
    run_->flush_metrics(steps_done_);
    if (is_due(config_.sample_every, steps_done_)) sample();
    const int signal = StopSignals::requested();
    if (is_due(config_.save_every, steps_done_) || last || signal != 0) save();
    if (last || signal != 0) write_report();
    if (signal != 0 && !last) {
      console_.info(fmt::format("stopped by signal {} after step {}; the same command continues",
                                signal, steps_done_));
      return kSignalBase + signal;
    }
  }
  console_.info(fmt::format("done: {}", run_->folder().path().string()));
  return kDone;
}

std::vector<io::Batch> Trainer::next_batches() {
  std::vector<io::Batch> batches;
  for (int64_t i = 0; i < config_.grad_accum_steps; ++i) batches.push_back(loader_.next());
  return batches;
}

void Trainer::note_graph_refusal(const TrainingStep& step) {
  if (noted_graph_refusal_ || step.graph_refusal().empty()) return;
  noted_graph_refusal_ = true;
  console_.info(fmt::format("steps run without a CUDA graph: {}", step.graph_refusal()));
}

void Trainer::log_step(const TrainingStep::Result& result, double seconds) {
  const double tokens =
      static_cast<double>(config_.batch_size * config_.seq_len * config_.grad_accum_steps);
  const double rate = tokens / seconds;
  const double mfu = rate * model_->training_flops_per_token(config_.seq_len) / product_rate_;
  timed_seconds_ += seconds;
  ++timed_steps_;
  const int64_t done = steps_done_;
  const double remaining = static_cast<double>(config_.max_steps - done) * timed_seconds_ /
                           static_cast<double>(timed_steps_);
  const std::string line = fmt::format(
      "step {:05}/{:05} ({:.1f}%) | loss {:.4f} | lr {:.1e} | norm {:.2f} | {:.1f} ms | {} tok/s | "
      "mfu {:.1f}% | {} | eta {}",
      done, config_.max_steps,
      100.0 * static_cast<double>(done) / static_cast<double>(config_.max_steps), result.loss,
      result.lr, result.grad_norm, 1e3 * seconds, format_count(rate), 100 * mfu,
      format_bytes(static_cast<double>(memory_in_use(device_))), format_duration(remaining));
  if (is_due(config_.log_every, done) || timed_steps_ == 1 ||
      (done == config_.max_steps && config_.log_every > 0)) {
    console_.info(line);
  } else {
    console_.status(line);
  }
  run_->add_metrics({{"train/loss", result.loss},
                     {"train/lr", result.lr},
                     {"train/grad_norm", result.grad_norm},
                     {"train/tokens_per_sec", rate},
                     {"train/mfu", mfu},
                     {"train/memory_gb", static_cast<double>(memory_in_use(device_)) * 1e-9},
                     {"train/peak_gb", static_cast<double>(peak_memory(device_)) * 1e-9}});
  if (device_.is_cuda())
    run_->add_metrics({{"train/host_gb", static_cast<double>(resident_bytes()) * 1e-9}});
}

void Trainer::evaluate() {
  if (data_.valid == nullptr) return;
  const int64_t sequences = data_.valid->size() == io::kEndless && config_.eval_sequences < 0
                                ? 64
                                : config_.eval_sequences;
  const LossReport report = evaluate_loss(
      *model_, data_.valid, *data_.tokenizer,
      {.batch_size = config_.batch_size, .seq_len = config_.seq_len, .max_sequences = sequences});
  if (!std::isfinite(report.loss)) {
    throw NonFiniteError(fmt::format("step {}: the held-out loss is {}", steps_done_, report.loss));
  }
  console_.info(
      fmt::format("eval {:05} | loss {:.4f} | perplexity {:.2f} | {:.4f} bits per byte | {} tokens",
                  steps_done_, report.loss, report.perplexity, report.bits_per_byte,
                  format_count(static_cast<double>(report.tokens))));
  run_->add_metrics({{"eval/loss", report.loss},
                     {"eval/perplexity", report.perplexity},
                     {"eval/bits_per_byte", report.bits_per_byte}});
}

void Trainer::sample() {
  std::vector<int64_t> prompt;
  for (const int32_t id : data_.tokenizer->encode(config_.sample_prompt)) prompt.push_back(id);
  if (prompt.empty()) return;
  Generator generator(config_.seed);  // the same draw each time: differences come from learning
  std::vector<int32_t> ids;
  for (const int64_t id : nn::generate(*model_, prompt,
                                       {.max_new_tokens = config_.sample_tokens,
                                       .sampling = {.temperature = 0.8},
                                       .vocab_size = data_.tokenizer->vocab_size()},
                                       generator)) {
    ids.push_back(static_cast<int32_t>(id));
  }
  run_->log_sample(steps_done_, config_.sample_prompt + data_.tokenizer->decode(ids));
}

void Trainer::write_report() {
  run_->write_report({{"attention", config_.model.schedule()},
                      {"parameters", format_count(static_cast<double>(model_->num_parameters()))},
                      {"data", data_.description},
                      {"steps", fmt::format("{} of {}", steps_done_, config_.max_steps)},
                      {"device", describe_machine(device_)},
                      {"start to first step", fmt::format("{:.2f} s", first_step_seconds_)},
                      {"weft", version()}});
}

void Trainer::save() {
  // The update may have been the one that overflowed; older checkpoints must not give way to it.
  for (const auto& [name, parameter] : model_->named_parameters()) {
    if (!all_finite(parameter.data())) {
      throw NonFiniteError(
          fmt::format("step {}: parameter {} is not finite after the update", steps_done_, name));
    }
  }
  const auto start = Clock::now();
  const std::string path = run_->save(state(), config_text_, *data_.tokenizer);
  console_.info(fmt::format("saved {} in {:.0f} ms", path, 1e3 * seconds_since(start)));
}

}  // namespace weft::apps

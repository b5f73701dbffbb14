#include "common/training_step.h"

#include <cmath>

#include <fmt/format.h>

#include "weft/optim/adamw.h"
#include "weft/optim/clip.h"
#include "weft/optim/muon.h"
#include "weft/optim/sgd.h"
#include "weft/tensor/ops/compare.h"

namespace weft::apps {

void OptimizerOptions::add_to(Options& options) {
  options.group("Optimisation");
  options.add("optimizer", &optimizer,
              "how parameters are changed (muon: matrices by Muon, the rest by AdamW)",
              {"adamw", "muon", "sgd"});
  options.add("lr", &lr, "peak learning rate", {0, 1e3});
  options.add("lr-schedule", &lr_schedule, "course of the learning rate",
              {"constant", "linear", "cosine", "wsd"});
  options.add("min-lr", &min_lr, "learning rate at the end", {0, 1e3});
  options.add("warmup-steps", &warmup_steps, "steps of rising learning rate", {0});
  options.add("decay-steps", &decay_steps,
              "steps of falling learning rate (wsd); 0 means a fifth of the run", {0});
  options.add("weight-decay", &weight_decay,
              "decoupled weight decay; norms and embeddings have none", {0, 1e3});
  options.add("beta1", &beta1, "decay of AdamW's first moment", {0, 0.999999});
  options.add("beta2", &beta2, "decay of AdamW's second moment", {0, 0.999999});
  options.add("momentum", &momentum, "momentum of SGD and Muon", {0, 0.999999});
  options.add("grad-clip", &grad_clip, "largest global gradient norm; 0 clips nothing", {0, 1e9});
}

std::unique_ptr<optim::Optimizer> OptimizerOptions::make_optimizer(const nn::Module& model) const {
  const autograd::NamedParameters parameters = model.named_parameters();
  const optim::AdamWOptions adamw{.beta1 = beta1, .beta2 = beta2, .weight_decay = weight_decay};
  if (optimizer == "sgd") {
    return std::make_unique<optim::Sgd>(
        optim::default_groups(parameters),
        optim::SgdOptions{
            .momentum = momentum, .weight_decay = weight_decay, .nesterov = momentum > 0});
  }
  if (optimizer == "muon") {
    // Steps as large as AdamW's, so that one learning rate and decay serve both.
    return std::make_unique<optim::Muon>(optim::split_for_muon(parameters),
                                         optim::MuonOptions{.momentum = momentum,
                                                            .scale = optim::MuonScale::match_adamw,
                                                            .weight_decay = weight_decay,
                                                            .adamw = adamw});
  }
  return std::make_unique<optim::AdamW>(optim::default_groups(parameters), adamw);
}

optim::Schedule OptimizerOptions::make_schedule(int64_t max_steps) const {
  optim::ScheduleOptions schedule;
  schedule.kind = optim::parse_schedule_kind(lr_schedule);
  schedule.lr = lr;
  schedule.min_lr = min_lr;
  schedule.max_steps = max_steps;
  schedule.warmup_steps = std::min(warmup_steps, max_steps);
  if (schedule.kind == optim::ScheduleKind::wsd) {
    schedule.decay_steps = decay_steps > 0 ? decay_steps : std::max<int64_t>(1, max_steps / 5);
    schedule.warmup_steps =
        std::min(schedule.warmup_steps, std::max<int64_t>(0, max_steps - schedule.decay_steps));
  }
  return optim::Schedule(schedule);
}

TrainingStep::TrainingStep(nn::DecoderLM& model, optim::Optimizer& optimizer,
                           const optim::Schedule& schedule, double grad_clip, Generator& generator,
                           optim::LossScaler* loss_scaler)
    : model_(model),
      optimizer_(optimizer),
      schedule_(schedule),
      loss_scaler_(loss_scaler),
      step_(optimizer, model.device(),
            [&](const Tensor& inputs, const Tensor& targets, const Tensor& scale) {
              return model.loss(inputs, targets, &generator, scale);
            },
            {.grad_clip = grad_clip, .loss_scaler = loss_scaler, .generators = {&generator}}) {}

TrainingStep::Result TrainingStep::run(int64_t step, const std::vector<io::Batch>& micro_batches) {
  std::vector<optim::MicroBatch> batches;
  for (const io::Batch& batch : micro_batches)
    batches.push_back({batch.inputs, batch.targets, batch.scored});
  const double lr = schedule_.lr(step);
  const double loss_scale = loss_scaler_ != nullptr ? loss_scaler_->scale() : 1;
  const optim::TrainingStep::Result result = step_.run(lr, batches);
  if (!std::isfinite(result.loss)) report_loss(step + 1, result.loss, micro_batches);
  const bool may_give_way = loss_scaler_ != nullptr && loss_scaler_->scale() < loss_scale;
  if (!std::isfinite(result.grad_norm) && !may_give_way)
    report_gradient(step + 1, result.grad_norm);
  return {.loss = result.loss, .grad_norm = result.grad_norm, .lr = lr};
}

void TrainingStep::report_loss(int64_t step, double loss, const std::vector<io::Batch>& batches) {
  for (const auto& [name, parameter] : optimizer_.parameters()) {
    if (!all_finite(parameter.data()))
      throw NonFiniteError(
          fmt::format("step {}: the loss is {}; parameter {} is not finite", step, loss, name));
  }
  constexpr const char* kLoss = "the loss";
  std::string place = kLoss;
  for (const io::Batch& batch : batches) {
    place = model_.find_non_finite(batch.inputs.to(model_.device()));
    if (place != kLoss) break;
  }
  throw NonFiniteError(fmt::format(
      "step {}: the loss is {}; first bad activation: the output of {}", step, loss, place));
}

void TrainingStep::report_gradient(int64_t step, double grad_norm) {
  const auto bad = optim::find_non_finite_grad(optimizer_.parameters());
  throw NonFiniteError(fmt::format("step {}: the gradient of {} is {} at element {}", step,
                                   bad ? bad->name : "?", bad ? bad->value : grad_norm,
                                   bad ? bad->index : 0));
}

}  // namespace weft::apps

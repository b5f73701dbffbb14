#include "common/training_step.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "weft/autograd/functions/arithmetic.h"
#include "weft/optim/adamw.h"
#include "weft/optim/clip.h"
#include "weft/optim/muon.h"
#include "weft/optim/sgd.h"
#include "weft/tensor/check.h"
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

TrainingStep::Result TrainingStep::run(int64_t step, const std::vector<io::Batch>& micro_batches) {
  int64_t total = 0;
  for (const io::Batch& batch : micro_batches) total += batch.scored;
  optimizer_.zero_grad();
  Result result;
  for (const io::Batch& batch : micro_batches) {
    if (batch.scored == 0) continue;
    // Each micro-batch's mean weighs by its share of the scored tokens, so that the sum is the mean
    // over all.
    const double share = static_cast<double>(batch.scored) / static_cast<double>(total);
    const nn::Variable loss = model_.loss(batch.inputs, batch.targets, &generator_);
    const double value = loss.data().item<double>();
    if (!std::isfinite(value))
      report_non_finite(step + 1, fmt::format("the loss is {}", value), batch);
    result.loss += share * value;
    loss.backward(full(loss.shape(), share, loss.dtype(), loss.device()));
  }
  const autograd::NamedParameters parameters = optimizer_.parameters();
  result.grad_norm = optim::grad_norm(parameters);
  if (!std::isfinite(result.grad_norm)) {
    const auto bad = optim::find_non_finite_grad(parameters);
    throw NonFiniteError(fmt::format("step {}: the gradient of {} is {} at element {}", step + 1,
                                     bad ? bad->name : "?", bad ? bad->value : result.grad_norm,
                                     bad ? bad->index : 0));
  }
  result.lr = schedule_.lr(step);
  optimizer_.step(result.lr,
                  grad_clip_ > 0 ? optim::clip_scale(result.grad_norm, grad_clip_) : 1.0);
  return result;
}

void TrainingStep::report_non_finite(int64_t step, const std::string& what,
                                     const io::Batch& batch) {
  for (const auto& [name, parameter] : optimizer_.parameters()) {
    if (!all_finite(parameter.data()))
      throw NonFiniteError(
          fmt::format("step {}: {}; parameter {} is not finite", step, what, name));
  }
  throw NonFiniteError(fmt::format("step {}: {}; first bad activation: the output of {}", step,
                                   what, model_.find_non_finite(batch.inputs)));
}

}  // namespace weft::apps

#include "weft/optim/training_step.h"

#include <cmath>
#include <limits>
#include <utility>

#include "weft/optim/clip.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/profiler.h"

namespace weft::optim {

TrainingStep::TrainingStep(Optimizer& optimizer, Device device, Loss loss,
                           TrainingStepOptions options)
    : optimizer_(optimizer), device_(device), loss_(std::move(loss)), options_(options) {
  WEFT_CHECK(options.grad_clip >= 0, ConfigError,
             "training step: grad_clip must be 0 or more, got {}", options.grad_clip);
  scale_ = zeros({}, DType::f32, device);
  outcome_ = zeros({2}, DType::f64, device);
}

TrainingStep::Result TrainingStep::run(double lr, std::span<const MicroBatch> micro_batches) {
  int64_t scored = 0;
  for (const MicroBatch& batch : micro_batches) scored += batch.scored;
  if (scored == 0) return {};
  LossScaler* const scaler = options_.loss_scaler;
  const double loss_scale = scaler != nullptr ? scaler->scale() : 1;
  scale_.fill_(loss_scale / static_cast<double>(scored));
  load(micro_batches);
  optimizer_.prepare_step(lr);
  // A replay would hide its parts from the profiler.
  const bool wants_graph =
      options_.use_graph && device_.is_cuda() && graph_refusal_.empty() && !profiler::enabled();
  if (!wants_graph) graph_.reset();
  const bool has_changed = recorded_places_ != parameter_places() || recorded_seeds_ != seeds();
  if (is_replayed() && has_changed) graph_.reset();
  if (wants_graph && warm_ && !is_replayed()) record();
  if (!graph_refusal_.empty() && wants_graph) {  // the attempt may have taken the step's count
    optimizer_.revert_step_count();
    optimizer_.prepare_step(lr);
  }
  if (is_replayed()) {
    graph_->replay();
  } else {
    compute();
    warm_ = true;
  }
  const std::vector<double> outcome = outcome_.to_vector<double>();
  const Result result{.loss = outcome[0] / loss_scale,
                      .grad_norm = outcome[1] / loss_scale,
                      .updated = std::isfinite(outcome[0]) && std::isfinite(outcome[1])};
  if (!result.updated) optimizer_.revert_step_count();
  if (scaler != nullptr) scaler->update(result.updated);
  return result;
}

/// Puts the batches where a recorded step reads them; on the CPU nothing is recorded and nothing
/// copied.
void TrainingStep::load(std::span<const MicroBatch> micro_batches) {
  const bool is_first = batches_.empty();
  WEFT_CHECK(is_first || batches_.size() == micro_batches.size(), ShapeError,
             "training step: {} micro-batches came where earlier steps had {}",
             micro_batches.size(), batches_.size());
  if (is_first) batches_.resize(micro_batches.size());
  for (size_t i = 0; i < batches_.size(); ++i) {
    const MicroBatch& from = micro_batches[i];
    MicroBatch& to = batches_[i];
    if (device_.is_cpu()) {
      to = from;
      continue;
    }
    if (is_first) {
      to.inputs = empty(from.inputs.shape(), from.inputs.dtype(), device_);
      to.targets = empty(from.targets.shape(), from.targets.dtype(), device_);
    }
    WEFT_CHECK(
        to.inputs.shape() == from.inputs.shape() && to.targets.shape() == from.targets.shape(),
        ShapeError, "training step: inputs {} and targets {} came where earlier steps had {}, {}",
        from.inputs, from.targets, to.inputs, to.targets);
    to.inputs.copy_(from.inputs);
    to.targets.copy_(from.targets);
    to.scored = from.scored;
  }
}

void TrainingStep::compute() {
  optimizer_.zero_grad();
  Tensor total = zeros({}, DType::f64, device_);
  for (const MicroBatch& batch : batches_) {
    if (device_.is_cpu() && batch.scored == 0) continue;
    const autograd::Variable loss = loss_(batch.inputs, batch.targets, scale_);
    loss.backward();
    add_(total, loss.data().to(DType::f64));
  }
  const Tensor norm = grad_norm_tensor(optimizer_.parameters());
  outcome_.select(0, 0).copy_(total);
  outcome_.select(0, 1).copy_(norm);
  // An infinite loss can have finite gradients; the step must not be taken then either.
  const Tensor guarded = add(norm, mul(total, 0.0));
  const double limit =
      options_.grad_clip > 0 ? options_.grad_clip : std::numeric_limits<double>::infinity();
  const Tensor unscale =
      options_.loss_scaler != nullptr ? options_.loss_scaler->inverse_scale_tensor() : Tensor();
  optimizer_.apply_step(clip_scale_tensor(guarded, limit, unscale));
}

void TrainingStep::record() {
  // What earlier steps left in the cache is of no use to the graph, which has memory of its own.
  optimizer_.zero_grad();
  current_stream(device_).synchronize();
  allocator(device_).empty_cache();
  graph_.emplace(device_);
  try {
    graph_->capture([this] { compute(); }, options_.generators);
    recorded_places_ = parameter_places();
    recorded_seeds_ = seeds();
  } catch (const CaptureError& error) {
    graph_refusal_ = error.what();
    optimizer_.zero_grad();  // they lie in memory of the graph
    graph_.reset();
  }
}

std::vector<const void*> TrainingStep::parameter_places() const {
  std::vector<const void*> places;
  for (const autograd::NamedParameter& named : optimizer_.parameters())
    places.push_back(named.parameter.data().raw_data());
  return places;
}

std::vector<uint64_t> TrainingStep::seeds() const {
  std::vector<uint64_t> seeds;
  for (const Generator* const generator : options_.generators) seeds.push_back(generator->seed());
  return seeds;
}

}  // namespace weft::optim

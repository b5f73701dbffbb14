#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "weft/autograd/named_parameter.h"
#include "weft/optim/step_inputs.h"
#include "weft/tensor/named_tensor.h"
#include "weft/tensor/ops/low_precision_copies.h"

namespace weft::optim {

using autograd::NamedParameter;
using autograd::NamedParameters;

/// Parameters that share options.
struct ParameterGroup {
  std::string name = {};  ///< for messages only
  NamedParameters parameters = {};
  double lr_scale = 1;                      ///< multiplies the rate given to Optimizer::step()
  std::optional<double> weight_decay = {};  ///< unset: that of the optimizer's options
};

/// Two groups: "decay" takes the optimizer's weight decay, "no_decay" takes none. No decay falls on
/// parameters of rank 0 or 1 (gains, biases) and on those whose name contains "embed" or "norm".
std::vector<ParameterGroup> default_groups(const NamedParameters& parameters);

/// Base of the optimizers: reads the gradients of its parameters and changes their values.
///
/// Parameters are dense leaves of f32 or f64 with unique names. One that does not require a
/// gradient when the optimizer is made is left out of it; one that has no gradient at a step is
/// skipped in that step, and its state (moments, own step count) does not move.
///
/// Gradient accumulation: backward() adds to the gradients until zero_grad(), so a large batch can
/// be walked in micro-batches before one step(). The result is that of the large batch when each
/// micro-batch's mean loss is multiplied by its share of the tokens (tokens that count in the loss
/// over those of the whole batch), or when losses are sums and step() gets grad_scale = 1 / tokens.
/// The plain mean over micro-batches is right only where all hold equally many tokens.
///
/// A step on a GPU is captured in a graph in two halves, of which only the second becomes part of
/// the graph:
///
///   optimizer.prepare_step(lr);
///   graph.capture([&] { ...; optimizer.apply_step(clip_scale_tensor(norm, 1)); });
///   graph.replay();
///   for (...) { optimizer.prepare_step(lr); graph.replay(); }
///
/// The gradients that are defined at the capture say which parameters the replays change; they must
/// be the same in all graphs of one optimizer. Copies of weights that low_precision_copy() keeps
/// are written with the weights.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Changes every parameter that has a gradient, in one pass over memory. `lr` is the learning
  /// rate (see Schedule); gradients are multiplied by `grad_scale` as they are read, so that
  /// clipping (clip_scale()) and accumulation need no pass of their own. Throws ConfigError on a
  /// negative or non-finite number, AutogradError on a gradient that does not fit its parameter;
  /// nothing is changed then.
  void step(double lr, double grad_scale = 1);
  /// The same without a wait for the GPU: `grad_scale` (rank 0, f32 or f64, on the parameters'
  /// device) is read there, as clip_scale_tensor() gives it. Where it is not finite no parameter
  /// and no moment is changed; see revert_step_count(). Throws ShapeError, DTypeError.
  void step(double lr, const Tensor& grad_scale);

  /// First half of step(): sets the numbers that depend on the rate and on the step counts, in
  /// memory of the device that keeps its address. Copies to there in stream order, without a wait.
  /// With captured steps it counts the step that the next replay takes, and brings copies of
  /// weights up to date that others have changed. Throws ConfigError as step() does.
  void prepare_step(double lr);
  /// Second half: changes the parameters, by kernels alone that read all changing numbers from
  /// memory of the device. Throws as step() does, and AutogradError unless prepare_step() came
  /// before it.
  void apply_step(const Tensor& grad_scale);
  /// Takes one from the step counts of the parameters of the last step: for a step that changed
  /// nothing because its grad_scale was not finite, or because its graph could not be captured. To
  /// be called before the next prepare_step().
  void revert_step_count();

  /// Makes all gradients undefined.
  void zero_grad();

  /// Everything that a resumed run needs besides parameters and options, one tensor per parameter
  /// and quantity: "model.norm.weight/exp_avg", and the step count "model.norm.weight/step" (i64,
  /// rank 0). Moments are the optimizer's own, not copies: they change with the next step.
  StateDict state_dict() const;
  /// Takes over the values of a state_dict() of an optimizer of the same kind and parameters, bit
  /// for bit. Throws ConfigError listing missing and unexpected names, ShapeError or DTypeError on
  /// a tensor that does not fit; nothing is changed then.
  void load_state_dict(const StateDict& state);

  /// As given to the constructor.
  const std::vector<ParameterGroup>& groups() const { return groups_; }
  /// The parameters that take part, over all groups.
  NamedParameters parameters() const;
  /// "adamw", "muon", ...
  const std::string& name() const { return name_; }

 protected:
  /// What an optimizer keeps for one parameter.
  struct ParameterState {
    NamedParameter named;
    size_t group = 0;
    int64_t step = 0;            // updates of this parameter so far, the current one included
    std::vector<Tensor> values;  // shaped like the parameter, named as given to add_groups()
    int64_t prepared = 0;        // the step that the numbers on the device are of
    bool is_captured = false;    // changed by replays
  };
  /// One parameter of the current step. The tensors are dense and of one type and device over all
  /// updates of a call.
  struct Update {
    ParameterState* state;
    Tensor parameter;
    Tensor grad;
    int64_t row;                         // of its numbers in StepInputs
    Tensor copy = {};                    // for the kernel to write with an f32 parameter on a GPU
    std::vector<Tensor> converted = {};  // copies that are made from the new parameter
  };

  explicit Optimizer(std::string name) : name_(std::move(name)) {}

  /// To be called by constructors: takes groups whose parameters keep these values, zero at first.
  void add_groups(std::vector<ParameterGroup> groups, const std::vector<std::string>& value_names);

  /// Rate and decay that apply to a parameter: the group's, or these where the group sets none.
  double lr_of(const ParameterState& state, double lr) const;
  double weight_decay_of(const ParameterState& state, double weight_decay) const;

  /// What the kernels are to read for update number state.prepared at this rate.
  virtual StepNumbers step_numbers(const ParameterState& state, double lr) const = 0;
  /// Changes the parameters and their state; the checks are done.
  virtual void update(std::span<const Update> updates, const StepInputs& inputs) = 0;

 private:
  std::vector<Update> collect_updates();
  LowPrecisionCopies find_copies(std::span<Update> updates) const;
  Tensor& numbers_on(Device device);
  std::string key(const ParameterState& state, const std::string& value_name) const;

  std::string name_;
  std::vector<ParameterGroup> groups_;
  std::vector<std::vector<std::string>> value_names_;  // of each group
  std::vector<ParameterState> states_;
  std::vector<Tensor> numbers_;  // f64 [states, kStepNumbers], on each device with parameters
  bool is_prepared_ = false;
  std::vector<LowPrecisionCopies> captured_;  // of captured steps, each set once
};

}  // namespace weft::optim

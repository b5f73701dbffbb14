#include "weft/nn/mlp.h"

#include <utility>
#include <vector>

#include <fmt/format.h>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/join.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/mlp.h"
#include "weft/tensor/ops/linear.h"

namespace weft::nn {

SwigluMlp::SwigluMlp(int64_t features, int64_t hidden, Generator& generator, const MlpInit& init,
                     bool recompute_activation)
    : Layer("SwigluMlp"),
      gate_proj_(register_module<Linear>("gate_proj", features, hidden, generator,
                                         LinearOptions{.bias = false, .init_std = init.std})),
      up_proj_(register_module<Linear>("up_proj", features, hidden, generator,
                                       LinearOptions{.bias = false, .init_std = init.std})),
      down_proj_(
          register_module<Linear>("down_proj", hidden, features, generator,
                                  LinearOptions{.bias = false, .init_std = init.output_std})),
      recompute_activation_(recompute_activation) {
  // On a GPU one product serves both projections; their parameters stay separate by name.
  std::vector<Variable> weights = {gate_proj_.weight, up_proj_.weight};
  autograd::pack_storage(weights);
}

Variable SwigluMlp::forward(const Variable& x) {
  // On a CPU two smaller products run faster, and what they give stays in its caches.
  if (x.device().is_cpu()) return down_proj_(autograd::swiglu(gate_proj_(x), up_proj_(x)));
  const Variable packed =
      autograd::linear(x, autograd::join_rows({gate_proj_.weight, up_proj_.weight}));
  if (recompute_activation_) return autograd::swiglu_linear(packed, down_proj_.weight);
  return down_proj_(autograd::swiglu_packed(packed));
}

DecodeProduct SwigluMlp::decode(const DecodeRows& rows, bool settled) {
  const autograd::NoGradGuard no_grad;
  Tensor gate = gate_proj_.weight.data(), up = up_proj_.weight.data();
  const Tensor both = autograd::join_rows({gate_proj_.weight, up_proj_.weight}).data();
  if (!gate.device().is_cpu() && both.storage() == gate.storage()) {
    // The copy that forward() reads, so that there is one.
    const Tensor copy = low_precision_copy(both, rows.x.dtype());
    up = copy.slice(0, gate.size(0), copy.size(0));
    gate = copy.slice(0, 0, gate.size(0));
  }
  const DecodeProduct hidden = decode_swiglu(rows, gate, up, settled);
  return {decode_linear({.x = hidden.y}, down_proj_.weight.data(), settled).y, hidden.sum};
}

BiasedMlp::BiasedMlp(std::string type_name, int64_t features, int64_t hidden, Generator& generator,
                     const MlpInit& init, HiddenActivation activation)
    : Layer(std::move(type_name)),
      up_proj_(register_module<Linear>("up_proj", features, hidden, generator,
                                       LinearOptions{.init_std = init.std})),
      down_proj_(register_module<Linear>("down_proj", hidden, features, generator,
                                         LinearOptions{.init_std = init.output_std})),
      activation_(activation) {}

Variable BiasedMlp::forward(const Variable& x) {
  return autograd::mlp(x, {up_proj_.weight, up_proj_.bias, down_proj_.weight, down_proj_.bias},
                       activation_);
}

std::string BiasedMlp::describe() const {
  return fmt::format("activation={}", weft::to_string(activation_));
}

GeluMlp::GeluMlp(int64_t features, int64_t hidden, Generator& generator, const MlpInit& init,
                 Gelu form)
    : BiasedMlp("GeluMlp", features, hidden, generator, init,
                form == Gelu::exact ? HiddenActivation::gelu : HiddenActivation::gelu_tanh) {}

ReluMlp::ReluMlp(int64_t features, int64_t hidden, Generator& generator, const MlpInit& init)
    : BiasedMlp("ReluMlp", features, hidden, generator, init, HiddenActivation::relu) {}

}  // namespace weft::nn

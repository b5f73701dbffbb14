#pragma once

#include <string>

#include "weft/nn/linear.h"
#include "weft/nn/module.h"
#include "weft/tensor/ops/activation.h"
#include "weft/tensor/ops/decode_linear.h"
#include "weft/tensor/ops/linear_activation.h"

namespace weft::nn {

/// Standard deviations of the initial weights of an MLP.
struct MlpInit {
  double std = 0.02;
  double output_std = 0.02;  ///< of the projection that writes to the residual stream
};

/// down(silu(gate(x)) * up(x)) (Shazeer, "GLU variants improve transformer", 2020). Children
/// gate_proj, up_proj [hidden, features] and down_proj [features, hidden], without biases, as in
/// Hugging Face's Llama.
class SwigluMlp final : public Layer {
 public:
  /// With `recompute_activation` backward computes silu(gate(x)) * up(x) again on a GPU, in the
  /// pass that it makes over gate and up anyway, rather than keep it.
  SwigluMlp(int64_t features, int64_t hidden, Generator& generator, const MlpInit& init = {},
            bool recompute_activation = false);
  Variable forward(const Variable& x) override;
  /// forward() of the normed sum of a few rows [B, E], and that sum. Not recorded.
  DecodeProduct decode(const DecodeRows& rows, bool settled);

 private:
  Linear& gate_proj_;
  Linear& up_proj_;
  Linear& down_proj_;
  bool recompute_activation_;
};

/// down(activation(up(x))) with biases. Children up_proj and down_proj.
class BiasedMlp : public Layer {
 public:
  Variable forward(const Variable& x) final;
  std::string describe() const override;

 protected:
  BiasedMlp(std::string type_name, int64_t features, int64_t hidden, Generator& generator,
            const MlpInit& init, HiddenActivation activation);

 private:
  Linear& up_proj_;
  Linear& down_proj_;
  HiddenActivation activation_;
};

/// The MLP of GPT-2. Which gelu it was trained with is part of what its weights mean. By tanh the
/// activation can ride on a GPU's products.
class GeluMlp final : public BiasedMlp {
 public:
  GeluMlp(int64_t features, int64_t hidden, Generator& generator, const MlpInit& init = {},
          Gelu form = Gelu::exact);
};

class ReluMlp final : public BiasedMlp {
 public:
  ReluMlp(int64_t features, int64_t hidden, Generator& generator, const MlpInit& init = {});
};

}  // namespace weft::nn

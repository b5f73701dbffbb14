#include "weft/nn/mlp.h"

#include "weft/autograd/functions/activation.h"

namespace weft::nn {

SwigluMlp::SwigluMlp(int64_t features, int64_t hidden, Generator& generator, const MlpInit& init)
    : Layer("SwigluMlp"),
      gate_proj_(register_module<Linear>("gate_proj", features, hidden, generator,
                                         LinearOptions{.bias = false, .init_std = init.std})),
      up_proj_(register_module<Linear>("up_proj", features, hidden, generator,
                                       LinearOptions{.bias = false, .init_std = init.std})),
      down_proj_(
          register_module<Linear>("down_proj", hidden, features, generator,
                                  LinearOptions{.bias = false, .init_std = init.output_std})) {}

Variable SwigluMlp::forward(const Variable& x) {
  return down_proj_(autograd::swiglu(gate_proj_(x), up_proj_(x)));
}

GeluMlp::GeluMlp(int64_t features, int64_t hidden, Generator& generator, const MlpInit& init)
    : Layer("GeluMlp"),
      up_proj_(register_module<Linear>("up_proj", features, hidden, generator,
                                       LinearOptions{.init_std = init.std})),
      down_proj_(register_module<Linear>("down_proj", hidden, features, generator,
                                         LinearOptions{.init_std = init.output_std})) {}

Variable GeluMlp::forward(const Variable& x) {
  return down_proj_(autograd::gelu(up_proj_(x)));
}

}  // namespace weft::nn

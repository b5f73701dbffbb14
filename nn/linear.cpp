#include "weft/nn/linear.h"

#include <cmath>

#include "weft/autograd/functions/linear.h"
#include "weft/nn/init.h"
#include "weft/tensor/check.h"

namespace weft::nn {

Linear::Linear(int64_t in_features, int64_t out_features, Generator& generator,
               const LinearOptions& options)
    : Layer("Linear") {
  WEFT_CHECK(in_features >= 1 && out_features >= 1, ConfigError,
             "Linear: sizes must be at least 1, got {} -> {}", in_features, out_features);
  WEFT_CHECK(options.init_std >= 0, ConfigError, "Linear: init_std must not be negative, got {}",
             options.init_std);
  const double bound = 1.0 / std::sqrt(static_cast<double>(in_features));
  Tensor initial = empty({out_features, in_features});
  weight = register_parameter(
      "weight", options.init_std > 0 ? init::normal(initial, generator, 0.0, options.init_std)
                                     : init::uniform(initial, generator, -bound, bound));
  if (options.bias) {
    bias = register_parameter("bias",
                              options.init_std > 0
                                  ? zeros({out_features})
                                  : init::uniform(empty({out_features}), generator, -bound, bound));
  }
}

Variable Linear::forward(const Variable& x) {
  return autograd::linear(x, weight, bias);
}

std::string Linear::describe() const {
  return fmt::format("in={}, out={}, bias={}", weight.size(1), weight.size(0), bias.defined());
}

}  // namespace weft::nn

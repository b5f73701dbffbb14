#include "weft/nn/embedding.h"

#include "weft/autograd/functions/embedding.h"
#include "weft/nn/init.h"
#include "weft/tensor/check.h"

namespace weft::nn {

Embedding::Embedding(int64_t count, int64_t features, Generator& generator, double init_std)
    : Module("Embedding") {
  WEFT_CHECK(count >= 1 && features >= 1, ConfigError,
             "Embedding: sizes must be at least 1, got {} vectors of {}", count, features);
  weight = register_parameter("weight",
                              init::normal(empty({count, features}), generator, 0.0, init_std));
}

Variable Embedding::forward(const Tensor& ids, std::optional<DType> dtype) {
  return autograd::embedding(weight, ids, dtype);
}

std::string Embedding::describe() const {
  return fmt::format("count={}, features={}", weight.size(0), weight.size(1));
}

}  // namespace weft::nn

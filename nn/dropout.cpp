#include "weft/nn/dropout.h"

#include "weft/autograd/functions/dropout.h"
#include "weft/tensor/check.h"

namespace weft::nn {

Dropout::Dropout(double p, Generator& generator) : Layer("Dropout"), p_(p), generator_(generator) {
  WEFT_CHECK(p >= 0 && p < 1, ConfigError, "Dropout: p must lie in [0, 1), got {}", p);
}

Variable Dropout::forward(const Variable& x) {
  return training() && p_ > 0 ? autograd::dropout(x, p_, generator_) : x;
}

std::string Dropout::describe() const {
  return fmt::format("p={}", p_);
}

}  // namespace weft::nn

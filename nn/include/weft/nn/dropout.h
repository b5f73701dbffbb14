#pragma once

#include "weft/nn/module.h"

namespace weft::nn {

/// In training, zeroes each element with probability p and scales the others by 1 / (1 - p)
/// (Srivastava et al., 2014); the identity in eval mode. Draws from `generator`, which must outlive
/// the layer.
class Dropout final : public Layer {
 public:
  Dropout(double p, Generator& generator);

  Variable forward(const Variable& x) override;
  std::string describe() const override;

 private:
  double p_;
  Generator& generator_;
};

}  // namespace weft::nn

#pragma once

#include "weft/nn/module.h"

namespace weft::nn {

struct LinearOptions {
  bool bias = true;
  double init_std =
      0;  ///< N(0, init_std) weights; 0 means U(-1/sqrt(in), 1/sqrt(in)), the usual default
};

/// y = x W^T + b: x [..., in] -> [..., out]. Parameters `weight` [out, in] and, with bias, `bias`
/// [out].
class Linear final : public Layer {
 public:
  Linear(int64_t in_features, int64_t out_features, Generator& generator,
         const LinearOptions& options = {});

  Variable forward(const Variable& x) override;
  std::string describe() const override;

  Variable weight;
  Variable bias;  ///< undefined without bias
};

}  // namespace weft::nn

#pragma once

#include "weft/tensor/dtype.h"

namespace weft::attention::reference {

/// While one lives, the oracle in this thread rounds what each of its steps gives to `dtype`, as a
/// framework without fused kernels does: products, turned rows, scores, probabilities, sums. How
/// far that is from the exact result is what rounding alone costs.
class RoundSteps {
 public:
  explicit RoundSteps(DType dtype);
  ~RoundSteps();
  RoundSteps(const RoundSteps&) = delete;
  RoundSteps& operator=(const RoundSteps&) = delete;

 private:
  DType before_;
};

/// As the innermost RoundSteps says; the value itself where there is none.
double rounded(double value);

}  // namespace weft::attention::reference

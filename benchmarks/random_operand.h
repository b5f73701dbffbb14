#pragma once

#include <cstdint>
#include <vector>

#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

namespace weft::bench {

/// Sums of two uniform numbers: close enough to normal ones for realistic rows of softmax.
inline Tensor random_operand(const Shape& shape, DType dtype, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto words = philox4x32(seed, i);
    values[i] = static_cast<float>((words[0] * 0x1p-31 - 1 + words[1] * 0x1p-31 - 1) * 1.2);
  }
  return from_vector(values, shape).to(dtype);
}

}  // namespace weft::bench

#pragma once

#include <optional>

#include "weft/nn/module.h"

namespace weft::nn {

/// A table of vectors looked up by id: ids [...] of i64 or i32 -> [..., features]. Parameter
/// `weight` [count, features], N(0, init_std). Ids outside [0, count) are an IndexError.
class Embedding final : public Module {
 public:
  Embedding(int64_t count, int64_t features, Generator& generator, double init_std = 1.0);

  /// The vectors in `dtype`: that of the weight, or bf16 or f16 where the weight is f32.
  Variable forward(const Tensor& ids, std::optional<DType> dtype = std::nullopt);
  std::string describe() const override;

  Variable weight;
};

}  // namespace weft::nn

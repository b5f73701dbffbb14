#pragma once

#include "weft/tensor/generator.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Launchers behind weft/tensor/ops/random.h. `out` is dense; `state` is the generator's state
/// before the draw.
void uniform_cpu(Tensor& out, double low, double high, GeneratorState state, Stream stream);
void normal_cpu(Tensor& out, double mean, double std, GeneratorState state, Stream stream);
void randint_cpu(Tensor& out, int64_t low, int64_t high, GeneratorState state, Stream stream);
void bernoulli_cpu(Tensor& out, double p, GeneratorState state, Stream stream);

}  // namespace weft

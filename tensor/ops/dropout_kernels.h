#pragma once

#include "weft/tensor/generator.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Launcher behind dropout(); x and out are dense.
void dropout_cpu(const Tensor& x, Tensor& out, double p, GeneratorState state, Stream stream);

}  // namespace weft

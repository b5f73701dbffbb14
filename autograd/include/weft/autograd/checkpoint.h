#pragma once

#include <functional>
#include <vector>

#include "weft/autograd/variable.h"
#include "weft/tensor/generator.h"

namespace weft::autograd {

/// Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", 2016):
/// computes function(inputs) without recording, keeps the inputs alone, and computes it again,
/// recorded, when backward needs what lies between. Gradients of inputs and of leaves that the
/// function reads (parameters) are those of a plain call, to the bit. `generators` are the random
/// streams that the function draws from: the second run sees the states of the first.
std::vector<Variable> checkpoint(
    const std::function<std::vector<Variable>(const std::vector<Variable>&)>& function,
    const std::vector<Variable>& inputs, const std::vector<Generator*>& generators = {});

/// Whether this thread is inside the second run of a checkpointed function. Layers that change
/// themselves in forward(), such as running statistics, leave that to the first run.
bool is_recomputing();

}  // namespace weft::autograd

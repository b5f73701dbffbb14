#pragma once

#include <span>

#include "weft/optim/adamw.h"

#include "kernels/adamw.h"

namespace weft::optim {

// AdamW without the optimizer around it: Muon uses it for the parameters that are no matrices.

/// Throws ConfigError, naming `optimizer`, on options outside their range.
void check_options(const char* optimizer, const AdamWOptions& options);

/// The numbers of update number `step` (from 1) of one parameter.
StepNumbers adamw_numbers(const AdamWOptions& options, int64_t step, double lr,
                          double weight_decay);

/// Runs the kernel of the items' device.
void adamw_step(const AdamWOptions& options, std::span<AdamWItem> items, const StepInputs& inputs);

}  // namespace weft::optim

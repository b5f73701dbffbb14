#pragma once

#include <span>

#include "weft/optim/adamw.h"

#include "kernels/adamw.h"

namespace weft::optim {

// AdamW without the optimizer around it: Muon uses it for the parameters that are no matrices.

/// Throws ConfigError, naming `optimizer`, on options outside their range.
void check_options(const char* optimizer, const AdamWOptions& options);

/// Update number `step` (from 1) of one parameter. `moments` are exp_avg and exp_avg_sq.
AdamWItem make_adamw_item(const AdamWOptions& options, const Tensor& parameter, const Tensor& grad,
                          std::span<const Tensor> moments, int64_t step, double lr,
                          double weight_decay);

/// Runs the kernel of the items' device.
void adamw_step(const AdamWOptions& options, std::span<AdamWItem> items, double grad_scale);

}  // namespace weft::optim

#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/ops/rope.h"

namespace weft::autograd {

/// weft::rope; saves nothing of x.
Variable rope(const Variable& x, const RopeOptions& options = {});

/// Queries, keys and values, with shapes as in weft::Qkv.
struct QkvVariables {
  Variable q, k, v;
};

/// weft::rope_qkv; saves nothing of packed. Backward writes the three gradients into one packed
/// tensor, so that the projection that made it has one product.
QkvVariables rope_qkv(const Variable& packed, const QkvSplit& split,
                      const RopeOptions& options = {});

/// weft::split_qkv, with the same backward; for attention without positions.
QkvVariables split_qkv(const Variable& packed, const QkvSplit& split);

}  // namespace weft::autograd

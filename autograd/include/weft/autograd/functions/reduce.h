#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

// Reductions of weft/tensor/ops/reduce.h. any(), all(), argmax() and argmin() have no gradient: use
// them on data().

/// Saves nothing; its backward does not copy the gradient.
Variable sum(const Variable& x, const Axes& axes = {}, bool keepdim = false);
/// Saves nothing.
Variable mean(const Variable& x, const Axes& axes = {}, bool keepdim = false);
/// The gradient is split evenly among the elements that are the largest.
Variable max(const Variable& x, const Axes& axes = {}, bool keepdim = false);
/// The gradient is split evenly among the elements that are the smallest.
Variable min(const Variable& x, const Axes& axes = {}, bool keepdim = false);
Variable var(const Variable& x, const Axes& axes = {}, int correction = 1, bool keepdim = false);
/// At 0 the gradient is 0. For p = infinity it is split evenly among the largest magnitudes.
Variable norm(const Variable& x, const Axes& axes = {}, double p = 2, bool keepdim = false);
/// The gradient is 0 where all elements are -infinity.
Variable logsumexp(const Variable& x, const Axes& axes = {}, bool keepdim = false);

}  // namespace weft::autograd

#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

enum class ReduceOp { sum, mean, max, min, var, norm, logsumexp, any, all, argmax, argmin };

struct ReduceParams {
  ReduceOp op;
  const char* name;
  unsigned mask;         // bit a: axis a is reduced
  double parameter = 0;  // p of norm, correction of var
};

/// Reduces `x`. `out` is dense, has a place for every entry of the kept axes, in order, and the
/// type of the result.
void reduce_cpu(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);
void reduce_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream);

}  // namespace weft

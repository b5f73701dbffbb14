#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Factors of c = alpha a b + beta c. With beta = 0 the old c is not read.
struct GemmScale {
  double alpha = 1;
  double beta = 0;
};

/// Launcher of all matrix products. a [batch..., M, K], b [batch..., K, N], c [batch..., M, N] have
/// the same batch axes (broadcast ones with stride 0) and any strides; a and b have one floating
/// type, c has the same or f32. c overlaps neither operand and repeats no element.
void gemm_cpu(const Tensor& a, const Tensor& b, Tensor& c, GemmScale scale, Stream stream);

/// Calls the launcher for the device of c.
void gemm(const Tensor& a, const Tensor& b, Tensor& c, GemmScale scale = {});

}  // namespace weft

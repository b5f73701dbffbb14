#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// What happens to a product: c = alpha a b + beta c + bias. With beta = 0 the old c is not read.
struct GemmEpilogue {
  double alpha = 1;
  double beta = 0;
  Tensor bias = {};  ///< [1, N] or [M, 1], f32 (f64 for f64); undefined means none
};

/// Launcher of all matrix products. a [batch..., M, K], b [batch..., K, N], c [batch..., M, N] have
/// the same batch axes (broadcast ones with stride 0) and any strides; a and b have one floating
/// type, c has the same or f32. c overlaps neither operand and repeats no element.
void gemm_cpu(const Tensor& a, const Tensor& b, Tensor& c, const GemmEpilogue& epilogue,
              Stream stream);

/// Calls the launcher for the device of c. Does nothing for an empty c.
void gemm(const Tensor& a, const Tensor& b, Tensor& c, const GemmEpilogue& epilogue = {});

}  // namespace weft

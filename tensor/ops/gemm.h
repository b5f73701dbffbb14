#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// What happens to a product: c = alpha a b + beta c + bias. With beta = 0 the old c is not read.
struct GemmEpilogue {
  double alpha = 1;
  double beta = 0;
  /// [1, N] or [M, 1], f32 (f64 for f64) or, on a GPU, of c's type; undefined means none.
  Tensor bias = {};
  /// [M], dense, of c's type: becomes the sums of the rows of a, a matrix. On the GPU alone.
  Tensor row_sums = {};
};

/// Launcher of all matrix products. a [batch..., M, K], b [batch..., K, N], c [batch..., M, N] have
/// the same batch axes (broadcast ones with stride 0) and any strides; a and b have one floating
/// type, c has the same or f32. c overlaps neither operand and repeats no element.
void gemm_cpu(const Tensor& a, const Tensor& b, Tensor& c, const GemmEpilogue& epilogue,
              Stream stream);

/// Calls the launcher for the device of c. Does nothing for an empty c.
void gemm(const Tensor& a, const Tensor& b, Tensor& c, const GemmEpilogue& epilogue = {});

/// Launcher of products with a weight: y = x weight + bias. x [M, K] and y [M, N] have one type,
/// weight [K, N] has that type or f32. Copies of the weight in x's type, rearranged for quick
/// reading where that pays, are kept from call to call until the weight changes.
void gemm_weight_cpu(const Tensor& x, const Tensor& weight, Tensor& y, const Tensor& bias,
                     Stream stream);

/// Drops the rearranged weights.
void clear_packed_weights_cpu();

// On the GPU.
void gemm_cuda(const Tensor& a, const Tensor& b, Tensor& c, const GemmEpilogue& epilogue,
               Stream stream);
void gemm_weight_cuda(const Tensor& x, const Tensor& weight, Tensor& y, const Tensor& bias,
                      Stream stream);

}  // namespace weft

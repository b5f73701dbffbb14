#pragma once

#include "weft/tensor/ops/linear_activation.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// A product whose epilogue is an activation, or the derivative of one.
struct ActivationProduct {
  HiddenActivation activation = HiddenActivation::relu;
  bool derivative = false;  // y = x weight * f'; else y = f(x weight + bias)
  Tensor x;                 // [M, K]
  Tensor weight;            // [K, N], of x's type or f32
  Tensor bias = {};         // [N] or undefined
  Tensor y;                 // [M, N] of x's type, dense
  /// What f' is had from: written with f where defined, read with f'. gelu_tanh: [M, N] of x's
  /// type, dense, the sums before f; relu: [M, mask_bytes(N)] of u8, of the library's own order.
  Tensor saved = {};
  Tensor sums = {};  // [N] of x's type: becomes the sums of y's columns, with f'; undefined: none
};

/// Bytes of a row of relu's mask: the library wants rows of whole 128 bits.
constexpr int64_t mask_bytes(int64_t columns) {
  return (columns + 127) / 128 * 16;
}

/// Launchers: put the product on the stream, or give false, with nothing done, where it is not to
/// be had, or is had faster in parts. No product of the CPU has such an epilogue.
bool activation_product_cpu(const ActivationProduct& product, Stream stream);
bool activation_product_cuda(const ActivationProduct& product, Stream stream);

}  // namespace weft

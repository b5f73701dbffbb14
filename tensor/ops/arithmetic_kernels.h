#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#include "ops/operand.h"

namespace weft {

enum class BinaryOp : uint8_t { add, sub, mul, div, maximum, minimum, pow };

/// out = a op b. `out` decides the type computed in; floating operands may have other floating
/// types. `name` is for error texts.
void binary_cpu(BinaryOp op, const char* name, const Operand& a, const Operand& b, Tensor& out,
                Stream stream);
void binary_cuda(BinaryOp op, const char* name, const Operand& a, const Operand& b, Tensor& out,
                 Stream stream);

/// a += alpha * b.
void add_scaled_cpu(Tensor& a, const Tensor& b, double alpha, Stream stream);
void add_scaled_cuda(Tensor& a, const Tensor& b, double alpha, Stream stream);

}  // namespace weft

#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#include "ops/operand.h"

namespace weft {

enum class CompareOp : uint8_t { eq, ne, lt, le, gt, ge, logical_and, logical_or, logical_xor };
enum class ClassifyOp : uint8_t { isnan, isfinite };

/// out (bool) = a op b for operands of type `dtype`, bool for the logical ones. `name` is for error
/// texts.
void compare_cpu(CompareOp op, const char* name, DType dtype, const Operand& a, const Operand& b,
                 Tensor& out, Stream stream);
void compare_cuda(CompareOp op, const char* name, DType dtype, const Operand& a, const Operand& b,
                  Tensor& out, Stream stream);

/// out = condition ? a : b. All have the shape of `out`, a and b its type.
void where_cpu(const Tensor& condition, const Operand& a, const Operand& b, Tensor& out,
               Stream stream);
void where_cuda(const Tensor& condition, const Operand& a, const Operand& b, Tensor& out,
                Stream stream);

void classify_cpu(ClassifyOp op, const Tensor& x, Tensor& out, Stream stream);
void classify_cuda(ClassifyOp op, const Tensor& x, Tensor& out, Stream stream);

bool all_finite_cpu(const Tensor& x, Stream stream);
bool all_finite_cuda(const Tensor& x, Stream stream);

}  // namespace weft

#pragma once

// What elementwise ops of every device check and prepare before a kernel runs.
#include "weft/tensor/tensor.h"

namespace weft {

/// One of the two operands of an elementwise op: a tensor of the result's shape (stride 0 where it
/// is repeated), or a scalar where `tensor` is undefined.
struct Operand {
  Tensor tensor;
  double scalar = 0;
};

/// Two operands brought to one shape; at least one is a tensor.
struct OperandPair {
  Operand a;
  Operand b;
  Shape shape;
  DType dtype;
  Device device;
};

/// Broadcasts two operands. Throws, naming `op`, ShapeError where they do not fit or are undefined,
/// DTypeError and DeviceError where they differ.
OperandPair pair_operands(const char* op, const Tensor& a, const Tensor& b);
OperandPair pair_operands(const char* op, const Tensor& a, double b);
OperandPair pair_operands(const char* op, double a, const Tensor& b);

void check_defined(const char* op, const Tensor& tensor);
void check_floating(const char* op, const Tensor& tensor);
/// Any type but bool.
void check_numeric(const char* op, const Tensor& tensor);

/// Throws ShapeError when writing to `tensor` would write elements more than once.
void check_writable(const char* op, const Tensor& tensor);

/// `source`, or a copy of it if writing to `destination` element by element could change elements
/// of `source` that are still to be read. The same elements in the same layout do not need a copy.
Tensor apart_from(const Tensor& source, const Tensor& destination);

/// The scalar in C, the type in which elements of `dtype` are computed. Throws DTypeError, naming
/// `op`, when an integer C cannot hold it.
template <class C>
C scalar_as(const char* op, double value, DType dtype);

}  // namespace weft

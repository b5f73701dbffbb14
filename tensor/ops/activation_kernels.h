#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

enum class Activation { silu, gelu_exact, gelu_tanh };

// Operands of a call share shape and type; layouts are free.
void activation_forward_cpu(Activation activation, const Tensor& x, Tensor& y, Stream stream);
void activation_backward_cpu(Activation activation, const Tensor& dy, const Tensor& x, Tensor& dx,
                             Stream stream);
void swiglu_forward_cpu(const Tensor& gate, const Tensor& up, Tensor& y, Stream stream);
/// `y`, where defined, becomes swiglu(gate, up); it may be dy.
void swiglu_backward_cpu(const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                         Tensor& dup, Tensor& y, Stream stream);

void activation_forward_cuda(Activation activation, const Tensor& x, Tensor& y, Stream stream);
void activation_backward_cuda(Activation activation, const Tensor& dy, const Tensor& x, Tensor& dx,
                              Stream stream);
void swiglu_forward_cuda(const Tensor& gate, const Tensor& up, Tensor& y, Stream stream);
void swiglu_backward_cuda(const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                          Tensor& dup, Tensor& y, Stream stream);

}  // namespace weft

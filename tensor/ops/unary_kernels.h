#pragma once

#include "weft/tensor/ops/unary.h"
#include "weft/tensor/stream.h"

namespace weft {

/// The functions without a useful derivative.
enum class StepFunction : uint8_t { sign, floor, ceil, round };

/// out = function(x). `out` has the shape and type of x; so has everything below.
void unary_cpu(UnaryFunction function, const char* name, const Tensor& x, Tensor& out,
               Stream stream);
void unary_cuda(UnaryFunction function, const char* name, const Tensor& x, Tensor& out,
                Stream stream);
void step_cpu(StepFunction function, const char* name, const Tensor& x, Tensor& out, Stream stream);
void step_cuda(StepFunction function, const char* name, const Tensor& x, Tensor& out,
               Stream stream);
void clamp_cpu(const Tensor& x, double lowest, double highest, Tensor& out, Stream stream);
void clamp_cuda(const Tensor& x, double lowest, double highest, Tensor& out, Stream stream);

void unary_backward_cpu(UnaryFunction function, const Tensor& saved, const Tensor& grad_output,
                        Tensor& grad, Stream stream);
void unary_backward_cuda(UnaryFunction function, const Tensor& saved, const Tensor& grad_output,
                         Tensor& grad, Stream stream);
void clamp_backward_cpu(const Tensor& x, double lowest, double highest, const Tensor& grad_output,
                        Tensor& grad, Stream stream);
void clamp_backward_cuda(const Tensor& x, double lowest, double highest, const Tensor& grad_output,
                         Tensor& grad, Stream stream);

}  // namespace weft

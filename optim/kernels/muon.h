#pragma once

#include <span>

#include "weft/optim/step_inputs.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::optim {

/// The numbers of a step of Muon, as the kernels read them.
struct MuonNumbers {
  double decay;      // 1 - lr * weight_decay
  double step_size;  // lr * scale

  StepNumbers row() const { return {decay, step_size}; }
};

/// One matrix of a Muon step. All tensors are dense and of one shape; those but `copy` are of f32
/// or f64, the same type and device for all items of a call.
struct MuonItem {
  Tensor parameter;
  Tensor grad;
  Tensor momentum_buffer;
  Tensor copy;      // CUDA and f32 only: of bf16 or f16, gets the new parameter; may be undefined
  int64_t row = 0;  // of MuonNumbers in StepInputs::numbers
};

struct MuonParams {
  std::span<MuonItem> items;
  double momentum;
  bool nesterov;
  StepInputs inputs;
};

/// Calls body.operator()<T>() with the type of the parameters.
template <class Body>
void dispatch_parameter(const MuonParams& params, Body&& body) {
  if (params.items.front().parameter.dtype() == DType::f64) {
    body.template operator()<double>();
  } else {
    body.template operator()<float>();
  }
}

/// Calls body.operator()<D>() with the type of the stacked matrices.
template <class Body>
void dispatch_stacked(const Tensor& stacked, Body&& body) {
  switch (stacked.dtype()) {
    case DType::f64:
      return body.template operator()<double>();
    case DType::f32:
      return body.template operator()<float>();
    default:
      return body.template operator()<bf16>();
  }
}

/// g = grad_scale * grad; b = momentum b + g. Writes the sum of squares of each item's direction
/// (nesterov: g + momentum b; else b) to `square_sums`, f64 [items].
void muon_momentum_cpu(const MuonParams& params, Tensor& square_sums, Stream stream);
void muon_momentum_cuda(const MuonParams& params, Tensor& square_sums, Stream stream);

/// Writes the directions over (their Frobenius norm + 1e-7) to `stacked`, [items, rows, columns] of
/// f64, f32 or bf16. All items have one shape.
void muon_direction_cpu(const MuonParams& params, const Tensor& square_sums, Tensor& stacked,
                        Stream stream);
void muon_direction_cuda(const MuonParams& params, const Tensor& square_sums, Tensor& stacked,
                         Stream stream);

/// p = decay p - step_size x, with x the item's matrix in `stacked`.
void muon_apply_cpu(const MuonParams& params, const Tensor& stacked, Stream stream);
void muon_apply_cuda(const MuonParams& params, const Tensor& stacked, Stream stream);

}  // namespace weft::optim

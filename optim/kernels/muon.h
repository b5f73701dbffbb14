#pragma once

#include <span>

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::optim {

/// One matrix of a Muon step. All tensors are dense, of one shape, f32 or f64; the type and device
/// are the same for all items of a call.
struct MuonItem {
  Tensor parameter;
  Tensor grad;
  Tensor momentum_buffer;
  double decay;      // 1 - lr * weight_decay
  double step_size;  // lr * scale
};

struct MuonParams {
  std::span<MuonItem> items;
  double momentum;
  bool nesterov;
  double grad_scale;
};

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

#pragma once

#include <cstdint>

#include "weft/tensor/tensor.h"

namespace weft {

// Cross entropy of class scores (logits) [N, V] with targets [N] of i64 or i32:
//   loss_n = logsumexp_v(x_nv) - sum_v q_nv x_nv,
// where q is 1 at the target, or with label smoothing s (Szegedy et al., "Rethinking the Inception
// Architecture", 2016, section 7) 1 - s there and s / V more everywhere. Rows whose target is
// ignore_index do not count: their loss and gradients are 0. The mean is over the counted rows;
// over none it is 0 and so are all gradients. Losses are f32 (f64 for f64), computed in that type.
// All throw ShapeError, DTypeError, DeviceError, ConfigError (label_smoothing outside [0, 1]), and
// IndexError on a target that is neither ignore_index nor in [0, V). On a GPU none of them waits:
// such a row does not count, and the next wait of the host throws.

inline constexpr int64_t kIgnoreIndex = -100;

/// Mean loss, rank 0. logits: [N, V] of a floating type.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets,
                     int64_t ignore_index = kIgnoreIndex, double label_smoothing = 0);

/// The loss of each row, [N].
Tensor cross_entropy_per_token(const Tensor& logits, const Tensor& targets,
                               int64_t ignore_index = kIgnoreIndex, double label_smoothing = 0);

/// What cross_entropy_forward() gives.
struct CrossEntropyResult {
  Tensor losses;     ///< [N]
  Tensor logsumexp;  ///< [N], of the logits' rows
  Tensor share;      ///< of a row in the mean: 1 / rows that count (1 where none does), rank 0
};

CrossEntropyResult cross_entropy_forward(const Tensor& logits, const Tensor& targets,
                                         int64_t ignore_index = kIgnoreIndex,
                                         double label_smoothing = 0);

/// The gradient of the logits, [N, V] of their type, given dlosses [N] = the gradients of the
/// losses (for the mean: the share, expanded).
Tensor cross_entropy_backward(const Tensor& dlosses, const Tensor& logits, const Tensor& targets,
                              const Tensor& logsumexp, int64_t ignore_index = kIgnoreIndex,
                              double label_smoothing = 0);

/// scale * sum(losses), rank 0; scale is of rank 0 and the losses' type.
Tensor total_loss(const Tensor& losses, const Tensor& scale);

// The same of logits = hidden weight^T, without ever holding the logits of all rows: chunks of rows
// go through product, loss and gradients while they are in cache. hidden: [N, E]; weight: [V, E] of
// hidden's type or f32; products take hidden's type and sum in f32 (f64 for f64). The logits are of
// that type on the CPU; on a GPU they are rounded to hidden's type.

/// Mean loss, rank 0.
Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                            int64_t ignore_index = kIgnoreIndex, double label_smoothing = 0);

/// The loss of each row, [N].
Tensor linear_cross_entropy_per_token(const Tensor& hidden, const Tensor& weight,
                                      const Tensor& targets, int64_t ignore_index = kIgnoreIndex,
                                      double label_smoothing = 0);

/// What linear_cross_entropy_forward() does beside the loss.
struct LinearCrossEntropyOptions {
  int64_t ignore_index = kIgnoreIndex;
  double label_smoothing = 0;
  bool want_dhidden = false;
  bool want_dweight = false;
  int64_t chunk_rows = 0;  ///< rows of logits held at a time; 0 chooses by their size
  /// The loss is scale times the sum of the losses, instead of their mean: rank 0, f32 (or f64 for
  /// f64), on the device. Nothing is counted then.
  Tensor scale = {};
};

/// What linear_cross_entropy_forward() gives.
struct LinearCrossEntropyResult {
  Tensor loss;     ///< the mean, or the scaled sum: rank 0
  Tensor losses;   ///< [N]
  Tensor dhidden;  ///< gradient of `loss`, of hidden's type; undefined when not asked for
  Tensor dweight;  ///< likewise, f32 (f64 for f64)
};

LinearCrossEntropyResult linear_cross_entropy_forward(
    const Tensor& hidden, const Tensor& weight, const Tensor& targets,
    const LinearCrossEntropyOptions& options = {});

}  // namespace weft

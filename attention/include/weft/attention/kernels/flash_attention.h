#pragma once

#include <cstdint>
#include <optional>

#include "weft/tensor/tensor.h"

namespace weft::attention {

/// Which keys a query sees, and how scores are scaled. Query row t stands at absolute position
/// p = position + t and sees key s when (not causal or s <= p) and (no window or s > p - window).
///
/// A key may also stand for several tokens, as compressed keys do: key s for the key_length tokens
/// from s * key_stride on. Under a causal mask it is seen once its last token is, i.e. when
/// s * key_stride + key_length - 1 <= p (arXiv 2502.11089, equation 7).
struct FlashAttentionOptions {
  bool causal = true;
  int64_t window = 0;             ///< keys seen, the query's own included; 0 means all
  std::optional<double> scale{};  ///< of the scores, above 0; 1 / sqrt(D) unless set
  /// Absolute position of the first query. Unless set S - T, which aligns the last query with the
  /// last key, as with a cache. Must be set, and at least 0, where keys stand for several tokens.
  std::optional<int64_t> position{};
  int64_t key_length = 1;
  int64_t key_stride = 1;
};

struct FlashAttentionOutput {
  Tensor o;    ///< [B, T, H, Dv], of q's type
  Tensor lse;  ///< [B, H, T], log of the row's sum of exp(scale * <q, k>): f64 for f64, else f32
};

struct FlashAttentionGradients {
  Tensor dq, dk, dv;  ///< of the shapes and type of q, k, v
};

/// Softmax attention of q [B, T, H, D] over keys k [B, S, Hk, D] and values v [B, S, Hk, Dv], with
/// query head h reading key head h / (H / Hk): H = Hk is multi-head, Hk = 1 multi-query attention.
/// f64, f32, bf16 or f16, all of one type; half types are summed in f32. Any strides (the last axis
/// is copied when it is not dense). Memory beyond the result does not grow with T * S. A row that
/// sees no key gives o = 0 and lse = +inf. The same inputs give the same bits for any number of
/// threads. Throws ShapeError, DTypeError, DeviceError, ConfigError.
/// Source: Dao, "FlashAttention-2" (arXiv 2307.08691), algorithm 1.
FlashAttentionOutput flash_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                             const FlashAttentionOptions& options = {});

/// Gradients of flash_attention_forward from dout [B, T, H, Dv], its inputs, its two results and
/// the same options. Deterministic, but for cuDNN unless is_deterministic(); groups sum over heads.
/// Source: arXiv 2307.08691, algorithm 2.
FlashAttentionGradients flash_attention_backward(const Tensor& dout, const Tensor& q,
                                                 const Tensor& k, const Tensor& v, const Tensor& o,
                                                 const Tensor& lse,
                                                 const FlashAttentionOptions& options = {});

/// The same into existing tensors, which may be views of a larger one (their last axis dense) and
/// must not overlap the inputs.
void flash_attention_backward_into(FlashAttentionGradients& grads, const Tensor& dout,
                                   const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& o, const Tensor& lse,
                                   const FlashAttentionOptions& options = {});

}  // namespace weft::attention

#include "kernels/attention_arguments.h"

#include <cmath>

#include "weft/tensor/check.h"

namespace weft::attention {

bool has_dense_rows(const Tensor& x) {
  return x.size(-1) <= 1 || x.stride(-1) == 1;
}

/// x with a dense last axis. What is no tensor of four axes is left to the checks.
Tensor with_dense_rows(const Tensor& x) {
  return !x.defined() || x.rank() != 4 || has_dense_rows(x) ? x : x.contiguous();
}

HeadsView view_of(const Tensor& x) {
  return {x.raw_data(), x.stride(0), x.stride(1), x.stride(2)};
}

DType statistics_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

void check_like(const char* op, const char* name, const Tensor& x, const Shape& shape, DType dtype,
                Device device) {
  WEFT_CHECK(x.defined() && x.shape() == shape, ShapeError, "{}: {} must be {}, got {}", op, name,
             shape, x);
  WEFT_CHECK(x.dtype() == dtype, DTypeError, "{}: {} must be {}, got {}", op, name, dtype, x);
  WEFT_CHECK(x.device() == device, DeviceError, "{}: {} must be on {}, got {}", op, name, device,
             x);
}

/// Checks the arguments and fills everything but o and lse.
FlashAttentionParams make_params(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                                 const FlashAttentionOptions& options) {
  WEFT_CHECK(q.defined() && q.rank() == 4, ShapeError, "{}: q must be [B, T, H, D], got {}", op, q);
  WEFT_CHECK(k.defined() && k.rank() == 4, ShapeError, "{}: k must be [B, S, Hk, D], got {}", op,
             k);
  WEFT_CHECK(v.defined() && v.rank() == 4, ShapeError, "{}: v must be [B, S, Hk, Dv], got {}", op,
             v);
  WEFT_CHECK(is_floating(q.dtype()), DTypeError, "{}: takes f64, f32, bf16 or f16, got q {}", op,
             q);
  WEFT_CHECK(k.dtype() == q.dtype() && v.dtype() == q.dtype(), DTypeError,
             "{}: q, k and v must have one type, got q {}, k {}, v {}", op, q, k, v);
  WEFT_CHECK(k.device() == q.device() && v.device() == q.device(), DeviceError,
             "{}: q, k and v must be on one device, got q {}, k {}, v {}", op, q, k, v);
  WEFT_CHECK(k.size(0) == q.size(0) && v.size(0) == q.size(0), ShapeError,
             "{}: batch sizes differ: q {}, k {}, v {}", op, q, k, v);
  WEFT_CHECK(k.size(3) == q.size(3) && q.size(3) >= 1, ShapeError,
             "{}: q and k must have one head dim of at least 1: q {}, k {}", op, q, k);
  WEFT_CHECK(v.size(1) == k.size(1) && v.size(2) == k.size(2), ShapeError,
             "{}: k and v must have the same length and heads: k {}, v {}", op, k, v);
  WEFT_CHECK(v.size(3) >= 1, ShapeError, "{}: v must have a head dim of at least 1, got {}", op, v);
  WEFT_CHECK(k.size(2) >= 1 && q.size(2) >= 1 && q.size(2) % k.size(2) == 0, ShapeError,
             "{}: the {} query heads must be a multiple of the {} key heads: q {}, k {}", op,
             q.size(2), k.size(2), q, k);
  WEFT_CHECK(options.window >= 0, ConfigError, "{}: window must be 0 (none) or above, got {}", op,
             options.window);
  WEFT_CHECK(options.key_length >= 1 && options.key_stride >= 1, ConfigError,
             "{}: key_length and key_stride must be at least 1, got {} and {}", op,
             options.key_length, options.key_stride);
  const bool compressed = options.key_length > 1 || options.key_stride > 1;
  WEFT_CHECK(!compressed || (options.position.has_value() && options.window == 0), ConfigError,
             "{}: keys of {} tokens, {} apart, need a position and no window (window {})", op,
             options.key_length, options.key_stride, options.window);
  WEFT_CHECK(options.position.value_or(0) >= 0, ConfigError,
             "{}: position must be at least 0, got {}", op, *options.position);
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
  WEFT_CHECK(std::isfinite(scale) && scale > 0, ConfigError,
             "{}: scale must be finite and above 0, got {}", op, scale);

  FlashAttentionParams params;
  params.dtype = q.dtype();
  params.batch = q.size(0);
  params.queries = q.size(1);
  params.keys = k.size(1);
  params.heads = q.size(2);
  params.kv_heads = k.size(2);
  params.dim = q.size(3);
  params.value_dim = v.size(3);
  params.causal = options.causal;
  params.window = options.window;
  params.position = options.position.value_or(params.keys - params.queries);
  params.key_length = options.key_length;
  params.key_stride = options.key_stride;
  params.scale = scale;
  params.q = view_of(q);
  params.k = view_of(k);
  params.v = view_of(v);
  return params;
}

FlashAttentionOutput make_output(FlashAttentionParams& params, Device device) {
  FlashAttentionOutput out{
      empty({params.batch, params.queries, params.heads, params.value_dim}, params.dtype, device),
      empty({params.batch, params.heads, params.queries}, statistics_type(params.dtype), device)};
  params.o = view_of(out.o);
  params.lse = out.lse.raw_data();
  return out;
}

void check_latent_parts(const char* op, const Tensor& q_latent, const Tensor& q_rope,
                        const Tensor& latents, const Tensor& rope_keys,
                        const std::optional<double>& scale) {
  for (const auto& [name, x] : {std::pair<const char*, const Tensor&>{"q_latent", q_latent},
                                {"q_rope", q_rope},
                                {"latents", latents},
                                {"rope_keys", rope_keys}}) {
    WEFT_CHECK(x.defined() && x.rank() == 4, ShapeError, "{}: {} must have four axes, got {}", op,
               name, x);
    WEFT_CHECK(x.dtype() == q_latent.dtype(), DTypeError,
               "{}: all parts must have one type, got q_latent {} and {} {}", op, q_latent, name,
               x);
    WEFT_CHECK(x.device() == q_latent.device(), DeviceError,
               "{}: all parts must be on one device, got q_latent {} and {} {}", op, q_latent, name,
               x);
  }
  const Shape &q = q_latent.shape(), &c = latents.shape();
  WEFT_CHECK(q_rope.shape() == Shape({q[0], q[1], q[2], q_rope.size(3)}), ShapeError,
             "{}: q_rope must be [{}, {}, {}, Dr] as q_latent is, got {}", op, q[0], q[1], q[2],
             q_rope);
  WEFT_CHECK(rope_keys.shape() == Shape({c[0], c[1], 1, q_rope.size(3)}), ShapeError,
             "{}: rope_keys must be [{}, {}, 1, {}], got {}", op, c[0], c[1], q_rope.size(3),
             rope_keys);
  WEFT_CHECK(scale.has_value(), ConfigError,
             "{}: scale must be set: scores are scaled by the width of the expanded heads", op);
}

BackwardArguments complete_backward(const char* op, FlashAttentionBackwardParams& params,
                                    FlashAttentionGradients& grads, const Tensor& dout,
                                    const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& o, const Tensor& lse) {
  const Shape out_shape{params.batch, params.queries, params.heads, params.value_dim};
  const DType sum_type = statistics_type(q.dtype());
  check_like(op, "dout", dout, out_shape, q.dtype(), q.device());
  check_like(op, "o", o, out_shape, q.dtype(), q.device());
  check_like(op, "lse", lse, {params.batch, params.heads, params.queries}, sum_type, q.device());
  check_like(op, "dq", grads.dq, q.shape(), q.dtype(), q.device());
  check_like(op, "dk", grads.dk, k.shape(), q.dtype(), q.device());
  check_like(op, "dv", grads.dv, v.shape(), q.dtype(), q.device());
  for (const Tensor* grad : {&grads.dq, &grads.dk, &grads.dv}) {
    WEFT_CHECK(has_dense_rows(*grad), ShapeError,
               "{}: the last axis of dq, dk and dv must be dense, got {} with stride {}", op, *grad,
               grad->stride(-1));
  }
  BackwardArguments kept{with_dense_rows(dout), with_dense_rows(o), lse.contiguous(),
                         sum_type == q.dtype() || !q.device().is_cpu()
                             ? grads.dq
                             : empty(q.shape(), sum_type, q.device())};
  params.dout = view_of(kept.dout);
  params.o = view_of(kept.o);
  params.lse = kept.lse.raw_data();
  params.dq = view_of(grads.dq);
  params.dk = view_of(grads.dk);
  params.dv = view_of(grads.dv);
  params.dq_sum = view_of(kept.dq_sum);
  return kept;
}

}  // namespace weft::attention

#include "weft/attention/kernels/latent_attention.h"

#include "weft/tensor/check.h"
#include "weft/tensor/ops/join.h"

namespace weft::attention {
namespace {

void check_parts(const char* op, const Tensor& q_latent, const Tensor& q_rope,
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

Tensor joined(const Tensor& first, const Tensor& second) {
  if (second.size(3) == 0) return first;
  const Shape& s = first.shape();
  return cat({first, second.expand({s[0], s[1], s[2], second.size(3)})}, 3);
}

}  // namespace

FlashAttentionOutput latent_attention_forward(const Tensor& q_latent, const Tensor& q_rope,
                                              const Tensor& latents, const Tensor& rope_keys,
                                              const FlashAttentionOptions& options) {
  check_parts("latent_attention", q_latent, q_rope, latents, rope_keys, options.scale);
  return flash_attention_forward(joined(q_latent, q_rope), joined(latents, rope_keys), latents,
                                 options);
}

FlashAttentionOutput selected_latent_attention_forward(const Tensor& q_latent, const Tensor& q_rope,
                                                       const Tensor& latents,
                                                       const Tensor& rope_keys,
                                                       const Selection& selection,
                                                       const SelectedAttentionOptions& options) {
  check_parts("selected_latent_attention", q_latent, q_rope, latents, rope_keys, options.scale);
  return selected_attention_forward(joined(q_latent, q_rope), joined(latents, rope_keys), latents,
                                    selection, options);
}

}  // namespace weft::attention

#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "weft/attention/latent_mixer.h"
#include "weft/attention/mechanism.h"

namespace weft::attention {

/// Causal attention over latent vectors (multi-head latent attention: DeepSeek-V2, arXiv
/// 2405.04434; with several groups: grouped latent attention, Zadouri et al., arXiv 2505.21487),
/// over all earlier tokens or a window of the last: o = softmax(q k^T / sqrt(Dn+Dr)) v, y = o Wo.
/// Keys, values, parameters: LatentMixer. The cache holds latents and turned rotary keys alone,
/// which decoding reads as keys and values of all heads (section 2.1.2 of the first).
class LatentAttention final : public LatentMixer {
 public:
  /// Throws ConfigError with value and rule.
  LatentAttention(const LatentOptions& options, Generator& generator);

  Variable forward(const Variable& x, const nn::MixerContext& context) override;
  std::unique_ptr<nn::MixerCache> make_cache(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override;
  Variable prefill(const Variable& x, nn::MixerCache& cache) override;

  nn::MixerCost forward_cost(int64_t tokens) const override;
  nn::MixerCost step_cost(int64_t context) const override;
  int64_t cache_bytes(int64_t capacity, DType dtype) const override;
  std::string describe() const override;

 private:
  Variable attend(bool absorbed, const Variable& q, const Variable& latents,
                  const Variable& rope_keys, const FlashAttentionOptions& visible) const;
};

/// Their lines in the registry.
MechanismInfo mla_mechanism();
MechanismInfo gla_mechanism();
MechanismInfo asa_local_mechanism();

}  // namespace weft::attention

#include "weft/attention/latent_attention.h"

#include "latent_options.h"

namespace weft::attention {

MechanismInfo mla_mechanism() {
  std::vector<OptionInfo> options = latent_options();
  options.push_back(form_option());
  return {
      .name = "mla",
      .summary = "multi-head latent attention: the cache holds one latent vector per token",
      .paper =
          "DeepSeek-AI, DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts "
          "Language Model, 2024 (arXiv 2405.04434)",
      .options = std::move(options),
      .costs = latent_costs("T*(T+1)/2", "(S+1)"),
      .cost_symbols = latent_cost_symbols(),
      .make = [](const MixerShape& shape, const OptionValues& values, int /*layer*/,
                 Generator& generator) -> std::unique_ptr<nn::SequenceMixer> {
        LatentOptions latent = latent_options_from(shape, values);
        latent.form = parse_form(values.text("form"));
        return std::make_unique<LatentAttention>(latent, generator);
      },
  };
}

}  // namespace weft::attention

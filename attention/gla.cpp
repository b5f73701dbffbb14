#include "weft/attention/latent_attention.h"

#include "latent_options.h"

namespace weft::attention {

MechanismInfo gla_mechanism() {
  std::vector<OptionInfo> options = latent_options();
  options.push_back(groups_option());
  options.push_back(form_option());
  return {
      .name = "gla",
      .summary = "grouped latent attention: one latent vector per token and group of heads",
      .paper =
          "Zadouri, Strauss, Dao, Hardware-Efficient Attention for Fast Decoding, 2025 (arXiv "
          "2505.21487)",
      .options = std::move(options),
      .costs = latent_costs("T*(T+1)/2", "(S+1)"),
      .cost_symbols = latent_cost_symbols(),
      .make = [](const MixerShape& shape, const OptionValues& values, int /*layer*/,
                 Generator& generator) -> std::unique_ptr<nn::SequenceMixer> {
        LatentOptions latent = latent_options_from(shape, values);
        latent.groups = values.integer("groups");
        latent.form = parse_form(values.text("form"));
        return std::make_unique<LatentAttention>(latent, generator);
      },
  };
}

}  // namespace weft::attention

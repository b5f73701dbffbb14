#include "weft/attention/latent_attention.h"

#include "latent_options.h"

namespace weft::attention {

MechanismInfo asa_local_mechanism() {
  std::vector<OptionInfo> options = latent_options();
  options.insert(options.begin(), {.name = "window",
                                   .kind = OptionKind::integer,
                                   .default_value = "512",
                                   .help = "tokens that a token sees, itself included",
                                   .min = 1,
                                   .max = 1 << 30});
  options.push_back(form_option());
  return {
      .name = "asa-local",
      .summary = "local layer of alternating sparse attention: latent attention over a window",
      .paper = kAsaPaper,
      .options = std::move(options),
      .make = [](const MixerShape& shape, const OptionValues& values, int /*layer*/,
                 Generator& generator) -> std::unique_ptr<nn::SequenceMixer> {
        LatentOptions latent = latent_options_from(shape, values);
        latent.window = values.integer("window");
        latent.form = parse_form(values.text("form"));
        return std::make_unique<LatentAttention>(latent, generator);
      },
      .letter = 'L',
  };
}

}  // namespace weft::attention

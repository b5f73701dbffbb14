#pragma once

#include <string>
#include <vector>

#include "weft/attention/latent_mixer.h"
#include "weft/attention/mechanism.h"

namespace weft::attention {

/// Options that all mechanisms over latent vectors have.
std::vector<OptionInfo> latent_options();
/// What those and the model's shape say.
LatentOptions latent_options_from(const MixerShape& shape, const OptionValues& options);

/// Costs of attention to latents: `pairs` of queries and keys in a sequence, and `keys` that a
/// decoded token sees, as formulas.
std::vector<CostFormula> latent_costs(const std::string& pairs, const std::string& keys);
/// Products of a token with weights, a half of their operations.
inline constexpr const char* kLatentProducts = "Q+E*(G*Dc+Dr)+Dc*H*(Dn+Dv)+E*H*Dv";
/// The letters of those.
std::vector<CostSymbol> latent_cost_symbols();

OptionInfo groups_option();
OptionInfo form_option();
LatentForm parse_form(const std::string& text);

}  // namespace weft::attention

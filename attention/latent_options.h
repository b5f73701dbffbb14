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

OptionInfo groups_option();
OptionInfo form_option();
LatentForm parse_form(const std::string& text);

}  // namespace weft::attention

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "weft/attention/mechanism.h"

namespace weft::attention {

/// All mechanisms, in the order in which they are listed to users.
const std::vector<MechanismInfo>& mechanisms();

/// Throws ConfigError with the known names and the nearest one.
const MechanismInfo& find_mechanism(std::string_view name);

/// The mechanism of each of `n_layers` layers: "full" (all layers), "full,nsa*3" (names with
/// counts) or letters such as "LG". A pattern shorter than the model repeats; n_layers must then be
/// a multiple of its length. Throws ConfigError.
std::vector<std::string> parse_schedule(std::string_view schedule, int64_t n_layers);

/// The attention layers of a model.
struct AttentionConfig {
  MixerShape shape;
  std::string schedule = "full";  ///< a mechanism's name or a pattern, see parse_schedule()
  /// "key=value" for every mechanism of the schedule that has such an option, or
  /// "mechanism.key=value" for one.
  std::vector<std::string> options{};
};

/// Checks the config and returns what DecoderLM needs. Weights are drawn from `generator`, which
/// must live as long as the factory is used. Throws ConfigError: unknown names come with the known
/// ones and the nearest.
nn::MixerFactory make_mixer_factory(const AttentionConfig& config, Generator& generator);

}  // namespace weft::attention

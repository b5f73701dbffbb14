#include "weft/attention/registry.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>

#include "weft/attention/asa_global.h"
#include "weft/attention/full.h"
#include "weft/attention/latent_attention.h"
#include "weft/attention/nsa.h"
#include "weft/tensor/check.h"

#include "nearest_name.h"

namespace weft::attention {
namespace {

std::vector<std::string> all_names() {
  std::vector<std::string> names;
  for (const MechanismInfo& mechanism : mechanisms()) names.push_back(mechanism.name);
  return names;
}

const MechanismInfo* find_letter(char letter) {
  for (const MechanismInfo& mechanism : mechanisms()) {
    if (mechanism.letter != 0 && mechanism.letter == letter) return &mechanism;
  }
  return nullptr;
}

bool is_letters(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

/// "full*3" -> full, 3.
std::pair<std::string_view, int64_t> parse_entry(std::string_view schedule,
                                                 std::string_view entry) {
  const size_t star = entry.find('*');
  const std::string_view name = trim(entry.substr(0, star));
  if (star == std::string_view::npos) return {name, 1};
  const std::string_view digits = trim(entry.substr(star + 1));
  int64_t count = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), count);
  WEFT_CHECK(
      error == std::errc() && end == digits.data() + digits.size() && count >= 1 && count <= 100000,
      ConfigError,
      "attention schedule \"{}\": the count after * must be an integer of at least 1, got "
      "\"{}\"",
      schedule, digits);
  return {name, count};
}

std::vector<std::string> parse_pattern(std::string_view schedule);

/// The mechanisms that a name stands for, one for each layer of its schedule.
std::vector<std::string> layers_of(const MechanismInfo& mechanism) {
  if (mechanism.schedule.empty()) return {mechanism.name};
  return parse_pattern(mechanism.schedule);
}

std::vector<std::string> parse_pattern(std::string_view schedule) {
  std::vector<std::string> pattern;
  if (is_letters(schedule)) {
    for (const char letter : schedule) {
      const MechanismInfo* const mechanism = find_letter(letter);
      std::string letters;
      for (const MechanismInfo& known : mechanisms()) {
        if (known.letter != 0) letters += fmt::format(" {} ({})", known.letter, known.name);
      }
      WEFT_CHECK(mechanism != nullptr, ConfigError,
                 "attention schedule \"{}\": unknown letter {}; known:{}", schedule, letter,
                 letters);
      pattern.push_back(mechanism->name);
    }
    return pattern;
  }
  for (std::string_view rest = schedule;;) {
    const size_t comma = rest.find(',');
    const auto [name, count] = parse_entry(schedule, rest.substr(0, comma));
    WEFT_CHECK(!name.empty(), ConfigError,
               "attention schedule \"{}\": empty name; write it as in \"full*2\" or \"full,swa*3\"",
               schedule);
    const std::vector<std::string> meant = layers_of(find_mechanism(name));
    for (int64_t i = 0; i < count; ++i) pattern.insert(pattern.end(), meant.begin(), meant.end());
    if (comma == std::string_view::npos) return pattern;
    rest.remove_prefix(comma + 1);
  }
}

using ValuesByMechanism = std::map<std::string, OptionValues, std::less<>>;

void apply_option(std::string_view option, ValuesByMechanism& values) {
  const size_t equals = option.find('=');
  WEFT_CHECK(equals != std::string_view::npos && equals > 0, ConfigError,
             "attention option \"{}\": must be key=value or mechanism.key=value", option);
  std::string_view key = trim(option.substr(0, equals));
  const std::string_view value = trim(option.substr(equals + 1));
  if (const size_t dot = key.find('.'); dot != std::string_view::npos) {
    const std::string_view owner = key.substr(0, dot);
    const MechanismInfo& mechanism = find_mechanism(owner);
    const std::string_view name = key.substr(dot + 1);
    bool used = false;
    for (const std::string& layer : layers_of(mechanism)) {
      const auto found = values.find(layer);
      if (found == values.end()) continue;
      used = true;
      if (mechanism.schedule.empty() || found->second.knows(name)) found->second.set(name, value);
    }
    WEFT_CHECK(used, ConfigError, "attention option \"{}\": no layer of this model uses {}", option,
               owner);
    // Of a name that stands for several some may lack the option, but not all.
    OptionValues(mechanism.name, mechanism.options).set(name, value);
    return;
  }
  bool known = false;
  std::vector<std::string> names;
  for (auto& [mechanism, options] : values) {
    if (options.knows(key)) {
      options.set(key, value);
      known = true;
    }
    for (const OptionInfo& info : find_mechanism(mechanism).options) {
      if (std::find(names.begin(), names.end(), info.name) == names.end())
        names.push_back(info.name);
    }
  }
  if (known) return;
  std::vector<std::string> used;
  for (const auto& [mechanism, options] : values) used.push_back(mechanism);
  throw_error<ConfigError>("attention {}: unknown option \"{}\"; {}", fmt::join(used, ", "), key,
                           name_hint(key, names));
}

}  // namespace

const std::vector<MechanismInfo>& mechanisms() {
  static const std::vector<MechanismInfo> list = {
      full_mechanism(), swa_mechanism(), mla_mechanism(),       gla_mechanism(),
      nsa_mechanism(),  asa_mechanism(), asa_local_mechanism(), asa_global_mechanism(),
  };
  return list;
}

const MechanismInfo& find_mechanism(std::string_view name) {
  for (const MechanismInfo& mechanism : mechanisms()) {
    if (mechanism.name == name) return mechanism;
  }
  throw_error<ConfigError>("attention: unknown mechanism \"{}\"; {}", name,
                           name_hint(name, all_names()));
}

std::vector<std::string> parse_schedule(std::string_view schedule, int64_t n_layers) {
  WEFT_CHECK(n_layers >= 1, ConfigError, "attention schedule: needs at least 1 layer, got {}",
             n_layers);
  const std::vector<std::string> pattern = parse_pattern(trim(schedule));
  const auto length = static_cast<int64_t>(pattern.size());
  WEFT_CHECK(
      n_layers % length == 0, ConfigError,
      "attention schedule \"{}\": it has {} layers and the model {}; the model's layers must "
      "be a multiple of the schedule's",
      schedule, length, n_layers);
  std::vector<std::string> layers;
  for (int64_t layer = 0; layer < n_layers; ++layer) layers.push_back(pattern[layer % length]);
  return layers;
}

nn::MixerFactory make_mixer_factory(const AttentionConfig& config, Generator& generator) {
  const std::vector<std::string> layers = parse_schedule(config.schedule, config.shape.n_layers);
  auto values = std::make_shared<ValuesByMechanism>();
  for (const std::string& name : layers)
    values->try_emplace(name, name, find_mechanism(name).options);
  for (const std::string& option : config.options) apply_option(option, *values);
  return [shape = config.shape, layers, values, &generator](int layer) {
    WEFT_CHECK(layer >= 0 && layer < static_cast<int>(layers.size()), ConfigError,
               "attention: layer {} is outside the schedule of {} layers", layer, layers.size());
    const std::string& name = layers[static_cast<size_t>(layer)];
    return find_mechanism(name).make(shape, values->find(name)->second, layer, generator);
  };
}

}  // namespace weft::attention

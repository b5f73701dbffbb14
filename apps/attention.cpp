#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "weft/attention/registry.h"
#include "weft/io/atomic_file.h"

#include "commands.h"
#include "common/attention_mask.h"
#include "common/cache_table.h"
#include "common/exit_code.h"
#include "common/options.h"
#include "common/rows.h"

namespace weft::apps {
namespace {

using Json = nlohmann::ordered_json;

/// The costs of one layer for one sequence of `tokens` tokens.
struct Cost {
  int64_t tokens = 0;
  double projection_flops = 0;  // a token of the forward pass
  double core_flops = 0;        // the same, of the attention itself
  double step_flops = 0;        // decoding one token after `tokens`
  int64_t cache_bytes = 0;      // of bf16
};

/// What a layer of the default shape and options costs at three lengths; of a name for several
/// layers the mean.
std::vector<Cost> example_costs(const attention::MechanismInfo& mechanism,
                                const attention::MixerShape& shape) {
  Generator generator(1);
  const attention::OptionValues defaults(mechanism.name, mechanism.options);
  const size_t layers = std::max<size_t>(1, mechanism.schedule.size());
  std::vector<std::unique_ptr<nn::SequenceMixer>> mixers;
  for (size_t layer = 0; layer < layers; ++layer)
    mixers.push_back(mechanism.make(shape, defaults, static_cast<int>(layer), generator));
  std::vector<Cost> costs;
  for (const int64_t tokens : {int64_t{1} << 10, int64_t{8} << 10, int64_t{64} << 10}) {
    Cost mean{.tokens = tokens};
    for (const auto& mixer : mixers) {
      const double share = 1.0 / static_cast<double>(layers);
      const nn::MixerCost forward = mixer->forward_cost(tokens);
      mean.projection_flops += share * forward.projection_flops / static_cast<double>(tokens);
      mean.core_flops += share * forward.core_flops / static_cast<double>(tokens);
      mean.step_flops += share * mixer->step_cost(tokens).total();
      mean.cache_bytes += mixer->cache_bytes(tokens, DType::bf16);
    }
    mean.cache_bytes /= static_cast<int64_t>(layers);
    costs.push_back(mean);
  }
  return costs;
}

std::vector<attention::CostSymbol> cost_symbols(const attention::MechanismInfo& mechanism) {
  std::vector<attention::CostSymbol> symbols(attention::kCostSymbols.begin(),
                                             attention::kCostSymbols.end());
  symbols.insert(symbols.end(), mechanism.cost_symbols.begin(), mechanism.cost_symbols.end());
  return symbols;
}

Json to_json(const attention::OptionInfo& option) {
  Json result = {{"name", option.name}, {"default", option.default_value}, {"help", option.help}};
  result["allowed"] = attention::allowed_values(option);
  if (std::isfinite(option.min)) result["min"] = option.min;
  if (std::isfinite(option.max)) result["max"] = option.max;
  if (!option.choices.empty()) result["choices"] = option.choices;
  return result;
}

Json to_json(const attention::MechanismInfo& mechanism) {
  Json options = Json::array();
  for (const attention::OptionInfo& option : mechanism.options) options.push_back(to_json(option));
  return {{"name", mechanism.name},
          {"summary", mechanism.summary},
          {"paper", mechanism.paper},
          {"options", options}};
}

Json details_as_json(const attention::MechanismInfo& mechanism) {
  Json result = to_json(mechanism);
  const attention::MixerShape shape;
  Json formulas = Json::object();
  for (const attention::CostFormula& cost : mechanism.costs) formulas[cost.of] = cost.formula;
  Json symbols = Json::object();
  for (const auto& [symbol, meaning] : cost_symbols(mechanism))
    symbols[std::string(symbol)] = meaning;
  Json table = Json::array();
  for (const Cost& cost : example_costs(mechanism, shape)) {
    table.push_back({{"tokens", cost.tokens},
                     {"projection_flops_per_token", cost.projection_flops},
                     {"attention_flops_per_token", cost.core_flops},
                     {"decode_flops", cost.step_flops},
                     {"cache_bytes_bf16", cost.cache_bytes}});
  }
  result["costs"] = {
      {"symbols", symbols},
      {"formulas", formulas},
      {"example",
       {{"d_model", shape.d_model}, {"n_heads", shape.n_heads}, {"layers", 1}, {"costs", table}}}};
  return result;
}

void print_options(const attention::MechanismInfo& mechanism) {
  if (mechanism.options.empty()) {
    std::cout << "  no options besides --n-heads, --n-kv-heads and --rope-theta\n";
    return;
  }
  std::cout << "  options (--attention-opt NAME=VALUE):\n";
  for (const attention::OptionInfo& option : mechanism.options) {
    std::cout << fmt::format("    {:<20}{} [{}]\n    {:<20}{}\n", option.name, option.help,
                             option.default_value, "", attention::allowed_values(option));
  }
}

void print_costs(const attention::MechanismInfo& mechanism) {
  if (!mechanism.costs.empty()) std::cout << "  costs of a layer, for one sequence:\n";
  for (const attention::CostFormula& cost : mechanism.costs) {
    std::cout << fmt::format("    {:<42}{}\n", cost.of, cost.formula);
  }
  if (!mechanism.costs.empty()) {
    std::cout << "    with\n";
    for (const auto& [symbol, meaning] : cost_symbols(mechanism)) {
      std::cout << fmt::format("      {:<4}{}\n", symbol, meaning);
    }
  }
  const attention::MixerShape shape;
  std::cout << fmt::format(
      "  a layer of width {} with {} heads and these defaults:\n"
      "    {:>8}{:>22}{:>22}{:>16}{:>20}\n",
      shape.d_model, shape.n_heads, "tokens", "projections", "attention", "decoding",
      "cache of bf16");
  std::cout << fmt::format("    {:>8}{:>22}{:>22}{:>16}{:>20}\n", "", "(MFLOPs per token)",
                           "(MFLOPs per token)", "(MFLOPs)", "(kB)");
  for (const Cost& cost : example_costs(mechanism, shape)) {
    std::cout << fmt::format("    {:>8}{:>22.3f}{:>22.3f}{:>16.3f}{:>20.1f}\n", cost.tokens,
                             cost.projection_flops / 1e6, cost.core_flops / 1e6,
                             cost.step_flops / 1e6, static_cast<double>(cost.cache_bytes) / 1e3);
  }
}

void show_one(const attention::MechanismInfo& mechanism, const std::string& format) {
  if (format == "json") {
    std::cout << to_json_text(details_as_json(mechanism));
    return;
  }
  std::cout << mechanism.name << ": " << mechanism.summary << "\n  " << mechanism.paper << "\n";
  print_options(mechanism);
  print_costs(mechanism);
}

void show_caches(const std::string& format) {
  const std::vector<CacheTableRow> rows = cache_table();
  Json all = Json::array();
  std::vector<std::vector<std::string>> lines = {
      {"layers", "elements/token", "bytes/token", "model bytes/token", "of NSA"}};
  for (const CacheTableRow& row : rows) {
    all.push_back({{"layers", row.layers},
                   {"elements_per_token", row.elements},
                   {"bytes_per_token", row.bytes},
                   {"model_bytes_per_token", row.model_bytes},
                   {"to_nsa", row.to_nsa}});
    lines.push_back({row.layers, fmt::format("{:.1f}", row.elements),
                     fmt::format("{:.1f}", row.bytes), fmt::format("{:.0f}", row.model_bytes),
                     fmt::format("{:.1f}%", 100 * row.to_nsa)});
  }
  std::cout << (format == "json" ? to_json_text(all)
                                 : to_table(lines) + "\n" + describe_readings(rows));
}

/// The drawing of what a mechanism reads.
struct MaskOptions {
  std::string plot;
  int64_t tokens = 64;
  int64_t n_kv_heads = 1;
  std::vector<std::string> attention_options;
  uint64_t seed = 1;

  void add_to(Options& options) {
    options.group("Drawing");
    options
        .add("plot", &plot,
             "file for a drawing of which token reads which (SVG); NAME may be a schedule")
        .not_in_config();
    options.add("tokens", &tokens, "tokens drawn", {1, 512}).not_in_config();
    options.add("attention-opt", &attention_options, "options of the mechanism, key=value")
        .not_in_config();
    options
        .add("n-kv-heads", &n_kv_heads, "key heads, out of 4; all that they read is drawn", {1, 4})
        .not_in_config();
    options.add("seed", &seed, "of the weights and tokens, which decide what is selected")
        .not_in_config();
  }

  void draw(const std::string& schedule) const {
    const attention::MixerShape shape{.d_model = 32, .n_heads = 4, .n_kv_heads = n_kv_heads};
    const auto masks = find_masks(schedule, shape, attention_options, tokens, seed);
    io::write_file_atomically(plot, plot_masks(masks, "What " + schedule + " reads"));
  }
};

void list_all(const std::string& format) {
  Json all = Json::array();
  for (const attention::MechanismInfo& mechanism : attention::mechanisms()) {
    all.push_back(to_json(mechanism));
    if (format == "text")
      std::cout << fmt::format("{:<12}{} ({})\n", mechanism.name, mechanism.summary,
                               mechanism.paper);
  }
  if (format == "json") std::cout << to_json_text(all);
}

}  // namespace

int attention(const std::vector<std::string>& arguments) {
  std::string format = "text";
  Options options("attention",
                  "Lists the attention mechanisms, or shows one with its options and costs.",
                  "weft attention full", "[NAME]");
  options.add("format", &format, "of the result on stdout", {"text", "json"}).not_in_config();
  bool caches = false;
  options.add("cache-table", &caches, "show what models of the papers' shapes cache per token")
      .not_in_config();
  MaskOptions mask;
  mask.add_to(options);
  if (!options.parse(arguments)) return kDone;
  if (options.positional().size() > 1) throw UsageError("attention: one name at a time");
  if (caches) {
    if (!options.positional().empty() || !mask.plot.empty())
      throw UsageError("--cache-table goes without a name and without --plot");
    show_caches(format);
  } else if (!mask.plot.empty()) {
    if (options.positional().empty()) throw UsageError("--plot needs the name of a mechanism");
    mask.draw(options.positional().front());
  } else if (options.positional().empty()) {
    list_all(format);
  } else {
    show_one(attention::find_mechanism(options.positional().front()), format);
  }
  return kDone;
}

}  // namespace weft::apps

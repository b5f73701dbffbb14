#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weft/nn/sequence_mixer.h"
#include "weft/tensor/generator.h"

namespace weft::attention {

/// What a model tells every mixer, whatever its mechanism.
struct MixerShape {
  int64_t d_model = 192;
  int64_t n_heads = 6;
  int64_t n_kv_heads = 0;  ///< 0 means n_heads
  int64_t n_layers = 1;    ///< output projections start at N(0, init_std / sqrt(2 n_layers))
  double rope_theta = 10000;
  double init_std = 0.02;
};

enum class OptionKind { integer, number, boolean, choice };

/// One option of a mechanism, as `weft attention NAME` lists it.
struct OptionInfo {
  std::string name;  ///< kebab-case
  OptionKind kind = OptionKind::integer;
  std::string default_value{};
  std::string help{};
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices{};
};

/// What the option takes, in words: "an integer of at least 0 up to 65536", "one of a, b".
std::string allowed_values(const OptionInfo& option);

/// The checked values of a mechanism's options.
class OptionValues {
 public:
  /// All defaults. `mechanism` names the owner in errors.
  OptionValues(std::string mechanism, std::vector<OptionInfo> schema);

  bool knows(std::string_view name) const;
  /// Throws ConfigError on an unknown name, a value that does not parse, or one out of range.
  /// Integers take the suffixes k and M (powers of 1024).
  void set(std::string_view name, std::string_view value);

  int64_t integer(std::string_view name) const;
  double number(std::string_view name) const;
  bool boolean(std::string_view name) const;
  const std::string& text(std::string_view name) const;

 private:
  const OptionInfo& info(std::string_view name) const;

  std::string mechanism_;
  std::vector<OptionInfo> schema_;
  std::map<std::string, std::string, std::less<>> values_;
};

/// A letter of a cost formula.
struct CostSymbol {
  std::string_view symbol;
  std::string_view meaning;
};

/// What a call of a mechanism costs, as a formula over kCostSymbols and the mechanism's own.
struct CostFormula {
  std::string of;       ///< what is counted, with its unit
  std::string formula;  ///< with every product and quotient written out
};

inline constexpr std::array<CostSymbol, 8> kCostSymbols{{
    {"T", "tokens of the sequence"},
    {"S", "tokens that are cached already"},
    {"E", "width of the model"},
    {"H", "query heads"},
    {"Hk", "key heads"},
    {"D", "width of a head of queries and keys"},
    {"Dv", "width of a head of values"},
    {"s", "bytes of a cached element"},
}};

/// A mechanism that a model's layers can use by name.
struct MechanismInfo {
  std::string name;
  std::string summary;  ///< one line
  std::string paper;    ///< authors, title, where
  std::vector<OptionInfo> options{};
  std::vector<CostFormula> costs{};        ///< for one sequence and one layer
  std::vector<CostSymbol> cost_symbols{};  ///< that kCostSymbols does not have
  /// Makes the mixer of one layer. Throws ConfigError, with value and rule, where shape and options
  /// do not fit.
  std::function<std::unique_ptr<nn::SequenceMixer>(
      const MixerShape& shape, const OptionValues& options, int layer, Generator& generator)>
      make;
  /// Letter that stands for the mechanism in schedules such as "LG"; 0 where there is none.
  char letter = 0;
  /// For a name that stands for several mechanisms by layer: their letters. make() then makes that
  /// of layer `layer`.
  std::string schedule{};
};

}  // namespace weft::attention

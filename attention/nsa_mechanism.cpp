// Names, options and the line in the registry of native sparse attention.
#include <algorithm>
#include <cmath>
#include <utility>

#include "weft/attention/nsa.h"
#include "weft/tensor/check.h"

namespace weft::attention {
namespace {

const std::vector<std::string>& rope_choices() {
  static const std::vector<std::string> names = {"start", "middle", "end", "none", "before"};
  return names;
}

const std::vector<std::string>& branch_choices() {
  static const std::vector<std::string> names = {"cmp+slc+win", "cmp+slc", "cmp+win", "slc+win",
                                                 "cmp",         "slc",     "win"};
  return names;
}

std::string branch_name(const std::array<bool, 3>& branches) {
  std::vector<std::string> names;
  if (branches[0]) names.emplace_back("cmp");
  if (branches[1]) names.emplace_back("slc");
  if (branches[2]) names.emplace_back("win");
  return fmt::format("{}", fmt::join(names, "+"));
}

std::array<bool, 3> parse_branches(const std::string& text) {
  const auto has = [&](const char* name) { return text.find(name) != std::string::npos; };
  return {has("cmp"), has("slc"), has("win")};
}

OptionInfo integer(const char* name, const char* value, const char* help, double min,
                   double max = 1 << 30) {
  return {.name = name,
          .kind = OptionKind::integer,
          .default_value = value,
          .help = help,
          .min = min,
          .max = max};
}

OptionInfo boolean(const char* name, const char* value, const char* help) {
  return {.name = name, .kind = OptionKind::boolean, .default_value = value, .help = help};
}

OptionInfo choice(const char* name, const char* value, const char* help,
                  std::vector<std::string> choices) {
  return {.name = name,
          .kind = OptionKind::choice,
          .default_value = value,
          .help = help,
          .choices = std::move(choices)};
}

NsaOptions options_from(const MixerShape& shape, const OptionValues& values) {
  const auto& ropes = rope_choices();
  return {.d_model = shape.d_model,
          .n_heads = shape.n_heads,
          .n_kv_heads = shape.n_kv_heads,
          .head_dim = values.integer("head-dim"),
          .value_dim = values.integer("value-dim"),
          .block = values.integer("block"),
          .stride = values.integer("stride"),
          .select_block = values.integer("select-block"),
          .select_count = values.integer("select-count"),
          .initial = values.integer("initial"),
          .local = values.integer("local"),
          .window = values.integer("window"),
          .compressor = parse_compressor_kind(values.text("compressor")),
          .compressor_hidden = values.integer("compressor-hidden"),
          .compressor_residual = values.boolean("compressor-residual"),
          .shared_kv = values.text("kv-sharing") == "shared",
          .compressed_rope = static_cast<CompressedRope>(
              std::find(ropes.begin(), ropes.end(), values.text("cmp-rope")) - ropes.begin()),
          .gate_hidden = values.integer("gate-hidden"),
          .branches = parse_branches(values.text("branches")),
          .rope_theta = values.boolean("rope") ? shape.rope_theta : 0,
          .init_std = shape.init_std,
          .output_init_std = shape.init_std / std::sqrt(2.0 * static_cast<double>(shape.n_layers))};
}

}  // namespace

std::string NativeSparseAttention::describe() const {
  return fmt::format(
      "d_model={}, heads={}, kv_heads={}, head_dim={}, value_dim={}, block={}, stride={}, "
      "select_block={}, select_count={} ({} initial, {} local), window={}, compressor={}, "
      "kv={}, cmp_rope={}, branches={}, rope_theta={}",
      options_.d_model, options_.n_heads, options_.n_kv_heads, options_.head_dim,
      options_.value_dim, options_.block, options_.stride, options_.select_block,
      options_.select_count, options_.initial, options_.local, options_.window,
      name_of(options_.compressor), options_.shared_kv ? "shared" : "independent",
      rope_choices()[static_cast<size_t>(options_.compressed_rope)], branch_name(options_.branches),
      options_.rope_theta);
}

MechanismInfo nsa_mechanism() {
  return {
      .name = "nsa",
      .summary = "compressed blocks, the most attended blocks and a window, summed with gates",
      .paper =
          "Yuan et al., Native Sparse Attention: Hardware-Aligned and Natively Trainable Sparse "
          "Attention, ACL 2025 (arXiv 2502.11089)",
      .options =
          {integer("block", "16", "tokens of a compressed block", 1),
           integer("stride", "16",
                   "tokens from one compressed block to the next; divides block and select-block",
                   1),
           integer("select-block", "16", "tokens of a selected block; at least block", 1),
           integer("select-count", "8", "selected blocks of a token, initial and local included",
                   1),
           integer("initial", "1", "first blocks of the sequence, always selected", 0),
           integer("local", "2", "own block and those before it, always selected", 1),
           integer("window", "128", "tokens of the window, the token itself included", 1),
           choice("compressor", "mean", "how a block becomes one key and one value",
                  compressor_kinds()),
           integer("compressor-hidden", "0",
                   "width of the compressor mlp; 0 means twice the head's", 0, 1 << 16),
           boolean("compressor-residual", "false", "add the mean to the compressor mlp"),
           choice("kv-sharing", "independent", "keys and values of the three branches",
                  {"independent", "shared"}),
           choice(
               "cmp-rope", "start",
               "position of a compressed key in its block; before: keys turn, then are compressed",
               rope_choices()),
           integer("gate-hidden", "0", "width of a hidden layer of the gates; 0 means none", 0,
                   1 << 16),
           choice("branches", "cmp+slc+win",
                  "compressed, selected, window: those that are computed", branch_choices()),
           integer("head-dim", "0", "width of a head; 0 means d-model / n-heads", 0, 1 << 16),
           integer("value-dim", "0", "width of a head's values; 0 means head-dim", 0, 1 << 16),
           boolean("rope", "true", "rotate queries and keys by their positions")},
      .make = [](const MixerShape& shape, const OptionValues& options, int /*layer*/,
                 Generator& generator) -> std::unique_ptr<nn::SequenceMixer> {
        return std::make_unique<NativeSparseAttention>(options_from(shape, options), generator);
      },
      .letter = 'N',
  };
}

}  // namespace weft::attention

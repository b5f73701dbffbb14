// Names, options and the line in the registry of native sparse attention.
#include <algorithm>
#include <cmath>
#include <utility>

#include "weft/attention/nsa.h"
#include "weft/tensor/check.h"

#include "block_options.h"
#include "option_list.h"

namespace weft::attention {
namespace {

const std::vector<std::string>& rope_choices() {
  static const std::vector<std::string> names = {"start", "middle", "end", "none", "before"};
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

NsaOptions options_from(const MixerShape& shape, const OptionValues& values) {
  const auto& ropes = rope_choices();
  const BlockSizes sizes = block_sizes_from(values);
  return {.d_model = shape.d_model,
          .n_heads = shape.n_heads,
          .n_kv_heads = shape.n_kv_heads,
          .head_dim = values.integer("head-dim"),
          .value_dim = values.integer("value-dim"),
          .block = sizes.block,
          .stride = sizes.stride,
          .select_block = sizes.select_block,
          .select_count = sizes.select_count,
          .initial = sizes.initial,
          .local = sizes.local,
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
  std::vector<OptionInfo> options = block_options("8");
  for (OptionInfo& option : std::vector<OptionInfo>{
           integer_option("window", "128", "tokens of the window, the token itself included", 1),
           compressor_option("how a block becomes one key and one value"),
           integer_option("compressor-hidden", "0",
                          "width of the compressor mlp; 0 means twice the head's", 0, 1 << 16),
           boolean_option("compressor-residual", "false", "add the mean to the compressor mlp"),
           choice_option("kv-sharing", "independent", "keys and values of the three branches",
                         {"independent", "shared"}),
           choice_option(
               "cmp-rope", "start",
               "position of a compressed key in its block; before: keys turn, then are compressed",
               rope_choices()),
           integer_option("gate-hidden", "0", "width of a hidden layer of the gates; 0 means none",
                          0, 1 << 16),
           choice_option("branches", "cmp+slc+win",
                         "compressed, selected, window: those that are computed",
                         {"cmp+slc+win", "cmp+slc", "cmp+win", "slc+win", "cmp", "slc", "win"}),
           head_dim_option(),
           integer_option("value-dim", "0", "width of a head's values; 0 means head-dim", 0,
                          1 << 16),
           rope_option()})
    options.push_back(std::move(option));
  return {
      .name = "nsa",
      .summary = "compressed blocks, the most attended blocks and a window, summed with gates",
      .paper =
          "Yuan et al., Native Sparse Attention: Hardware-Aligned and Natively Trainable Sparse "
          "Attention, ACL 2025 (arXiv 2502.11089)",
      .options = std::move(options),
      .make = [](const MixerShape& shape, const OptionValues& values, int /*layer*/,
                 Generator& generator) -> std::unique_ptr<nn::SequenceMixer> {
        return std::make_unique<NativeSparseAttention>(options_from(shape, values), generator);
      },
      .letter = 'N',
  };
}

}  // namespace weft::attention

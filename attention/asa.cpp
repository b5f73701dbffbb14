#include <algorithm>

#include "weft/attention/asa_global.h"
#include "weft/attention/latent_attention.h"

#include "block_options.h"
#include "latent_options.h"
#include "option_list.h"

namespace weft::attention {
namespace {

constexpr const char* kPaper =
    "Hu et al., Optimizing Native Sparse Attention with Latent Attention and Local Global "
    "Alternating Strategies, Findings of ACL 2026 (arXiv 2511.00819)";

/// With both branches and blocks compressed to their means.
std::vector<CostFormula> global_costs() {
  const std::string products = std::string("(") + kLatentProducts + "+2*E*H)";
  return {{"forward, projections (FLOPs)", "2*" + products + "*T"},
          {"forward, attention (FLOPs)", "2*H*(Dn+Dr+Dv)*(P+K)+(G*Dc+Dr)*l*B"},
          {"forward, choice of blocks (FLOPs)", "2*H*(Dc+Dr)*P/r"},
          {"backward, projections (FLOPs)", "4*" + products + "*T"},
          {"backward, attention (FLOPs)", "2*H*(3*Dn+3*Dr+2*Dv)*(P+K)+(G*Dc+Dr)*l*B"},
          {"decoding one token, projections (FLOPs)", "2*" + products},
          {"decoding one token, attention (FLOPs)", "2*H*(2*Dc+Dr)*(Bs+Ks)+(G*Dc+Dr)*l/d"},
          {"decoding one token, choice (FLOPs)", "2*H*(Dc+Dr)*Bs/r"},
          {"cache per token kept (bytes)", "(G*Dc+Dr)*(1+1/d)*s"},
          {"cache besides (bytes)", "l*Dr*s+4*G*n"}};
}

std::vector<CostSymbol> global_cost_symbols() {
  std::vector<CostSymbol> symbols = latent_cost_symbols();
  for (const CostSymbol& symbol :
       {CostSymbol{"l", "block"}, CostSymbol{"d", "stride"}, CostSymbol{"n", "select-count"},
        CostSymbol{"r", "query-run"}, CostSymbol{"B", "blocks that T tokens complete, about T/d"},
        CostSymbol{"P", "pairs of a token and a block complete by then, about T*T/(2*d)"},
        CostSymbol{"K", "pairs of a token and a selected one, up to n*select-block*T"},
        CostSymbol{"Bs", "blocks that S+1 tokens complete"},
        CostSymbol{"Ks", "selected tokens that one reads, up to n*select-block"}})
    symbols.push_back(symbol);
  return symbols;
}

AsaGlobalOptions global_options_from(const MixerShape& shape, const OptionValues& values) {
  const BlockSizes sizes = block_sizes_from(values);
  AsaGlobalOptions options{.latent = latent_options_from(shape, values),
                           .block = sizes.block,
                           .stride = sizes.stride,
                           .select_block = sizes.select_block,
                           .select_count = sizes.select_count,
                           .initial = sizes.initial,
                           .local = sizes.local,
                           .query_run = values.integer("query-run"),
                           .compressor = parse_compressor_kind(values.text("compressor"))};
  options.latent.groups = values.integer("groups");
  options.latent.form = parse_form(values.text("form"));
  const std::string& branches = values.text("branches");
  options.branches = branches == "cmp"   ? AsaBranches::compressed
                     : branches == "slc" ? AsaBranches::selected
                                         : AsaBranches::both;
  return options;
}

}  // namespace

MechanismInfo asa_local_mechanism() {
  std::vector<OptionInfo> options = latent_options();
  options.insert(options.begin(), window_option("512"));
  options.push_back(form_option());
  std::vector<CostSymbol> symbols = latent_cost_symbols();
  symbols.push_back({"M", "min(window, T): keys that the last token sees"});
  symbols.push_back({"N", "min(window, S + 1), the same in decoding"});
  return {
      .name = "asa-local",
      .summary = "local layer of alternating sparse attention: latent attention over a window",
      .paper = kPaper,
      .options = std::move(options),
      .costs = latent_costs("(M*(M+1)/2+(T-M)*M)", "N"),
      .cost_symbols = std::move(symbols),
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

MechanismInfo asa_global_mechanism() {
  std::vector<OptionInfo> options = block_options("16");
  for (OptionInfo& option : std::vector<OptionInfo>{
           integer_option("query-run", "4",
                          "tokens in a row that read the blocks of the first; divides select-block",
                          1, 64),
           compressor_option("how the latents of a block become one"),
           choice_option("branches", "cmp+slc", "compressed, selected: those that make the output",
                         {"cmp+slc", "cmp", "slc"}),
           groups_option()})
    options.push_back(std::move(option));
  for (OptionInfo& option : latent_options()) options.push_back(std::move(option));
  options.push_back(form_option());
  return {
      .name = "asa-global",
      .summary = "global layer of alternating sparse attention: compressed and selected blocks",
      .paper = kPaper,
      .options = std::move(options),
      .costs = global_costs(),
      .cost_symbols = global_cost_symbols(),
      .make = [](const MixerShape& shape, const OptionValues& values, int /*layer*/,
                 Generator& generator) -> std::unique_ptr<nn::SequenceMixer> {
        return std::make_unique<AsaGlobal>(global_options_from(shape, values), generator);
      },
      .letter = 'G',
  };
}

MechanismInfo asa_mechanism() {
  const MechanismInfo local = asa_local_mechanism(), global = asa_global_mechanism();
  std::vector<OptionInfo> options = local.options;
  for (const OptionInfo& option : global.options) {
    if (std::none_of(options.begin(), options.end(),
                     [&](const OptionInfo& known) { return known.name == option.name; }))
      options.push_back(option);
  }
  return {
      .name = "asa",
      .summary = "alternating sparse attention: local and global layers in turn",
      .paper = kPaper,
      .options = std::move(options),
      .make =
          [local, global](const MixerShape& shape, const OptionValues& values, int layer,
                          Generator& generator) {
            const MechanismInfo& one = layer % 2 == 0 ? local : global;
            OptionValues own(one.name, one.options);
            for (const OptionInfo& option : one.options)
              own.set(option.name, values.text(option.name));
            return one.make(shape, own, layer, generator);
          },
      .schedule = "LG",
  };
}

}  // namespace weft::attention

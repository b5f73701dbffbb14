#include "latent_options.h"

#include <cmath>

#include "option_list.h"

namespace weft::attention {
namespace {

OptionInfo width_option(const char* name, const char* help, double max = 1 << 16) {
  return integer_option(name, "0", help, 0, max);
}

}  // namespace

std::vector<OptionInfo> latent_options() {
  return {
      width_option("latent-dim",
                   "width of a group's latent vector; 0 means n-kv-heads * head-dim / groups, "
                   "half of what cached keys and values would take",
                   1 << 20),
      width_option("rope-dim", "turned part of queries and keys, even; 0 means half of head-dim"),
      width_option("head-dim", "unturned part of queries and keys; 0 means d-model / n-heads"),
      width_option("value-dim", "width of a head's values; 0 means head-dim"),
      width_option("query-latent-dim", "width of a latent vector for queries; 0 means none")};
}

LatentOptions latent_options_from(const MixerShape& shape, const OptionValues& options) {
  return {.d_model = shape.d_model,
          .n_heads = shape.n_heads,
          .head_dim = options.integer("head-dim"),
          .value_dim = options.integer("value-dim"),
          .n_kv_heads = shape.n_kv_heads,
          .latent_dim = options.integer("latent-dim"),
          .rope_dim = options.integer("rope-dim"),
          .query_latent_dim = options.integer("query-latent-dim"),
          .rope_theta = shape.rope_theta,
          .init_std = shape.init_std,
          .output_init_std = shape.init_std / std::sqrt(2.0 * static_cast<double>(shape.n_layers))};
}

std::vector<CostFormula> latent_costs(const std::string& pairs, const std::string& keys) {
  const std::string products = std::string("(") + kLatentProducts + ")";
  return {{"forward, projections (FLOPs)", "2*" + products + "*T"},
          {"forward, attention (FLOPs)", "2*H*(Dn+Dr+Dv)*" + pairs},
          {"backward, projections (FLOPs)", "4*" + products + "*T"},
          {"backward, attention (FLOPs)", "2*H*(3*Dn+3*Dr+2*Dv)*" + pairs},
          {"decoding one token, projections (FLOPs)", "2*" + products},
          {"decoding one token, attention (FLOPs)", "2*H*(2*Dc+Dr)*" + keys},
          {"cache per token kept (bytes)", "(G*Dc+Dr)*s"}};
}

std::vector<CostSymbol> latent_cost_symbols() {
  return {{"G", "groups: latent vectors of a token"},
          {"Dc", "latent-dim: width of one"},
          {"Dn", "head-dim: unturned part of queries and keys"},
          {"Dr", "rope-dim: turned part"},
          {"Q", "weights of queries: E*H*(Dn+Dr), or Dq*(E+H*(Dn+Dr)) with query-latent-dim Dq"}};
}

OptionInfo groups_option() {
  return integer_option("groups", "2", "latent vectors of a token; must divide n-heads", 1,
                        1 << 16);
}

OptionInfo form_option() {
  return choice_option("form", "auto",
                       "how training computes it: with keys and values of every head (naive), on "
                       "latents (absorbed), or as suits best",
                       {"auto", "naive", "absorbed"});
}

LatentForm parse_form(const std::string& text) {
  return text == "naive"      ? LatentForm::naive
         : text == "absorbed" ? LatentForm::absorbed
                              : LatentForm::automatic;
}

}  // namespace weft::attention

#include "common/model_options.h"

#include <algorithm>

#include <fmt/format.h>

#include "weft/tensor/ops/matmul.h"

namespace weft::apps {

namespace {

DType fastest_dtype(Device device) {
  return has_fast_bf16_matmul(device) ? DType::bf16 : DType::f32;
}

}  // namespace

void ModelOptions::add_to(Options& options) {
  options.group("Model");
  options.add("n-layers", &n_layers, "blocks", {1, 4096});
  options.add("d-model", &d_model, "width of the residual stream", {1, 1 << 20});
  options.add("n-heads", &n_heads, "query heads", {1, 1 << 16});
  options.add("n-kv-heads", &n_kv_heads, "key and value heads; 0 means n-heads", {0, 1 << 16});
  options.add("d-ff", &d_ff,
              "width of the MLP; 0 means 8/3 d-model, rounded up to a multiple of 64",
              {0, 1 << 22});
  options.add("attention", &attention, "mechanism of the layers; weft attention lists them");
  options.add("attention-schedule", &attention_schedule,
              "mechanisms layer by layer, as in \"full*3\"; overrides --attention");
  options.add("attention-opt", &attention_options, "options of the mechanism, key=value");
  options.add("rope-theta", &rope_theta, "base of the rotary frequencies", {1, 1e12});
  options.add("norm-eps", &norm_eps, "epsilon of the norms", {1e-12, 1});
  options.add("dropout", &dropout, "probability of dropping", {0, 0.99});
  options.add("init-std", &init_std, "standard deviation of the initial weights", {1e-6, 10});
  options.add("tie-embeddings", &tie_embeddings, "use the embedding as output head");
  options.add(
      "dtype", &dtype,
      "type of activations and products, parameters stay f32; auto takes bf16 where it is fast; "
      "f16 trains with a loss scale that adapts itself",
      {"auto", "f32", "bf16", "f16"});
  options.add("recompute", &recompute, "what backward computes again to save memory",
              {"none", "elementwise", "attention", "block"});
}

nn::DecoderConfig ModelOptions::decoder_config(int64_t vocab_size, Device device) const {
  nn::DecoderConfig config;
  config.vocab_size = vocab_size;
  config.n_layers = n_layers;
  config.d_model = d_model;
  config.d_ff = d_ff > 0 ? d_ff : (8 * d_model / 3 + 63) / 64 * 64;
  config.norm_eps = norm_eps;
  config.dropout = dropout;
  config.tie_embeddings = tie_embeddings;
  config.init_std = init_std;
  config.compute_dtype = dtype == "auto" ? fastest_dtype(device) : parse_dtype(dtype);
  config.recompute = recompute == "block"         ? nn::Recompute::block
                     : recompute == "attention"   ? nn::Recompute::attention
                     : recompute == "elementwise" ? nn::Recompute::elementwise
                                                  : nn::Recompute::none;
  nn::validate(config);
  return config;
}

attention::AttentionConfig ModelOptions::attention_config() const {
  return {.shape = {.d_model = d_model,
                    .n_heads = n_heads,
                    .n_kv_heads = n_kv_heads,
                    .n_layers = n_layers,
                    .rope_theta = rope_theta,
                    .init_std = init_std},
          .schedule = schedule(),
          .options = attention_options};
}

std::unique_ptr<nn::DecoderLM> ModelOptions::make_model(int64_t vocab_size, uint64_t seed,
                                                        Device device) const {
  const nn::DecoderConfig config = decoder_config(vocab_size, device);
  Generator generator(seed);
  auto model = std::make_unique<nn::DecoderLM>(
      config, attention::make_mixer_factory(attention_config(), generator), generator);
  model->to(device);
  return model;
}

std::vector<ParameterCount> count_parameters(const nn::DecoderLM& model) {
  std::vector<ParameterCount> parts = {
      {"embedding", 0}, {"attention", 0}, {"mlp", 0}, {"norm", 0}, {"head", 0}};
  for (const auto& [name, parameter] : model.named_parameters()) {
    const auto has = [&name = name](const char* part) {
      return name.find(part) != std::string::npos;
    };
    const size_t part = has("embed_tokens") ? 0
                        : has("self_attn")  ? 1
                        : has(".mlp.")      ? 2
                        : has("norm")       ? 3
                                            : 4;
    parts[part].count += parameter.numel();
  }
  return parts;
}

int64_t ModelSummary::num_parameters() const {
  int64_t total = 0;
  for (const ParameterCount& part : parts) total += part.count;
  return total;
}

double ModelSummary::cache_bytes_per_token() const {
  double total = 0;
  for (const LayerGroup& group : layers)
    total += static_cast<double>(group.layers * group.cache_bytes);
  return total / static_cast<double>(cache_tokens);
}

ModelSummary summarize(const ModelOptions& options, int64_t vocab_size, int64_t tokens,
                       Device device) {
  ModelSummary summary;
  summary.config = options.decoder_config(vocab_size, device);
  summary.cache_tokens = tokens;
  const nn::DecoderConfig& config = summary.config;
  const attention::AttentionConfig layers = options.attention_config();
  const std::vector<std::string> schedule =
      attention::parse_schedule(layers.schedule, config.n_layers);
  Generator generator(0);
  const nn::MixerFactory factory = attention::make_mixer_factory(layers, generator);
  int64_t attention_parameters = 0;
  for (size_t layer = 0; layer < schedule.size(); ++layer) {
    auto group = std::find_if(summary.layers.begin(), summary.layers.end(),
                              [&](const LayerGroup& g) { return g.mechanism == schedule[layer]; });
    if (group == summary.layers.end()) {
      const auto mixer = factory(static_cast<int>(layer));
      group = summary.layers.insert(
          group, {.mechanism = schedule[layer],
                  .parameters = mixer->num_parameters(),
                  .cache_bytes = mixer->cache_bytes(tokens, config.compute_dtype),
                  .forward_flops = mixer->forward_cost(tokens).total()});
    }
    ++group->layers;
    attention_parameters += group->parameters;
  }
  const int64_t embedding = config.vocab_size * config.d_model;
  summary.parts = {{"embedding", embedding},
                   {"attention", attention_parameters},
                   {"mlp", 3 * config.d_model * config.d_ff * config.n_layers},
                   {"norm", (2 * config.n_layers + 1) * config.d_model},
                   {"head", config.tie_embeddings ? 0 : embedding}};
  return summary;
}

}  // namespace weft::apps

#include <gmock/gmock.h>

#include "weft/attention/asa_cache.h"
#include "weft/attention/asa_global.h"
#include "weft/attention/full.h"
#include "weft/attention/latent_attention.h"
#include "weft/attention/registry.h"
#include "weft/autograd/grad_check.h"

#include "attention_test_data.h"
#include "cost_formula.h"
#include "layer_test.h"
#include "reference/asa_reference.h"
#include "reference/block_selection_reference.h"

namespace weft::attention {
namespace {

using testing::expect_agrees;
using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::root_mean_square;
using testing::same_bits;

std::unique_ptr<AsaGlobal> make_layer(const AsaGlobalOptions& options, uint64_t seed = 7) {
  Generator generator(seed);
  auto layer = std::make_unique<AsaGlobal>(options, generator);
  // Gains that are not 1 and biases that are not 0, so that a wrong place or sign shows.
  for (const auto& [name, parameter] : layer->named_parameters()) {
    if (name.find("layernorm") == std::string::npos && name != "gate_proj.bias") continue;
    Variable gain = parameter;
    gain.mutable_data().copy_(random_tensor(gain.shape(), DType::f32, seed + 1, 0.5));
  }
  return layer;
}

reference::AsaGlobalLayer definition_of(const AsaGlobal& layer, int64_t position = 0) {
  const LatentOptions& o = layer.options();
  const AsaGlobalOptions& a = layer.asa_options();
  return {.latent = {.heads = o.n_heads,
                     .groups = o.groups,
                     .head_dim = o.head_dim,
                     .value_dim = o.value_dim,
                     .latent_dim = o.latent_dim,
                     .rope_dim = o.rope_dim,
                     .rope_theta = o.rope_theta,
                     .norm_eps = o.norm_eps,
                     .position = position},
          .block = a.block,
          .stride = a.stride,
          .compressed = a.branches != AsaBranches::selected,
          .selected = a.branches != AsaBranches::compressed};
}

/// With the blocks that the layer itself chooses: they may differ from the oracle's by rounding.
testing::LayerOracle oracle_of(AsaGlobal& layer, int64_t position = 0) {
  return [&layer, position](const reference::Parameters& parameters, const Tensor& x,
                            const Tensor& dy) {
    const reference::AsaGlobalLayer definition = definition_of(layer, position);
    if (!definition.selected)
      return reference::asa_global_layer(definition, parameters, x, dy, nullptr);
    const Selection selection = layer.selection(Variable(x), {.position = position});
    return reference::asa_global_layer(definition, parameters, x, dy, &selection);
  };
}

reference::Parameters parameters_of(const nn::Module& module) {
  reference::Parameters parameters;
  for (const auto& [name, parameter] : module.named_parameters())
    parameters[name] = parameter.data();
  return parameters;
}

BlockSelectionOptions selection_options(const AsaGlobal& layer) {
  const AsaGlobalOptions& a = layer.asa_options();
  const LatentOptions& o = layer.options();
  return {.compression_block = a.block,
          .compression_stride = a.stride,
          .key_block = a.select_block,
          .count = a.select_count,
          .initial = a.initial,
          .local = a.local,
          .query_tile = a.query_run,
          .scale = 1 / std::sqrt(static_cast<double>(o.head_dim + o.rope_dim))};
}

Tensor forward(nn::SequenceMixer& layer, const Tensor& x) {
  const autograd::NoGradGuard no_grad;
  return layer.forward(Variable(x), {}).data();
}

void expect_same_lists(const Selection& a, const Selection& b) {
  ASSERT_EQ(a.shape(), b.shape());
  const SelectionShape& s = a.shape();
  for (int64_t batch = 0; batch < s.batch; ++batch) {
    for (int64_t group = 0; group < s.groups; ++group) {
      for (int64_t tile = 0; tile < s.tiles(); ++tile) {
        const auto x = a.list(batch, group, tile), y = b.list(batch, group, tile);
        EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end()))
            << batch << " " << group << " " << tile;
      }
    }
  }
}

const LatentOptions kLatent{.d_model = 20,
                            .n_heads = 4,
                            .groups = 2,
                            .head_dim = 6,
                            .value_dim = 5,
                            .latent_dim = 7,
                            .rope_dim = 4,
                            .init_std = 0.25};
const AsaGlobalOptions kSmall{.latent = kLatent,
                              .block = 4,
                              .stride = 2,
                              .select_block = 8,
                              .select_count = 3,
                              .initial = 1,
                              .local = 1,
                              .query_run = 4};

TEST(AsaGlobal, AgreesWithItsDefinitionInEveryTypeAndForm) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const LatentForm form : {LatentForm::automatic, LatentForm::naive, LatentForm::absorbed}) {
      for (const AsaBranches branches :
           {AsaBranches::both, AsaBranches::compressed, AsaBranches::selected}) {
        for (const int64_t length : {3, 29, 64}) {
          AsaGlobalOptions options = kSmall;
          options.latent.form = form;
          options.branches = branches;
          options.latent.query_latent_dim = length == 29 ? 9 : 0;
          SCOPED_TRACE(::testing::Message()
                       << to_string(dtype) << " form " << static_cast<int>(form) << " branches "
                       << static_cast<int>(branches) << " T " << length);
          const auto layer = make_layer(options);
          expect_agrees(*layer, random_tensor({2, length, 20}, dtype, 1), oracle_of(*layer, 3), 3);
        }
      }
    }
  }
}

TEST(AsaGlobal, ReadsTheBlocksWithTheMostAttention) {
  for (const int64_t run : {1, 2, 4}) {
    AsaGlobalOptions options = kSmall;
    options.query_run = run;
    options.latent.init_std = 0.5;
    const auto layer = make_layer(options);
    layer->to(DType::f64);
    const Tensor x = random_tensor({2, 61, 20}, DType::f64, 1);
    const auto inputs =
        reference::asa_selection_inputs(definition_of(*layer), parameters_of(*layer), x);
    expect_same_lists(
        layer->selection(Variable(x)),
        reference::select_blocks(inputs.q, inputs.k, 0, 61, selection_options(*layer)).selection);
  }
}

TEST(AsaGlobal, RunsDoNotMatterWhereAllBlocksAreRead) {
  AsaGlobalOptions options = kSmall;
  options.select_count = 8;  // of 8
  const Tensor x = random_tensor({2, 63, 20}, DType::f64, 1);
  std::vector<Tensor> y;
  for (const int64_t run : {1, 4, 8}) {
    options.query_run = run;
    const auto layer = make_layer(options);
    layer->to(DType::f64);
    y.push_back(forward(*layer, x));
  }
  EXPECT_LE(largest_difference(y[1], y[0]), 1e-13);
  EXPECT_LE(largest_difference(y[2], y[0]), 1e-13);
  options.select_count = 3;
  const auto layer = make_layer(options);
  layer->to(DType::f64);
  EXPECT_GT(largest_difference(forward(*layer, x), y[0]), 1e-3);
}

/// A grouped latent layer with the weights that it shares with `layer`.
std::unique_ptr<LatentAttention> without_blocks(const AsaGlobal& layer) {
  Generator generator(1);
  auto latent = std::make_unique<LatentAttention>(layer.options(), generator);
  latent->to(DType::f64);
  StateDict state;
  for (const NamedTensor& entry : layer.state_dict()) {
    if (entry.name.find("gate") == std::string::npos) state.push_back(entry);
  }
  latent->load_state_dict(state);
  return latent;
}

void open_gates(AsaGlobal& layer) {
  layer.parameter("gate_proj.weight").mutable_data().fill_(0);
  layer.parameter("gate_proj.bias").mutable_data().fill_(100);
}

TEST(AsaGlobal, SelectingAllBlocksIsGroupedLatentAttention) {
  AsaGlobalOptions options = kSmall;
  options.branches = AsaBranches::selected;
  options.select_count = 6;
  const auto layer = make_layer(options);
  layer->to(DType::f64);
  open_gates(*layer);
  const Tensor x = random_tensor({2, 45, 20}, DType::f64, 1);
  EXPECT_LE(largest_difference(forward(*layer, x), forward(*without_blocks(*layer), x)), 1e-13);
}

TEST(AsaGlobal, BlocksOfOneTokenAreGroupedLatentAttention) {
  AsaGlobalOptions options = kSmall;
  options.branches = AsaBranches::compressed;
  options.block = options.stride = 1;
  const auto layer = make_layer(options);
  layer->to(DType::f64);
  open_gates(*layer);
  const Tensor x = random_tensor({2, 45, 20}, DType::f64, 1);
  EXPECT_LE(largest_difference(forward(*layer, x), forward(*without_blocks(*layer), x)), 1e-13);
}

TEST(AsaGlobal, AddsItsBranches) {
  // With the same weights, the whole is the sum of the layers of one branch each.
  const Tensor x = random_tensor({2, 45, 20}, DType::f64, 1);
  std::vector<Tensor> y;
  for (const AsaBranches branches :
       {AsaBranches::compressed, AsaBranches::selected, AsaBranches::both}) {
    AsaGlobalOptions options = kSmall;
    options.branches = branches;
    const auto layer = make_layer(options);
    const auto both = make_layer(kSmall);
    StateDict state;
    for (const NamedTensor& entry : both->state_dict()) {
      if (entry.name.find("gate") == std::string::npos) state.push_back(entry);
    }
    layer->load_state_dict(state, /*strict=*/false);
    layer->to(DType::f64);
    open_gates(*layer);
    y.push_back(forward(*layer, x));
  }
  const std::vector<double> cmp = y[0].to_vector<double>(), slc = y[1].to_vector<double>(),
                            both = y[2].to_vector<double>();
  for (size_t i = 0; i < cmp.size(); ++i) EXPECT_NEAR(cmp[i] + slc[i], both[i], 1e-12);
}

TEST(AsaGlobal, ShortSequencesHaveNoCompressedBranch) {
  AsaGlobalOptions options = kSmall;
  options.branches = AsaBranches::compressed;
  const auto layer = make_layer(options);
  const Variable x(random_tensor({2, 3, 20}, DType::f32, 1), true);
  const Variable y = layer->forward(x, {});
  EXPECT_EQ(root_mean_square(y.data()), 0);
  y.backward(ones(y.shape()));
  for (const auto& [name, parameter] : layer->named_parameters()) {
    if (!parameter.grad().defined()) continue;
    for (const double value : parameter.grad().to_vector<double>()) ASSERT_EQ(value, 0) << name;
  }
  const auto both = make_layer(kSmall);
  const Variable z = both->forward(x, {});
  z.backward(ones(z.shape()));
  // By head the gates are those of the compressed and of the selected branch.
  const std::vector<double> bias = both->parameter("gate_proj.bias").grad().to_vector<double>();
  for (size_t h = 0; h < 4; ++h) {
    EXPECT_EQ(bias[2 * h], 0);
    EXPECT_NE(bias[2 * h + 1], 0);
  }
  for (const auto& [name, parameter] : both->named_parameters()) {
    for (const double value : parameter.grad().to_vector<double>())
      ASSERT_TRUE(std::isfinite(value)) << name;
  }
}

TEST(AsaGlobal, LearnedCompressorsHaveTheRightGradients) {
  for (const CompressorKind kind :
       {CompressorKind::weighted, CompressorKind::linear, CompressorKind::mlp}) {
    for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
      AsaGlobalOptions options = kSmall;
      options.compressor = kind;
      options.latent.form = form;
      const auto layer = make_layer(options);
      layer->to(DType::f64);
      std::vector<Variable> inputs = {Variable(random_tensor({1, 30, 20}, DType::f64, 1), true)};
      for (const Variable& parameter : layer->parameters()) inputs.push_back(parameter);
      const auto result = autograd::grad_check(
          [&](const std::vector<Variable>& in) { return layer->forward(in[0], {}); }, inputs,
          {.max_elements = 20});
      EXPECT_TRUE(result) << name_of(kind) << ": " << result.message;
    }
  }
}

TEST(AsaGlobal, FormsAgreeForEveryCompressor) {
  for (const std::string& kind : compressor_kinds()) {
    AsaGlobalOptions options = kSmall;
    options.compressor = parse_compressor_kind(kind);
    options.latent.form = LatentForm::naive;
    const auto naive = make_layer(options);
    options.latent.form = LatentForm::absorbed;
    const auto absorbed = make_layer(options);
    naive->to(DType::f64);
    absorbed->to(DType::f64);
    const Tensor x = random_tensor({2, 50, 20}, DType::f64, 1);
    EXPECT_LE(largest_difference(forward(*naive, x), forward(*absorbed, x)), 1e-13) << kind;
  }
}

TEST(AsaGlobal, PositionsAreRelative) {
  const auto layer = make_layer(kSmall);
  layer->to(DType::f64);
  const Variable x(random_tensor({1, 40, 20}, DType::f64, 1));
  EXPECT_LE(largest_difference(layer->forward(x, {.position = 0}).data(),
                               layer->forward(x, {.position = 1000}).data()),
            1e-10);
}

TEST(AsaGlobal, LaterTokensReachNothingEarlier) {
  const int64_t length = 40;
  for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
    AsaGlobalOptions options = kSmall;
    options.latent.form = form;
    const auto layer = make_layer(options);
    const Tensor x = random_tensor({1, length, 20}, DType::f32, 1);
    const Tensor before = forward(*layer, x);
    for (int64_t t = 1; t < length; ++t) {
      Tensor changed = x.clone();
      changed.slice(1, t, length).fill_(0.8);
      EXPECT_TRUE(same_bits(forward(*layer, changed).slice(1, 0, t), before.slice(1, 0, t))) << t;
      const Variable input(x, true);
      Tensor dy = zeros({1, length, 20});
      dy.slice(1, 0, t).fill_(1);
      layer->forward(input, {}).backward(dy);
      EXPECT_EQ(root_mean_square(input.grad().slice(1, t, length)), 0) << t;
    }
  }
}

TEST(AsaGlobal, LargeScoresStayFinite) {
  AsaGlobalOptions options = kSmall;
  options.latent.init_std = 30;
  for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
    options.latent.form = form;
    const auto layer = make_layer(options);
    const Variable x(random_tensor({1, 40, 20}, DType::f32, 1), true);
    const Variable y = layer->forward(x, {});
    y.backward(ones(y.shape()));
    for (const double value : y.data().to_vector<double>()) ASSERT_TRUE(std::isfinite(value));
    for (const double value : x.grad().to_vector<double>()) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST(AsaGlobal, CountsFlopsAndCacheBytes) {
  const auto layer = make_layer(kSmall);  // E 20, H 4, G 2, Dn 6, Dv 5, Dc 7, Dr 4
  // 21 tokens: blocks of 4 at 0, 2, ..., 16, seen by 18, 16, ..., 2 queries; 8 + 8 + 5 tokens in
  // blocks of 8, whose tokens read 0, 1 and 2 whole blocks besides their own.
  const double compressed = 90, selected = 36 + (8 * 8 + 36) + (5 * 16 + 15);
  const nn::MixerCost cost = layer->forward_cost(21);
  EXPECT_DOUBLE_EQ(cost.projection_flops, 21 * (2.0 * 20 * (4 * 10 + 2 * 7 + 4) + 2.0 * 7 * 4 * 11 +
                                                2.0 * 4 * 5 * 20 + 2.0 * 20 * 8));
  EXPECT_DOUBLE_EQ(cost.core_flops, 2.0 * 4 * (10 + 5) * (compressed + selected) +
                                        2.0 * 4 * (7 + 4) * compressed / 4 + 9 * (2 * 7 + 4) * 4);
  EXPECT_DOUBLE_EQ(
      layer->step_cost(20).core_flops,
      2.0 * 4 * (2 * 7 + 4) * (9 + 21) + 2.0 * 4 * (7 + 4) * 9 / 4 + (2 * 7 + 4) * 4 / 2.0);
  EXPECT_EQ(layer->cache_bytes(100, DType::bf16),
            ((100 + 49) * (2 * 7 + 4) + 4 * 4) * 2 + 2 * 3 * 4);
  for (const int64_t capacity : {1, 3, 4, 5, 100}) {
    EXPECT_EQ(layer->make_cache(3, capacity, DType::f32, kCpu)->bytes(),
              3 * layer->cache_bytes(capacity, DType::f32));
  }
}

TEST(AsaGlobal, FormulasGiveItsCosts) {
  const auto layer = make_layer(kSmall);
  // Pairs by counting, over 45 tokens and for token 44.
  double blocks = 0, pairs = 0, keys = 0, last_blocks = 0, last_keys = 0;
  for (int64_t t = 0; t < 45; ++t) {
    last_blocks = last_keys = 0;
    for (int64_t i = 0; i * 2 + 3 <= t; ++i) last_blocks += 1;
    const int64_t own = t / 8, read = std::min<int64_t>(own + 1, 3);
    last_keys = static_cast<double>((read - 1) * 8 + t % 8 + 1);
    blocks = last_blocks;
    pairs += last_blocks;
    keys += last_keys;
  }
  const std::map<std::string, double> symbols = {
      {"T", 45},        {"E", 20}, {"H", 4},      {"Dv", 5},      {"s", 2},    {"G", 2},
      {"Dc", 7},        {"Dn", 6}, {"Dr", 4},     {"Q", 20 * 40}, {"l", 4},    {"d", 2},
      {"n", 3},         {"r", 4},  {"B", blocks}, {"P", pairs},   {"K", keys}, {"Bs", last_blocks},
      {"Ks", last_keys}};
  const auto formula = [&](const char* of) {
    return testing::cost_by_formula(asa_global_mechanism(), of, symbols);
  };
  const nn::MixerCost forward = layer->forward_cost(45), step = layer->step_cost(44);
  EXPECT_DOUBLE_EQ(formula("forward, projections (FLOPs)"), forward.projection_flops);
  EXPECT_DOUBLE_EQ(
      formula("forward, attention (FLOPs)") + formula("forward, choice of blocks (FLOPs)"),
      forward.core_flops);
  EXPECT_DOUBLE_EQ(formula("backward, projections (FLOPs)"), 2 * forward.projection_flops);
  EXPECT_DOUBLE_EQ(formula("decoding one token, projections (FLOPs)"), step.projection_flops);
  EXPECT_DOUBLE_EQ(formula("decoding one token, attention (FLOPs)") +
                       formula("decoding one token, choice (FLOPs)"),
                   step.core_flops);
  // 1000 tokens complete 999 / 2 blocks of 4, one less than 1000 / 2.
  EXPECT_DOUBLE_EQ(1000 * formula("cache per token kept (bytes)") +
                       formula("cache besides (bytes)") - (2 * 7 + 4) * 2,
                   static_cast<double>(layer->cache_bytes(1000, DType::bf16)));
}

TEST(AsaGlobal, KeepsTheBlocksThatAreComplete) {
  const AsaCacheOptions options{.blocks = {.block = 4, .stride = 2},
                                .groups = 2,
                                .latent_dim = 3,
                                .rope_dim = 2,
                                .select_count = 3,
                                .query_run = 4,
                                .select_block = 8};
  AsaCache cache(1, 40, options, DType::f32, kCpu);
  const Tensor latents = random_tensor({1, 40, 2, 3}, DType::f32, 1);
  const Tensor keys = random_tensor({1, 40, 1, 2}, DType::f32, 2);
  for (int64_t t = 0; t < 40; ++t) {
    const auto rows =
        cache.append(latents.slice(1, t, t + 1), keys.slice(1, t, t + 1), keys.slice(1, t, t + 1));
    const int64_t complete = t < 3 ? 0 : (t + 1 - 4) / 2 + 1;
    EXPECT_EQ(rows.latents.size(1), complete > cache.complete_blocks() ? 4 : 0) << t;
    EXPECT_EQ(rows.rope_keys.size(1), rows.latents.size(1)) << t;
    if (rows.latents.size(1) > 0) {
      EXPECT_TRUE(same_bits(rows.latents, latents.slice(1, t - 3, t + 1))) << t;
      EXPECT_TRUE(same_bits(rows.rope_keys, keys.slice(1, t - 3, t + 1))) << t;
      cache.append_blocks(rows.latents.slice(1, 0, 1), rows.rope_keys.slice(1, 0, 1));
    }
    EXPECT_EQ(cache.complete_blocks(), complete);
    EXPECT_EQ(cache.blocks().latents.size(1), complete);
    EXPECT_EQ(cache.tokens().latents.size(1), t + 1);
  }
  EXPECT_THROW(cache.append(latents.slice(1, 0, 1), keys.slice(1, 0, 1), keys.slice(1, 0, 1)),
               ShapeError);
}

TEST(AsaGlobal, DecodesInLowPrecision) {
  // With f32 weights, as a model in mixed precision decodes; all blocks are read, so that rounding
  // chooses none.
  AsaGlobalOptions options = kSmall;
  options.select_count = 8;
  const auto layer = make_layer(options);
  const Tensor x = random_tensor({2, 45, 20}, DType::bf16, 1);
  const Tensor whole = forward(*layer, x.to(DType::f32));
  const auto cache = layer->make_cache(2, 45, DType::bf16, kCpu);
  for (int64_t t = 0; t < 45;) {
    const int64_t end = t == 0 ? 13 : t + 1;
    const Tensor y = layer->prefill(Variable(x.slice(1, t, end)), *cache).data();
    EXPECT_EQ(y.dtype(), DType::bf16);
    EXPECT_LE(testing::layer_difference(y, whole.slice(1, t, end)), 4e-2) << t;
    t = end;
  }
}

TEST(AsaGlobal, GivesTheSameBitsTwice) {
  const Tensor x = random_tensor({2, 60, 20}, DType::f32, 1);
  std::vector<Tensor> first;
  for (int round = 0; round < 3; ++round) {
    const auto layer = make_layer(kSmall);
    const Variable input(x, true);
    const Variable y = layer->forward(input, {});
    y.backward(x);
    std::vector<Tensor> all = {y.data(), input.grad()};
    for (const Variable& parameter : layer->parameters()) all.push_back(parameter.grad());
    if (round == 0) first = all;
    for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(same_bits(all[i], first[i])) << i;
  }
}

TEST(AsaGlobal, RefusesWhatDoesNotFit) {
  const auto from_registry = [](const std::vector<std::string>& options) {
    Generator generator(1);
    return message_of<ConfigError>([&] {
      make_mixer_factory({.shape = {.d_model = 24, .n_heads = 4, .n_layers = 1},
                          .schedule = "G",
                          .options = options},
                         generator)(0);
    });
  };
  const std::string who = "alternating sparse attention, global layer: ";
  EXPECT_EQ(from_registry({"query-run=3"}), who + "query_run (3) must divide select_block (16)");
  EXPECT_EQ(from_registry({"select-count=2"}),
            who + "select_count (2) must be at least initial + local (1 + 2)");
  EXPECT_EQ(from_registry({"stride=5"}),
            who + "stride (5) must divide block (16) and select_block (16)");
  EXPECT_EQ(from_registry({"block=32"}), who + "select_block (16) must be at least block (32)");
  EXPECT_EQ(from_registry({"groups=3"}), who + "n_heads (4) must be a multiple of groups (3)");
  EXPECT_EQ(from_registry({"rope-dim=5"}), who + "rope_dim must be even and at least 2, got 5");
  EXPECT_EQ(from_registry({"local=0"}),
            "attention asa-global: local must be an integer of at least 1 up to 1073741824, got "
            "\"0\"");
  EXPECT_THAT(from_registry({"branches=win"}), ::testing::HasSubstr("one of cmp+slc, cmp, slc"));
  AsaGlobalOptions options = kSmall;
  options.latent.window = 3;
  EXPECT_EQ(message_of<ConfigError>([&] { make_layer(options); }), who + "takes no window, got 3");
  const auto layer = make_layer(kSmall);
  const auto cache = layer->make_cache(1, 4, DType::bf16, kCpu);
  message_of<DTypeError>([&] { layer->prefill(Variable(zeros({1, 2, 20})), *cache); });
  Generator generator(1);
  FullAttention full({.d_model = 20, .n_heads = 2}, generator);
  message_of<ConfigError>([&] { full.prefill(Variable(zeros({1, 2, 20})), *cache); });
  message_of<ConfigError>([&] {
    layer->prefill(Variable(zeros({1, 2, 20})), *full.make_cache(1, 4, DType::f32, kCpu));
  });
  options = kSmall;
  options.branches = AsaBranches::compressed;
  message_of<ConfigError>([&] { make_layer(options)->selection(Variable(zeros({1, 2, 20}))); });
}

TEST(Asa, StandsForAlternatingLayers) {
  EXPECT_THAT(parse_schedule("asa", 4),
              ::testing::ElementsAre("asa-local", "asa-global", "asa-local", "asa-global"));
  EXPECT_EQ(parse_schedule("asa", 4), parse_schedule("LG", 4));
  EXPECT_THAT(
      parse_schedule("full,asa*2,nsa", 6),
      ::testing::ElementsAre("full", "asa-local", "asa-global", "asa-local", "asa-global", "nsa"));
  EXPECT_THAT(parse_schedule("LGFN", 4),
              ::testing::ElementsAre("asa-local", "asa-global", "full", "nsa"));
  message_of<ConfigError>([] { parse_schedule("asa", 3); });
}

TEST(Asa, PassesOptionsOn) {
  const auto describe = [](const std::vector<std::string>& options, int layer) {
    Generator generator(1);
    return make_mixer_factory({.shape = {.d_model = 24, .n_heads = 4, .n_layers = 2},
                               .schedule = "asa",
                               .options = options},
                              generator)(layer)
        ->describe();
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(describe({"window=9"}, 0), HasSubstr("window=9"));
  EXPECT_THAT(describe({"asa.window=9", "asa.query-run=2"}, 0), HasSubstr("window=9"));
  EXPECT_THAT(describe({"asa.window=9", "asa.query-run=2"}, 1), HasSubstr("query_run=2"));
  EXPECT_THAT(describe({"asa.latent-dim=9"}, 0), HasSubstr("latent_dim=9"));
  EXPECT_THAT(describe({"asa.latent-dim=9"}, 1), HasSubstr("latent_dim=9"));
  EXPECT_THAT(describe({"asa-local.latent-dim=9"}, 1), HasSubstr("latent_dim=12"));
  EXPECT_THAT(message_of<ConfigError>([&] { describe({"asa.windw=9"}, 0); }),
              HasSubstr("attention asa: unknown option \"windw\"; did you mean \"window\"?"));
  // Made by its own name, a layer is that of its place.
  const MechanismInfo& asa = find_mechanism("asa");
  OptionValues values(asa.name, asa.options);
  values.set("window", "5");
  Generator generator(1);
  const MixerShape shape{.d_model = 24, .n_heads = 4};
  EXPECT_THAT(asa.make(shape, values, 2, generator)->describe(), HasSubstr("window=5"));
  EXPECT_THAT(asa.make(shape, values, 3, generator)->describe(), HasSubstr("select_block=16"));
}

// Random shapes of all kinds: against the oracle, and decoded in random pieces.
TEST(SlowAsaGlobal, RandomConfigurationsAgreeWithTheirDefinition) {
  std::mt19937_64 random(17);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int trial = 0; trial < 600; ++trial) {
    const int64_t stride = pick(1, 3), block = stride * pick(1, 3);
    const int64_t run = int64_t{1} << pick(0, 2);
    int64_t select_block = stride * run;
    while (select_block < block) select_block *= 2;
    const int64_t groups = pick(1, 3), initial = pick(0, 2), local = pick(1, 2);
    const AsaGlobalOptions options{
        .latent = {.d_model = pick(1, 8),
                   .n_heads = groups * pick(1, 2),
                   .groups = groups,
                   .head_dim = pick(1, 5),
                   .value_dim = pick(1, 5),
                   .latent_dim = pick(1, 6),
                   .rope_dim = 2 * pick(1, 2),
                   .query_latent_dim = pick(0, 1) * pick(1, 5),
                   .form = static_cast<LatentForm>(pick(0, 2)),
                   .rotary_part = pick(0, 7) != 0,
                   .normalize = pick(0, 7) != 0,
                   .rope_theta = pick(0, 7) == 0 ? 0.0 : 10000.0,
                   .norm_eps = 1e-3,
                   .init_std = 0.4},
        .block = block,
        .stride = stride,
        .select_block = select_block,
        .select_count = initial + local + pick(0, 3),
        .initial = initial,
        .local = local,
        .query_run = run,
        .branches = static_cast<AsaBranches>(pick(0, 5) > 2 ? 0 : pick(0, 2))};
    const int64_t batch = pick(1, 2), length = pick(1, 45);
    const auto layer = make_layer(options, static_cast<uint64_t>(trial));
    SCOPED_TRACE(::testing::Message()
                 << "trial " << trial << ": " << layer->describe() << " T " << length);
    const Tensor x = random_tensor({batch, length, options.latent.d_model}, DType::f64, trial);
    expect_agrees(*layer, x, oracle_of(*layer));
    if (options.branches != AsaBranches::compressed) {
      const auto inputs =
          reference::asa_selection_inputs(definition_of(*layer), parameters_of(*layer), x);
      const auto expected =
          reference::select_blocks(inputs.q, inputs.k, 0, length, selection_options(*layer));
      double gap = 1;
      for (const double one : expected.gap.to_vector<double>()) gap = std::min(gap, one);
      if (gap > 1e-9) expect_same_lists(layer->selection(Variable(x)), expected.selection);
    }
    const Tensor whole = forward(*layer, x);
    const auto cache = layer->make_cache(batch, length + pick(0, 3), DType::f64, kCpu);
    EXPECT_EQ(cache->bytes(), batch * layer->cache_bytes(cache->capacity(), DType::f64));
    for (int64_t t = 0; t < length;) {
      const int64_t end = std::min(length, t + (pick(0, 1) == 0 ? 1 : pick(1, 12)));
      const Tensor y = layer->prefill(Variable(x.slice(1, t, end)), *cache).data();
      EXPECT_LE(largest_difference(y, whole.slice(1, t, end)), 1e-11) << t << ".." << end;
      t = end;
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace weft::attention

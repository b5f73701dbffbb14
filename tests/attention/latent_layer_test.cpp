#include <gmock/gmock.h>

#include "weft/attention/full.h"
#include "weft/attention/latent_attention.h"
#include "weft/attention/registry.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/tensor/ops/matmul.h"

#include "attention_test_data.h"
#include "cost_formula.h"
#include "layer_test.h"
#include "reference/latent_reference.h"

namespace weft::attention {
namespace {

using testing::compare_with_oracle;
using testing::Draw;
using testing::forward;
using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;

std::unique_ptr<LatentAttention> make_layer(const LatentOptions& options, uint64_t seed = 7) {
  return testing::make_layer<LatentAttention>(options, seed);
}

testing::LayerOracle oracle_of(const LatentAttention& layer, int64_t position = 0) {
  const LatentOptions o = layer.options();
  return [o, position](const reference::Parameters& parameters, const Tensor& x, const Tensor& dy) {
    return reference::latent_layer({.heads = o.n_heads,
                                    .groups = o.groups,
                                    .head_dim = o.head_dim,
                                    .value_dim = o.value_dim,
                                    .latent_dim = o.latent_dim,
                                    .rope_dim = o.rope_dim,
                                    .rope_theta = o.rope_theta,
                                    .norm_eps = o.norm_eps,
                                    .window = o.window,
                                    .position = position},
                                   parameters, x, dy);
  };
}

const LatentOptions kSmall{.d_model = 20,
                           .n_heads = 4,
                           .groups = 2,
                           .head_dim = 6,
                           .value_dim = 5,
                           .latent_dim = 7,
                           .rope_dim = 4,
                           .init_std = 0.25};

TEST(LatentLayer, AgreesWithItsDefinitionInEveryTypeAndForm) {
  testing::ResultChecks checks;
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
      for (const int64_t groups : {1, 2, 4}) {
        for (const int64_t window : {0, 6}) {
          LatentOptions options = kSmall;
          options.groups = groups;
          options.window = window;
          options.form = form;
          options.query_latent_dim = groups == 2 ? 9 : 0;
          SCOPED_TRACE(::testing::Message()
                       << to_string(dtype) << " groups " << groups << " window " << window
                       << (form == LatentForm::naive ? " naive" : " absorbed"));
          const auto layer = make_layer(options);
          compare_with_oracle(*layer, random_tensor({2, 31, 20}, dtype, 1), oracle_of(*layer, 3),
                              checks[dtype], 3);
        }
      }
    }
  }
}

TEST(LatentLayer, OneGroupOfManyHoldsForGroupsOfOne) {
  // With the same tensors; grouped norms and products must not change a bit of the mathematics.
  LatentOptions options = kSmall;
  options.groups = 1;
  const auto one = make_layer(options);
  options.groups = 2;
  const auto two = make_layer(options);
  // Both groups of `two` compute what the only one of `one` does.
  StateDict state;
  for (const NamedTensor& entry : one->state_dict()) {
    Tensor value = entry.tensor.clone();
    if (entry.name == "kv_a_layernorm.weight") {
      value = from_vector(
          [&] {
            std::vector<float> twice = value.to_vector<float>();
            twice.insert(twice.end(), twice.begin(), twice.begin() + 7);
            return twice;
          }(),
          {14});
    } else if (entry.name == "kv_a_proj_with_mqa.weight") {
      std::vector<float> rows = value.to_vector<float>();
      rows.insert(rows.begin(), rows.begin(), rows.begin() + 7 * 20);
      value = from_vector(rows, {18, 20});
    }
    state.push_back({entry.name, value});
  }
  two->load_state_dict(state);
  one->to(DType::f64);
  two->to(DType::f64);
  const Tensor x = random_tensor({2, 17, 20}, DType::f64, 1);
  EXPECT_LE(largest_difference(forward(*one, x), forward(*two, x)), 1e-13);
}

TEST(LatentLayer, WindowAsLongAsTheSequenceIsNoWindow) {
  LatentOptions options = kSmall;
  const Tensor x = random_tensor({2, 30, 20}, DType::f32, 1);
  const Tensor full = forward(*make_layer(options), x);
  for (const int64_t window : {30, 1000000}) {
    options.window = window;
    EXPECT_TRUE(same_bits(forward(*make_layer(options), x), full)) << window;
  }
}

TEST(LatentLayer, SeesExactlyItsWindow) {
  for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
    LatentOptions options = kSmall;
    options.window = 5;
    options.form = form;
    testing::expect_sees_exactly(*make_layer(options), random_tensor({1, 18, 20}, DType::f32, 1),
                                 5);
  }
}

TEST(LatentLayer, WithIdentitiesItIsMultiHeadAttention) {
  // Latents hold all keys and values, kv_b_proj picks a head's.
  const int64_t heads = 3, dim = 4, width = 12;
  Generator generator(3);
  FullAttention full({.d_model = width, .n_heads = heads, .rope_theta = 0, .init_std = 0.5},
                     generator);
  const int64_t latent_dim = heads * 2 * dim;
  LatentAttention latent({.d_model = width,
                          .n_heads = heads,
                          .latent_dim = latent_dim,
                          .rotary_part = false,
                          .normalize = false},
                         generator);
  full.to(DType::f64);
  latent.to(DType::f64);
  Tensor pick = zeros({latent_dim, latent_dim}, DType::f64);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < dim; ++i) {
      pick.slice(0, (2 * h) * dim + i, (2 * h) * dim + i + 1)
          .slice(1, h * dim + i, h * dim + i + 1)
          .fill_(1);
      pick.slice(0, (2 * h + 1) * dim + i, (2 * h + 1) * dim + i + 1)
          .slice(1, (heads + h) * dim + i, (heads + h) * dim + i + 1)
          .fill_(1);
    }
  }
  Tensor down = empty({latent_dim, width}, DType::f64);
  down.slice(0, 0, width).copy_(full.parameter("k_proj.weight").data());
  down.slice(0, width, latent_dim).copy_(full.parameter("v_proj.weight").data());
  latent.load_state_dict({{"q_proj.weight", full.parameter("q_proj.weight").data()},
                          {"kv_a_proj_with_mqa.weight", down},
                          {"kv_b_proj.weight", pick},
                          {"o_proj.weight", full.parameter("o_proj.weight").data()}});
  const Tensor x = random_tensor({2, 21, width}, DType::f64, 1);
  EXPECT_LE(largest_difference(forward(latent, x), forward(full, x)), 1e-13);
}

TEST(LatentLayer, PositionsAreRelative) {
  const auto layer = make_layer(kSmall);
  layer->to(DType::f64);
  const Variable x(random_tensor({1, 12, 20}, DType::f64, 1));
  EXPECT_LE(largest_difference(layer->forward(x, {.position = 0}).data(),
                               layer->forward(x, {.position = 1000}).data()),
            1e-10);
}

TEST(LatentLayer, NamesAndSizesFollowDeepSeek) {
  const auto names_of = [](const LatentOptions& options) {
    return testing::parameter_list(*make_layer(options));
  };
  LatentOptions options = kSmall;
  options.groups = 1;
  EXPECT_THAT(names_of(options),
              ::testing::ElementsAre("q_proj.weight [40, 20]", "kv_a_proj_with_mqa.weight [11, 20]",
                                     "kv_a_layernorm.weight [7]", "kv_b_proj.weight [44, 7]",
                                     "o_proj.weight [20, 20]"));
  options.groups = 2;
  options.query_latent_dim = 9;
  EXPECT_THAT(names_of(options),
              ::testing::ElementsAre(
                  "q_a_proj.weight [9, 20]", "q_a_layernorm.weight [9]", "q_b_proj.weight [40, 9]",
                  "kv_a_proj_with_mqa.weight [18, 20]", "kv_a_layernorm.weight [14]",
                  "kv_b_proj.weight [44, 7]", "o_proj.weight [20, 20]"));
}

TEST(LatentLayer, FillsInWhatIsNotGiven) {
  const LatentOptions o =
      make_layer({.d_model = 96, .n_heads = 8, .groups = 2, .n_kv_heads = 4})->options();
  EXPECT_EQ(o.head_dim, 12);
  EXPECT_EQ(o.value_dim, 12);
  EXPECT_EQ(o.latent_dim, 24);  // 4 heads of 12 in two groups
  EXPECT_EQ(o.rope_dim, 6);
  EXPECT_EQ(make_layer({.d_model = 24, .n_heads = 4})->options().rope_dim, 4);  // 3, made even
  EXPECT_EQ(make_layer({.d_model = 4, .n_heads = 4})->options().rope_dim, 2);
}

TEST(LatentLayer, CountsFlopsAndCacheBytes) {
  LatentOptions options = kSmall;  // E 20, H 4, G 2, Dn 6, Dv 5, Dc 7, Dr 4
  const auto naive = make_layer(options);
  EXPECT_DOUBLE_EQ(naive->forward_cost(10).projection_flops,
                   10 * (2.0 * 20 * (4 * 10 + 2 * 7 + 4) + 2.0 * 7 * 4 * 11 + 2.0 * 4 * 5 * 20));
  EXPECT_DOUBLE_EQ(naive->forward_cost(10).core_flops, 55 * 2.0 * 4 * (10 + 5));
  EXPECT_DOUBLE_EQ(naive->step_cost(9).core_flops, 10 * 2.0 * 4 * (2 * 7 + 4));
  EXPECT_EQ(naive->cache_bytes(100, DType::bf16), 100 * (2 * 7 + 4) * 2);
  options.form = LatentForm::absorbed;
  options.window = 6;
  options.query_latent_dim = 9;
  const auto windowed = make_layer(options);
  EXPECT_DOUBLE_EQ(
      windowed->forward_cost(10).projection_flops,
      10 * (2.0 * 20 * (9 + 2 * 7 + 4) + 2.0 * 9 * 40 + 2.0 * 7 * 4 * 11 + 2.0 * 4 * 5 * 20));
  EXPECT_DOUBLE_EQ(windowed->forward_cost(10).core_flops, (60 - 15) * 2.0 * 4 * (2 * 7 + 4));
  EXPECT_DOUBLE_EQ(windowed->step_cost(9).core_flops, 6 * 2.0 * 4 * (2 * 7 + 4));
  EXPECT_EQ(windowed->cache_bytes(100, DType::f32), 6 * (2 * 7 + 4) * 4);
  EXPECT_EQ(windowed->make_cache(3, 100, DType::f32, kCpu)->bytes(), 3 * 6 * (2 * 7 + 4) * 4);
}

TEST(LatentLayer, FormulasGiveItsCosts) {
  for (const int64_t window : {0, 4, 10, 30}) {
    for (const int64_t query_latent : {0, 9}) {
      SCOPED_TRACE(::testing::Message() << window << " " << query_latent);
      LatentOptions options = kSmall;
      options.window = window;
      options.query_latent_dim = query_latent;
      const auto layer = make_layer(options);
      const auto seen = static_cast<double>(std::min<int64_t>(window, 10));
      const std::map<std::string, double> symbols = {
          {"T", 10},
          {"S", 9},
          {"E", 20},
          {"H", 4},
          {"Dv", 5},
          {"s", 2},
          {"G", 2},
          {"Dc", 7},
          {"Dn", 6},
          {"Dr", 4},
          {"M", seen},
          {"N", seen},
          {"Q", query_latent == 0 ? 20 * 40 : 9 * (20 + 40)}};
      const auto formula = [&](const char* of) {
        return testing::cost_by_formula(window == 0 ? gla_mechanism() : asa_local_mechanism(), of,
                                        symbols);
      };
      const nn::MixerCost forward = layer->forward_cost(10), step = layer->step_cost(9);
      EXPECT_DOUBLE_EQ(formula("forward, projections (FLOPs)"), forward.projection_flops);
      EXPECT_DOUBLE_EQ(formula("forward, attention (FLOPs)"), forward.core_flops);
      EXPECT_DOUBLE_EQ(formula("backward, projections (FLOPs)"), 2 * forward.projection_flops);
      // Three products as wide as keys and two as wide as values, instead of one each.
      EXPECT_DOUBLE_EQ(formula("backward, attention (FLOPs)"), forward.core_flops / 15 * 40);
      EXPECT_DOUBLE_EQ(formula("decoding one token, projections (FLOPs)"), step.projection_flops);
      EXPECT_DOUBLE_EQ(formula("decoding one token, attention (FLOPs)"), step.core_flops);
      EXPECT_DOUBLE_EQ(formula("cache per token kept (bytes)"),
                       static_cast<double>(layer->cache_bytes(1, DType::bf16)));
    }
  }
}

TEST(LatentLayer, DecodesInLowPrecision) {
  for (const int64_t window : {0, 6}) {
    LatentOptions options = kSmall;
    options.window = window;
    testing::expect_decodes_in_bf16(*make_layer(options),
                                    random_tensor({2, 30, 20}, DType::bf16, 1));
  }
}

TEST(LatentLayer, LargeScoresStayFinite) {
  LatentOptions options = kSmall;
  options.init_std = 30;
  for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
    options.form = form;
    testing::expect_finite(*make_layer(options), random_tensor({1, 40, 20}, DType::f32, 1));
  }
}

TEST(LatentLayer, RefusesWhatDoesNotFit) {
  const auto message = [](const LatentOptions& options) {
    return message_of<ConfigError>([&] { make_layer(options); });
  };
  EXPECT_EQ(message({.d_model = 32, .n_heads = 4, .groups = 3}),
            "grouped latent attention: n_heads (4) must be a multiple of groups (3)");
  EXPECT_EQ(message({.d_model = 32, .n_heads = 4, .n_kv_heads = 3}),
            "latent attention: n_heads (4) must be a multiple of n_kv_heads (3)");
  message({.n_heads = 4, .n_kv_heads = -1});
  EXPECT_EQ(message({.d_model = 32, .n_heads = 4, .rope_dim = 3}),
            "latent attention: rope_dim must be even and at least 2, got 3");
  EXPECT_EQ(message({.d_model = 30, .n_heads = 4}),
            "latent attention: d_model (30) must be a multiple of n_heads (4) unless head_dim is "
            "given");
  EXPECT_EQ(message({.window = -3}), "latent attention: window must be at least 0, got -3");
  message({.d_model = 0});
  message({.n_heads = 0});
  message({.groups = 0});
  message({.head_dim = -1});
  message({.value_dim = -1});
  message({.latent_dim = -1});
  message({.rope_dim = -2});
  message({.query_latent_dim = -1});
  message({.rope_theta = -1});
  message({.norm_eps = -1});
  message({.init_std = 0});

  const auto from_registry = [](const char* name, const char* option) {
    Generator generator(1);
    return message_of<ConfigError>([&] {
      make_mixer_factory(
          {.shape = {.d_model = 24, .n_heads = 4}, .schedule = name, .options = {option}},
          generator)(0);
    });
  };
  EXPECT_EQ(from_registry("gla", "groups=3"),
            "grouped latent attention: n_heads (4) must be a multiple of groups (3)");
  EXPECT_EQ(from_registry("mla", "rope-dim=5"),
            "latent attention: rope_dim must be even and at least 2, got 5");
  EXPECT_EQ(from_registry("asa-local", "window=0"),
            "attention asa-local: window must be an integer of at least 1 up to 1073741824, got "
            "\"0\"");
  EXPECT_THAT(from_registry("mla", "form=fast"),
              ::testing::HasSubstr("form must be one of auto, naive, absorbed, got \"fast\""));

  const auto layer = make_layer(kSmall);
  const auto cache = layer->make_cache(1, 4, DType::bf16, kCpu);
  const Variable x(zeros({1, 2, 20}));
  message_of<DTypeError>([&] { layer->prefill(x, *cache); });
  Generator generator(1);
  FullAttention full({.d_model = 20, .n_heads = 2}, generator);
  message_of<ConfigError>([&] { full.prefill(x, *cache); });
  message_of<ConfigError>([&] { layer->prefill(x, *full.make_cache(1, 4, DType::f32, kCpu)); });
  message_of<ConfigError>([&] { layer->make_cache(1, 0, DType::f32, kCpu); });
}

// Random shapes of all kinds: both forms against the oracle, and decoded in random pieces.
TEST(SlowLatentLayer, RandomConfigurationsAgreeWithTheirDefinition) {
  Draw draw(13);
  testing::ResultChecks checks;
  for (int trial = 0; trial < 2000 && !HasFailure(); ++trial) {
    const int64_t groups = trial % 3 == 0 ? 1 : draw(2, 3);
    const LatentOptions options{.d_model = draw(1, 10),
                                .n_heads = groups * draw(1, 3),
                                .groups = groups,
                                .head_dim = draw(1, 6),
                                .value_dim = draw(1, 6),
                                .latent_dim = draw(1, 8),
                                .rope_dim = 2 * draw(1, 3),
                                .query_latent_dim = draw(0, 1) * draw(1, 5),
                                .window = trial % 2 == 0 ? 0 : draw(1, 20),
                                .form = draw.one_in(2) ? LatentForm::naive : LatentForm::absorbed,
                                .rotary_part = !draw.one_in(8),
                                .normalize = !draw.one_in(8),
                                .rope_theta = draw.one_in(8) ? 0.0 : 10000.0,
                                .norm_eps = 1e-3,
                                .init_std = 0.4};
    const int64_t batch = draw(1, 2), length = draw(1, 30);
    const DType dtype = draw.of<DType>({DType::f64, DType::f64, DType::f32, DType::bf16});
    const auto layer = make_layer(options, static_cast<uint64_t>(trial) + 1);
    SCOPED_TRACE(::testing::Message() << "trial " << trial << ": " << layer->describe() << " T "
                                      << length << " " << to_string(dtype));
    const Tensor x = random_tensor({batch, length, options.d_model}, dtype, trial);
    compare_with_oracle(*layer, x, oracle_of(*layer), checks[dtype]);
    if (dtype != DType::bf16) testing::expect_decodes_in_pieces(*layer, x, draw);
  }
}

}  // namespace
}  // namespace weft::attention

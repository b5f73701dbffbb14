// Laws that hold between layers, or for a layer whose input or weights change in a way that must
// not matter: on the small shape, and on random ones. README.md says where the others stand.
#include "weft/attention/full.h"
#include "weft/attention/kernels/latent_attention.h"
#include "weft/attention/latent_attention.h"
#include "weft/attention/registry.h"
#include "weft/tensor/ops/join.h"

#include "asa_test_data.h"
#include "nsa_test_data.h"
#include "reference/attention_reference.h"
#include "selection_test_data.h"

namespace weft::attention {
namespace {

using testing::all_results;
using testing::Draw;
using testing::forward;
using testing::largest_difference;
using testing::layer_difference;
using testing::lists_of;
using testing::make_asa;
using testing::make_layer;
using testing::make_nsa;
using testing::random_tensor;
using testing::root_mean_square;
using testing::same_bits;

constexpr int64_t kWidth = 16;

std::unique_ptr<nn::SequenceMixer> from_registry(const char* name,
                                                 const std::vector<std::string>& options,
                                                 DType dtype) {
  Generator generator(3);
  auto layer = make_mixer_factory(
      {.shape = {.d_model = kWidth, .n_heads = 4, .n_layers = 1, .init_std = 0.3},
       .schedule = name,
       .options = options},
      generator)(0);
  layer->to(dtype);
  return layer;
}

void expect_same_results(nn::SequenceMixer& a, nn::SequenceMixer& b, const Tensor& x,
                         double tolerance) {
  const std::vector<Tensor> y = all_results(a, x), z = all_results(b, x);
  ASSERT_EQ(y.size(), z.size());
  for (size_t i = 0; i < y.size(); ++i) EXPECT_LE(layer_difference(y[i], z[i]), tolerance) << i;
}

// Reductions.

TEST(Invariants, RepeatedKeyHeadsAreGroupedQueries) {
  Draw draw(1);
  for (int trial = 0; trial < 60; ++trial) {
    const int64_t kv_heads = draw(1, 3), repeats = trial == 0 ? 1 : draw(1, 3),
                  dim = 2 * draw(1, 5);
    const int64_t heads = kv_heads * repeats;
    FullAttentionOptions options{.d_model = kWidth,
                                 .n_heads = heads,
                                 .n_kv_heads = kv_heads,
                                 .head_dim = dim,
                                 .window = draw(0, 1) * draw(1, 9),
                                 .init_std = 0.3};
    const auto grouped = make_layer<FullAttention>(options);
    options.n_kv_heads = heads;
    const auto all = make_layer<FullAttention>(options);
    const auto repeat = [&](const Tensor& weight) {
      return weight.view({kv_heads, 1, dim, kWidth})
          .expand({kv_heads, repeats, dim, kWidth})
          .reshape({heads * dim, kWidth});
    };
    StateDict state = grouped->state_dict();
    for (NamedTensor& entry : state) {
      if (entry.name[0] == 'k' || entry.name[0] == 'v') entry.tensor = repeat(entry.tensor);
    }
    all->load_state_dict(state);
    grouped->to(DType::f64);
    all->to(DType::f64);
    const Tensor x = random_tensor({2, draw(1, 40), kWidth}, DType::f64, draw(1, 1000));
    const std::vector<Tensor> a = all_results(*grouped, x), b = all_results(*all, x);
    EXPECT_LE(layer_difference(a[0], b[0]), 1e-12);
    EXPECT_LE(layer_difference(a[1], b[1]), 1e-12);
    for (const char* name : {"k_proj.weight", "v_proj.weight"}) {
      const std::vector<double> sum = grouped->parameter(name).grad().to_vector<double>();
      const std::vector<double> parts = all->parameter(name).grad().to_vector<double>();
      const int64_t head = dim * kWidth;
      for (int64_t i = 0; i < kv_heads * head; ++i) {
        double expected = 0;
        for (int64_t r = 0; r < repeats; ++r)
          expected += parts[(i / head * repeats + r) * head + i % head];
        ASSERT_NEAR(sum[i], expected, 1e-11) << name;
      }
    }
  }
}

TEST(Invariants, NaiveAndAbsorbedFormsAgreeInEveryGradient) {
  Draw draw(2);
  for (int trial = 0; trial < 100; ++trial) {
    const int64_t groups = draw(1, 3);
    LatentOptions options{.d_model = kWidth,
                          .n_heads = groups * draw(1, 3),
                          .groups = groups,
                          .head_dim = draw(1, 8),
                          .value_dim = draw(1, 8),
                          .latent_dim = draw(1, 9),
                          .rope_dim = 2 * draw(1, 3),
                          .query_latent_dim = draw(0, 1) * draw(1, 7),
                          .window = draw(0, 1) * draw(1, 9),
                          .form = LatentForm::naive,
                          .norm_eps = 1e-3,
                          .init_std = 0.3};
    const auto naive = make_layer<LatentAttention>(options);
    options.form = LatentForm::absorbed;
    const auto absorbed = make_layer<LatentAttention>(options);
    naive->to(DType::f64);
    absorbed->to(DType::f64);
    SCOPED_TRACE(naive->describe());
    expect_same_results(*naive, *absorbed,
                        random_tensor({2, draw(1, 40), kWidth}, DType::f64, draw(1, 1000)), 1e-12);
  }
}

TEST(Invariants, OneGroupIsMultiHeadLatentAttention) {
  for (const char* form : {"form=naive", "form=absorbed"}) {
    const auto mla = from_registry("mla", {form}, DType::f32);
    const auto gla = from_registry("gla", {form, "groups=1"}, DType::f32);
    const auto local = from_registry("asa-local", {form, "window=31"}, DType::f32);
    const Tensor x = random_tensor({2, 31, kWidth}, DType::f32, 1);
    expect_same_results(*mla, *gla, x, 0);
    expect_same_results(*mla, *local, x, 0);  // a window that holds all tokens
  }
}

/// The compressed branch with the keys and values of every head made first, then their means.
Tensor expand_then_compress(const AsaGlobal& layer, const Tensor& x) {
  const reference::AsaGlobalLayer definition = testing::definition_of(layer);
  const reference::LatentLayer& latent = definition.latent;
  const reference::Parameters parameters = testing::parameters_of(layer);
  const int64_t batch = x.size(0), key_width = latent.head_dim + latent.rope_dim;
  const reference::LatentRows rows = reference::latent_rows(latent, parameters, x);
  const reference::HeadKeys heads =
      reference::expand_latents(latent, parameters, rows.latents, rows.rope_keys_raw);
  const auto means = [&](const Tensor& of) {
    return block_pool_forward(of, {definition.block, definition.stride});
  };
  const reference::Matrix k =
      reference::merged(means(reference::heads(heads.k, batch, latent.heads)));
  const Tensor v = means(reference::heads(heads.v, batch, latent.heads));
  reference::Matrix turned(k.rows, 0);
  for (int64_t h = 0; h < latent.heads; ++h) {
    const int64_t begin = h * key_width, middle = begin + latent.head_dim;
    turned = reference::beside(turned, k.part(begin, middle));
    turned = reference::beside(
        turned, reference::rotate(k.part(middle, begin + key_width), v.size(1), latent.rope_dim,
                                  latent.rope_theta, 0, false, definition.stride));
  }
  const Tensor o = reference::attention_forward(reference::heads(rows.q, batch, latent.heads),
                                                reference::heads(turned, batch, latent.heads), v,
                                                {.scale = latent.scale(),
                                                 .position = 0,
                                                 .key_length = definition.block,
                                                 .key_stride = definition.stride})
                       .o;
  return reference::times_transposed(reference::merged(o),
                                     reference::Matrix(parameters.at("o_proj.weight")))
      .tensor(x.shape());
}

TEST(Invariants, MeansOfLatentsAreLatentsOfMeans) {
  for (uint64_t seed = 0; seed <= 60; ++seed) {
    Draw draw(seed);
    AsaGlobalOptions options = seed == 0 ? testing::small_asa() : testing::random_asa(draw);
    options.compressor = CompressorKind::mean;
    options.branches = AsaBranches::compressed;
    options.latent.rotary_part = true;
    options.latent.rope_theta = 10000;
    const int64_t length = draw(options.block, 50);
    for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
      options.latent.form = form;
      const auto layer = make_asa(options);
      layer->to(DType::f64);
      testing::open_gates(*layer);
      const Tensor x = random_tensor({2, length, options.latent.d_model}, DType::f64, seed);
      EXPECT_LE(layer_difference(forward(*layer, x), expand_then_compress(*layer, x)), 1e-12)
          << layer->describe();
    }
  }
}

// Lists do not change where all scores of a row do alike.

/// Tokens whose first channel is 1.
Tensor with_constant_channel(const Shape& shape, uint64_t seed) {
  Tensor x = random_tensor(shape, DType::f64, seed);
  x.slice(2, 0, 1).fill_(1);
  return x;
}

/// Adds a random vector to what `weight` [N, E] makes of the first channel, in rows [0, n).
void shift_products(Variable weight, int64_t n, uint64_t seed) {
  weight.mutable_data().slice(0, 0, n).slice(1, 0, 1).copy_(
      random_tensor({n, 1}, DType::f64, seed, 3));
}
void shift_bias(Variable bias, uint64_t seed) {
  bias.mutable_data().copy_(random_tensor(bias.shape(), DType::f64, seed, 3));
}

TEST(Invariants, ListsOfNsaKeepAConstantAddedToTheScoresOfARow) {
  for (uint64_t seed = 0; seed <= 150; ++seed) {
    Draw draw(seed);
    NsaOptions options = seed == 0 ? testing::tiny_nsa() : testing::random_nsa(draw);
    options.branches = {true, true, true};
    // Keys that do not turn move alike by what is added to all of them.
    options.compressed_rope = CompressedRope::none;
    const auto layer = make_nsa(options);
    layer->to(DType::f64);
    const Variable x(
        with_constant_channel({2, seed == 0 ? 64 : draw(1, 90), options.d_model}, seed));
    const auto before = lists_of(*layer->parts(x, {}).selection);
    if (options.compressor == CompressorKind::mlp) {
      shift_bias(layer->parameter("k_compressor.down.bias"), seed);
    } else {
      const Variable keys =
          layer->parameter(options.shared_kv ? "k_proj.weight" : "k_proj_cmp.weight");
      shift_products(keys, keys.size(0), seed);
    }
    EXPECT_EQ(lists_of(*layer->parts(x, {}).selection), before) << layer->describe();
  }
}

TEST(Invariants, ListsOfAsaKeepAConstantAddedToTheScoresOfARow) {
  for (uint64_t seed = 0; seed <= 150; ++seed) {
    Draw draw(seed);
    AsaGlobalOptions options = seed == 0 ? testing::small_asa() : testing::random_asa(draw);
    options.branches = AsaBranches::both;
    options.latent.normalize = false;
    const auto layer = make_asa(options);
    layer->to(DType::f64);
    const Variable x(
        with_constant_channel({2, seed == 0 ? 64 : draw(1, 90), options.latent.d_model}, seed));
    const auto before = lists_of(layer->selection(x));
    if (options.compressor == CompressorKind::mlp) {
      shift_bias(layer->parameter("latent_compressor.down.bias"), seed);
    } else {
      shift_products(layer->parameter("kv_a_proj_with_mqa.weight"),
                     options.latent.groups * options.latent.latent_dim, seed);
    }
    EXPECT_EQ(lists_of(layer->selection(x)), before) << layer->describe();
  }
}

TEST(Invariants, ListsKeepTheScaleOfValues) {
  for (uint64_t seed = 0; seed <= 100; ++seed) {
    Draw draw(seed);
    NsaOptions options = seed == 0 ? testing::tiny_nsa() : testing::random_nsa(draw);
    options.branches = {true, true, true};
    const auto layer = make_nsa(options);
    const Variable x(
        random_tensor({2, seed == 0 ? 64 : draw(1, 90), options.d_model}, DType::f32, seed));
    const auto before = lists_of(*layer->parts(x, {}).selection);
    for (const auto& [name, parameter] : layer->named_parameters()) {
      if (name.find("v_proj") == std::string::npos) continue;
      Variable weight = parameter;
      weight.mutable_data().copy_(random_tensor(weight.shape(), DType::f32, seed + 1, 5));
    }
    EXPECT_EQ(lists_of(*layer->parts(x, {}).selection), before) << layer->describe();
  }
}

// The order of the rows in a ring.

/// Decodes the same tokens behind beginnings of different lengths: their rows then lie at other
/// places of the ring, and the window holds none of what differs.
void expect_any_rotation_agrees(nn::SequenceMixer& layer, int64_t window, int64_t width,
                                uint64_t seed) {
  constexpr int64_t kSteps = 4;
  layer.to(DType::f64);
  const Tensor tail = random_tensor({2, window + kSteps, width}, DType::f64, seed);
  Tensor expected;
  for (int64_t shift = 0; shift < window; ++shift) {
    const int64_t before = window + shift;
    const auto cache = layer.make_cache(2, before + window + kSteps, DType::f64, kCpu);
    layer.prefill(Variable(random_tensor({2, before, width}, DType::f64, seed + 1 + before)),
                  *cache);
    for (int64_t i = 0; i < window; ++i) layer.step(Variable(tail.slice(1, i, i + 1)), *cache);
    std::vector<Tensor> rows;
    for (int64_t i = window; i < window + kSteps; ++i)
      rows.push_back(layer.step(Variable(tail.slice(1, i, i + 1)), *cache).data());
    const Tensor y = cat(rows, 1);
    if (shift == 0) expected = y;
    EXPECT_LE(layer_difference(y, expected), 1e-12) << "ring turned by " << shift;
  }
}

TEST(Invariants, TurningTheRingOfAWindowChangesNothing) {
  for (uint64_t seed = 0; seed <= 60; ++seed) {
    Draw draw(seed);
    const int64_t window = seed == 0 ? 5 : draw(1, 12), groups = draw(1, 2);
    SCOPED_TRACE(::testing::Message() << "seed " << seed << " window " << window);
    expect_any_rotation_agrees(*make_layer<FullAttention>(FullAttentionOptions{
                                   .d_model = kWidth,
                                   .n_heads = 4,
                                   .n_kv_heads = 2,
                                   .head_dim = 2 * draw(1, 5),
                                   .rope_theta = draw.one_in(3) ? 0.0 : 10000.0,
                                   .window = window,
                                   .init_std = 0.3}),
                               window, kWidth, seed);
    expect_any_rotation_agrees(
        *make_layer<LatentAttention>(LatentOptions{.d_model = kWidth,
                                                   .n_heads = 2 * groups,
                                                   .groups = groups,
                                                   .head_dim = draw(1, 8),
                                                   .value_dim = draw(1, 6),
                                                   .latent_dim = draw(1, 9),
                                                   .rope_dim = 2 * draw(1, 3),
                                                   .window = window,
                                                   .init_std = 0.3}),
        window, kWidth, seed);
    NsaOptions options = testing::tiny_nsa();
    options.window = window;
    options.branches = {false, false, true};
    expect_any_rotation_agrees(*make_nsa(options), window, kWidth, seed);
  }
}

TEST(Invariants, KeysInAnyOrderGiveTheSameSums) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (const int64_t keys : {1, 2, 5, 17, 64, 600, 1300}) {
      const Tensor q = random_tensor({2, 1, 4, 8}, dtype, 1),
                   k = random_tensor({2, keys, 2, 8}, dtype, 2),
                   v = random_tensor({2, keys, 2, 6}, dtype, 3),
                   q_rope = random_tensor({2, 1, 4, 4}, dtype, 4),
                   rope = random_tensor({2, keys, 1, 4}, dtype, 5);
      const FlashAttentionOptions options{.causal = false, .scale = 0.3};
      const auto plain = flash_attention_forward(q, k, v, options);
      const auto latent = latent_attention_forward(q, q_rope, k, rope, options);
      for (const int64_t turn : {int64_t{1}, keys / 3, keys - 1}) {
        const auto turned = [&](const Tensor& x) {
          return cat({x.slice(1, turn, keys), x.slice(1, 0, turn)}, 1);
        };
        const double tolerance = testing::layer_tolerance(dtype);
        const auto a = flash_attention_forward(q, turned(k), turned(v), options);
        const auto b = latent_attention_forward(q, q_rope, turned(k), turned(rope), options);
        EXPECT_LE(largest_difference(a.o, plain.o), tolerance) << keys;
        EXPECT_LE(largest_difference(a.lse, plain.lse), tolerance) << keys;
        EXPECT_LE(largest_difference(b.o, latent.o), tolerance) << keys;
        EXPECT_LE(largest_difference(b.lse, latent.lse), tolerance) << keys;
      }
    }
  }
}

// Norms of latent vectors.

/// <dW, W> = sum over tokens of <da, a> for a = x W^T, relative to the sizes of both.
double along(const Tensor& gradient, const Tensor& weight) {
  const std::vector<double> d = gradient.to_vector<double>(), w = weight.to_vector<double>();
  double product = 0;
  for (size_t i = 0; i < d.size(); ++i) product += d[i] * w[i];
  const auto count = static_cast<double>(d.size());
  return product / (count * root_mean_square(gradient) * root_mean_square(weight) + 1e-6);
}

/// A norm forgets the length of its rows, so that the gradient of what makes them stands across.
/// One token and sequence: by row; several: their sum.
void expect_gradients_across(LatentMixer& layer, int64_t tokens, uint64_t seed) {
  const LatentOptions& o = layer.options();
  layer.to(DType::f64);
  all_results(layer, random_tensor({tokens > 1 ? 2 : 1, tokens, o.d_model}, DType::f64, seed));
  const Variable down = layer.parameter("kv_a_proj_with_mqa.weight");
  for (int64_t g = 0; g < o.groups; ++g) {
    const auto part = [&](const Tensor& x) {
      return x.slice(0, g * o.latent_dim, (g + 1) * o.latent_dim);
    };
    EXPECT_LE(std::abs(along(part(down.grad()), part(down.data()))), 1e-9)
        << layer.describe() << " group " << g << " tokens " << tokens;
  }
  if (o.query_latent_dim > 0) {
    const Variable query = layer.parameter("q_a_proj.weight");
    EXPECT_LE(std::abs(along(query.grad(), query.data())), 1e-9) << layer.describe();
  }
}

TEST(Invariants, GradientsBehindNormsStandAcrossTheirRows) {
  for (uint64_t seed = 0; seed <= 100; ++seed) {
    Draw draw(seed);
    AsaGlobalOptions options = seed == 0 ? testing::small_asa() : testing::random_asa(draw);
    options.latent.normalize = true;
    options.latent.norm_eps = 0;
    for (const int64_t tokens : {int64_t{1}, seed == 0 ? 64 : draw(2, 40)}) {
      expect_gradients_across(*make_asa(options), tokens, seed);
      LatentOptions latent = options.latent;
      latent.window = draw(0, 1) * draw(1, 9);
      expect_gradients_across(*make_layer<LatentAttention>(latent), tokens, seed);
    }
  }
}

}  // namespace
}  // namespace weft::attention

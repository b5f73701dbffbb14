#include "weft/attention/nsa.h"

#include <cmath>

#include <gmock/gmock.h>

#include "weft/attention/full.h"
#include "weft/attention/registry.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/autograd/functions/view.h"
#include "weft/autograd/grad_check.h"
#include "weft/tensor/ops/matmul.h"

#include "nsa_test_data.h"

namespace weft::attention {
namespace {

using autograd::grad_check;
using testing::compare_with_definition;
using testing::forward;
using testing::largest_difference;
using testing::make_nsa;
using testing::message_of;
using testing::nsa_variants;
using testing::random_tensor;
using testing::root_mean_square;
using testing::same_bits;
using testing::tiny_nsa;

TEST(Nsa, AgreesWithItsDefinition) {
  testing::ResultCheck check(DType::f64);
  for (const NsaOptions& options : nsa_variants()) {
    const auto layer = make_nsa(options);
    for (const int64_t length : {1, 3, 4, 15, 16, 17, 29, 31, 64}) {
      SCOPED_TRACE(::testing::Message() << layer->describe() << " T=" << length);
      compare_with_definition(*layer, random_tensor({2, length, 16}, DType::f64, 1), check, 3);
    }
  }
}

TEST(Nsa, AgreesWithItsDefinitionInLowerPrecision) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    testing::ResultCheck check(dtype);
    for (const NsaOptions& options : nsa_variants()) {
      const auto layer = make_nsa(options);
      for (const int64_t length : {15, 29, 64}) {
        SCOPED_TRACE(::testing::Message()
                     << to_string(dtype) << " " << layer->describe() << " T=" << length);
        compare_with_definition(*layer, random_tensor({2, length, 16}, dtype, 1), check);
      }
    }
  }
}

TEST(Nsa, DefaultsAgreeWithTheirDefinitionOverManyBlocks) {
  const auto layer = make_nsa({.d_model = 24, .n_heads = 4, .n_kv_heads = 2, .init_std = 0.3});
  testing::ResultCheck check(DType::f64);
  compare_with_definition(*layer, random_tensor({1, 275, 24}, DType::f64, 1), check);
}

// Reductions to other mechanisms.

/// Full or windowed attention with the weights of one branch.
std::unique_ptr<FullAttention> branch_alone(const NativeSparseAttention& layer, const char* branch,
                                            int64_t window) {
  const NsaOptions& o = layer.options();
  Generator generator(1);
  auto alone = std::make_unique<FullAttention>(FullAttentionOptions{.d_model = o.d_model,
                                                                    .n_heads = o.n_heads,
                                                                    .n_kv_heads = o.n_kv_heads,
                                                                    .head_dim = o.head_dim,
                                                                    .window = window},
                                               generator);
  alone->to(DType::f64);
  StateDict state;
  const auto take = [&](const std::string& from, const char* to) {
    state.push_back({to, layer.parameter(from).data()});
  };
  take("q_proj.weight", "q_proj.weight");
  take(std::string("k_proj_") + branch + ".weight", "k_proj.weight");
  take(std::string("v_proj_") + branch + ".weight", "v_proj.weight");
  take("o_proj.weight", "o_proj.weight");
  alone->load_state_dict(state);
  return alone;
}

void expect_same_layer(NativeSparseAttention& layer, FullAttention& other, const char* branch,
                       const Tensor& x) {
  const Tensor dy = random_tensor(x.shape(), x.dtype(), 5);
  const Variable a(x, true), b(x, true);
  const Variable y = layer.forward(a, {.position = 2}), z = other.forward(b, {.position = 2});
  EXPECT_LE(largest_difference(y.data(), z.data()), 1e-12);
  layer.zero_grad();
  y.backward(dy);
  z.backward(dy);
  EXPECT_LE(largest_difference(a.grad(), b.grad()), 1e-11);
  const std::string k = std::string("k_proj_") + branch + ".weight";
  EXPECT_LE(largest_difference(layer.parameter(k).grad(), other.parameter("k_proj.weight").grad()),
            1e-11);
}

TEST(Nsa, WindowBranchAloneIsSlidingWindowAttention) {
  NsaOptions options = tiny_nsa();
  options.value_dim = options.head_dim;
  const auto layer = make_nsa(options);
  layer->to(DType::f64);
  layer->fix_gates({{0, 0, 1}});
  for (const int64_t length : {1, 5, 6, 40}) {
    expect_same_layer(*layer, *branch_alone(*layer, "win", options.window), "win",
                      random_tensor({2, length, 16}, DType::f64, 1));
  }
}

TEST(Nsa, AllBlocksSelectedAreFullAttention) {
  NsaOptions options = tiny_nsa();
  options.value_dim = options.head_dim;
  options.select_count = 5;
  const auto layer = make_nsa(options);
  layer->to(DType::f64);
  layer->fix_gates({{0, 1, 0}});
  for (const int64_t length : {1, 7, 8, 40}) {
    expect_same_layer(*layer, *branch_alone(*layer, "slc", 0), "slc",
                      random_tensor({2, length, 16}, DType::f64, 1));
  }
}

TEST(Nsa, BlocksOfOneTokenAreFullAttention) {
  NsaOptions options = tiny_nsa();
  options.value_dim = options.head_dim;
  options.block = options.stride = 1;
  const auto layer = make_nsa(options);
  layer->to(DType::f64);
  layer->fix_gates({{1, 0, 0}});
  expect_same_layer(*layer, *branch_alone(*layer, "cmp", 0), "cmp",
                    random_tensor({2, 40, 16}, DType::f64, 1));
}

TEST(Nsa, FixedGatesChooseBranches) {
  const auto layer = make_nsa(tiny_nsa());
  layer->to(DType::f64);
  const Tensor x = random_tensor({2, 33, 16}, DType::f64, 1);
  const auto parts = layer->parts(Variable(x), {});
  for (size_t c = 0; c < 3; ++c) {
    std::array<double, 3> gates{};
    gates[c] = 1;
    layer->fix_gates(gates);
    const Tensor o = parts.branches[c].data().view({2, 33, 4 * 6});
    const Tensor expected =
        matmul(o, layer->parameter("o_proj.weight").data(), {.transpose_b = true});
    EXPECT_LE(largest_difference(forward(*layer, x), expected), 1e-14);
  }
}

TEST(Nsa, LayersOfOneBranchEqualThatBranch) {
  const auto all = make_nsa(tiny_nsa());
  const Tensor x = random_tensor({1, 50, 16}, DType::f32, 1);
  const auto parts = all->parts(Variable(x), {});
  for (size_t c = 0; c < 3; ++c) {
    NsaOptions options = tiny_nsa();
    options.branches = {c == 0, c == 1, c == 2};
    const auto one = make_nsa(options);
    StateDict state;
    for (const auto& [name, parameter] : one->named_parameters()) {
      if (name.find("gate") == std::string::npos)
        state.push_back({name, all->parameter(name).data()});
    }
    one->load_state_dict(state, /*strict=*/false);
    const auto alone = one->parts(Variable(x), {});
    EXPECT_LE(largest_difference(alone.branches[c].data(), parts.branches[c].data()), 1e-5) << c;
    EXPECT_FALSE(alone.branches[(c + 1) % 3].defined());
  }
}

// Lists.

TEST(Nsa, ListsHoldForcedBlocksAndNothingBehindTheQuery) {
  for (const NsaOptions& options : nsa_variants()) {
    if (!options.branches[1]) continue;
    const auto layer = make_nsa(options);
    const auto parts = layer->parts(Variable(random_tensor({2, 61, 16}, DType::f32, 1)), {});
    ASSERT_TRUE(parts.selection.has_value());
    EXPECT_EQ(parts.selection->shape().groups, layer->options().n_kv_heads);
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t g = 0; g < layer->options().n_kv_heads; ++g) {
        for (int64_t t = 0; t < 61; ++t) {
          const auto list = parts.selection->list(b, g, t);
          const int64_t own = t / options.select_block;
          EXPECT_EQ(static_cast<int64_t>(list.size()), std::min(options.select_count, own + 1));
          const auto has = [&](int64_t j) {
            return std::find(list.begin(), list.end(), j) != list.end();
          };
          EXPECT_TRUE(std::is_sorted(list.begin(), list.end()));
          EXPECT_LE(list.back(), own);
          for (int64_t j = 0; j <= own; ++j) {
            EXPECT_TRUE(has(j) || (j >= options.initial && j <= own - options.local)) << j;
          }
        }
      }
    }
  }
}

TEST(Nsa, OnlyForcedBlocksAreAStaticPattern) {
  NsaOptions options = tiny_nsa();
  options.select_count = 3;
  options.local = 2;
  const auto layer = make_nsa(options);
  layer->to(DType::f64);
  const int64_t length = 45;
  std::vector<std::vector<int32_t>> lists;
  for (int64_t list = 0; list < 2 * length; ++list) {
    const auto own = static_cast<int32_t>(list % length / options.select_block);
    std::vector<int32_t>& blocks = lists.emplace_back();
    for (int32_t j = 0; j <= own; ++j) {
      if (j == 0 || j >= own - 1) blocks.push_back(j);
    }
  }
  const Selection pattern = Selection::from_lists(
      {.groups = 2, .queries = length, .keys = length, .key_block = options.select_block}, lists);
  const Variable x(random_tensor({1, length, 16}, DType::f64, 1));
  EXPECT_TRUE(same_bits(layer->forward(x, {}).data(),
                        layer->combine(layer->parts(x, {}, &pattern)).data()));
}

TEST(Nsa, EqualScoresTakeTheLowestBlocks) {
  NsaOptions options = tiny_nsa();
  options.select_count = 4;
  const auto layer = make_nsa(options);
  Variable keys = layer->parameter("k_proj_cmp.weight");
  keys.mutable_data().fill_(0);
  const auto parts = layer->parts(Variable(random_tensor({1, 64, 16}, DType::f32, 1)), {});
  // Queries of the last block have seen all of blocks 0 to 6 alike.
  EXPECT_THAT(parts.selection->list(0, 1, 63), ::testing::ElementsAre(0, 1, 2, 7));
}

TEST(Nsa, ValuesDoNotChangeTheLists) {
  const auto layer = make_nsa(tiny_nsa());
  const Variable x(random_tensor({2, 64, 16}, DType::f32, 1));
  const Selection before = *layer->parts(x, {}).selection;
  for (const char* name : {"v_proj_cmp.weight", "v_proj_slc.weight", "v_proj_win.weight"}) {
    Variable weight = layer->parameter(name);
    weight.mutable_data().copy_(random_tensor(weight.shape(), DType::f32, 9, 5));
  }
  EXPECT_TRUE(same_bits(layer->parts(x, {}).selection->blocks(), before.blocks()));
}

// Causality and shapes.

TEST(Nsa, NothingFlowsBackInTime) {
  for (const NsaOptions& options : nsa_variants()) {
    const auto layer = make_nsa(options);
    SCOPED_TRACE(layer->describe());
    const int64_t length = 41;
    const Tensor x = random_tensor({1, length, 16}, DType::f32, 1);
    const Tensor before = forward(*layer, x);
    for (int64_t t = 1; t < length; ++t) {
      Tensor changed = x.clone();
      changed.slice(1, t, length).fill_(0.8);
      EXPECT_TRUE(same_bits(forward(*layer, changed).slice(1, 0, t), before.slice(1, 0, t))) << t;
    }
    for (const int64_t t : {1, 4, 8, 17, 40}) {
      const Variable input(x, true);
      autograd::sum(autograd::slice(layer->forward(input, {}), 1, 0, t)).backward();
      EXPECT_EQ(root_mean_square(input.grad().slice(1, t, length)), 0) << t;
    }
  }
}

TEST(Nsa, PrefixesGiveTheSameRows) {
  for (const NsaOptions& options : nsa_variants()) {
    const auto layer = make_nsa(options);
    layer->to(DType::f64);
    const Tensor x = random_tensor({2, 41, 16}, DType::f64, 1);
    const Tensor whole = forward(*layer, x);
    for (int64_t t = 1; t < 41; ++t) {
      EXPECT_LE(largest_difference(forward(*layer, x.slice(1, 0, t)), whole.slice(1, 0, t)), 1e-12)
          << layer->describe() << " T=" << t;
    }
  }
}

TEST(Nsa, WithoutACompleteBlockTheCompressedBranchIsZero) {
  NsaOptions options = tiny_nsa();
  options.compressor = CompressorKind::mlp;
  const auto layer = make_nsa(options);
  const Variable x(random_tensor({2, 3, 16}, DType::f32, 1), true);
  const auto parts = layer->parts(x, {});
  EXPECT_EQ(root_mean_square(parts.branches[0].data()), 0);
  layer->combine(parts).backward(random_tensor({2, 3, 16}, DType::f32, 2));
  const Tensor dbias = layer->parameter("gate_proj.bias").grad().view({4, 3});
  EXPECT_EQ(root_mean_square(dbias.select(1, 0)), 0);
  EXPECT_GT(root_mean_square(dbias.select(1, 1)), 0);
  EXPECT_GT(root_mean_square(x.grad()), 0);
  for (const auto& [name, parameter] : layer->named_parameters()) {
    ASSERT_TRUE(parameter.grad().defined()) << name;
    EXPECT_TRUE(std::isfinite(root_mean_square(parameter.grad()))) << name;
  }
}

TEST(Nsa, FirstRowReadsItsOwnValue) {
  NsaOptions options = tiny_nsa();
  options.shared_kv = true;
  const auto layer = make_nsa(options);
  layer->to(DType::f64);
  const Tensor x = random_tensor({1, 1, 16}, DType::f64, 1);
  const auto parts = layer->parts(Variable(x), {});
  const Tensor v =
      matmul(x, layer->parameter("v_proj.weight").data(), {.transpose_b = true}).view({1, 1, 2, 6});
  for (int64_t h = 0; h < 4; ++h) {
    for (const size_t c : {1, 2}) {
      EXPECT_LE(largest_difference(parts.branches[c].data().select(2, h), v.select(2, h / 2)),
                1e-14);
    }
  }
}

TEST(Nsa, PositionsAreRelative) {
  for (const NsaOptions& options : nsa_variants()) {
    const auto layer = make_nsa(options);
    layer->to(DType::f64);
    const Variable x(random_tensor({1, 40, 16}, DType::f64, 1));
    EXPECT_LE(largest_difference(layer->forward(x, {.position = 0}).data(),
                                 layer->forward(x, {.position = 1000}).data()),
              1e-9)
        << layer->describe();
  }
}

// Gradients.

TEST(Nsa, GradientsAgreeWithFiniteDifferencesOfFrozenLists) {
  for (const NsaOptions& options : nsa_variants()) {
    const auto layer = make_nsa(options);
    layer->to(DType::f64);
    const Tensor x = random_tensor({1, 33, 16}, DType::f64, 1);
    const auto selection = layer->parts(Variable(x), {}).selection;
    std::vector<Variable> inputs = {Variable(x, true)};
    for (const auto& [name, parameter] : layer->named_parameters()) {
      // Without the compressed branch nothing flows to what compresses keys.
      const bool reached = options.branches[0] || name.find("cmp") == std::string::npos;
      if (reached) inputs.push_back(parameter);
    }
    const auto result = grad_check(
        [&](const std::vector<Variable>& in) {
          return layer->combine(layer->parts(in[0], {}, selection ? &*selection : nullptr));
        },
        inputs, {.max_elements = 8});
    EXPECT_TRUE(result) << layer->describe() << ": " << result.message;
  }
}

TEST(Nsa, NoGradientFlowsThroughTheLists) {
  for (const std::string& kind : compressor_kinds()) {
    NsaOptions options = tiny_nsa();
    options.compressor = parse_compressor_kind(kind);
    const auto layer = make_nsa(options);
    layer->fix_gates({{0, 1, 1}});
    const Variable x(random_tensor({1, 60, 16}, DType::f32, 1), true);
    const Variable y = layer->forward(x, {});
    y.backward(random_tensor(y.shape(), DType::f32, 2));
    for (const auto& [name, parameter] : layer->named_parameters()) {
      if (name.find("gate") != std::string::npos) continue;
      const bool compresses =
          name.find("cmp") != std::string::npos || name.find("compressor") != std::string::npos;
      EXPECT_EQ(root_mean_square(parameter.grad()) == 0, compresses) << kind << " " << name;
    }
  }
}

// What moves all keys of a row alike does not change its softmax: rows of the scores' gradient add
// up to 0.
TEST(Nsa, KeysMovedAlikeGetNoGradient) {
  NsaOptions options = tiny_nsa();
  options.rope_theta = 0;
  options.compressor = CompressorKind::weighted;
  const auto layer = make_nsa(options);
  layer->to(DType::f64);
  const Variable y = layer->forward(Variable(random_tensor({2, 50, 16}, DType::f64, 1)), {});
  y.backward(random_tensor(y.shape(), DType::f64, 2));
  const Tensor& keys = layer->parameter("k_compressor.positions").grad();
  const Tensor& values = layer->parameter("v_compressor.positions").grad();
  EXPECT_LE(root_mean_square(keys), 1e-12 * root_mean_square(values));
}

TEST(Nsa, TwoRunsGiveTheSameBits) {
  const auto layer = make_nsa({.d_model = 32, .n_heads = 4, .n_kv_heads = 2, .init_std = 0.3});
  testing::expect_same_bits_twice(*layer, random_tensor({2, 300, 32}, DType::f32, 1));
}

TEST(Nsa, HugeScoresStayFinite) {
  NsaOptions options = tiny_nsa();
  options.init_std = 3;
  testing::expect_finite(*make_nsa(options), random_tensor({2, 60, 16}, DType::f32, 1, 10));
}

TEST(Nsa, WeightsOfOtherStoragesGiveTheSame) {
  const auto layer = make_nsa(tiny_nsa());
  const Tensor x = random_tensor({1, 30, 16}, DType::f32, 1);
  const Tensor packed = forward(*layer, x);
  Variable k = layer->parameter("k_proj_slc.weight");
  k.set_data(k.data().clone());  // no longer beside the others in memory
  EXPECT_LE(largest_difference(forward(*layer, x), packed), 1e-6);
}

// Names, options, errors.

TEST(Nsa, NamesAndSizesOfParameters) {
  const auto names = [](const NsaOptions& options) {
    return testing::parameter_list(*make_nsa(options));
  };
  using ::testing::ElementsAre;
  NsaOptions options = tiny_nsa();
  EXPECT_THAT(names(options),
              ElementsAre("q_proj.weight [32, 16]", "k_proj_cmp.weight [16, 16]",
                          "v_proj_cmp.weight [12, 16]", "k_proj_slc.weight [16, 16]",
                          "v_proj_slc.weight [12, 16]", "k_proj_win.weight [16, 16]",
                          "v_proj_win.weight [12, 16]", "gate_proj.weight [12, 16]",
                          "gate_proj.bias [12]", "o_proj.weight [16, 24]"));
  options.shared_kv = true;
  options.gate_hidden = 7;
  options.compressor = CompressorKind::weighted;
  EXPECT_THAT(
      names(options),
      ElementsAre("q_proj.weight [32, 16]", "k_proj.weight [16, 16]", "v_proj.weight [12, 16]",
                  "gate_up_proj.weight [7, 16]", "gate_proj.weight [12, 7]", "gate_proj.bias [12]",
                  "o_proj.weight [16, 24]", "k_compressor.positions [2, 4, 8]",
                  "k_compressor.weights [2, 4]", "v_compressor.positions [2, 4, 6]",
                  "v_compressor.weights [2, 4]"));
  options = tiny_nsa();
  options.branches = {false, false, true};
  EXPECT_THAT(names(options), ElementsAre("q_proj.weight [32, 16]", "k_proj_win.weight [16, 16]",
                                          "v_proj_win.weight [12, 16]", "gate_proj.weight [4, 16]",
                                          "gate_proj.bias [4]", "o_proj.weight [16, 24]"));
}

TEST(Nsa, OptionsReachTheLayer) {
  Generator generator(1);
  const auto make = [&](std::vector<std::string> options) {
    return make_mixer_factory({.shape = {.d_model = 32, .n_heads = 4, .n_kv_heads = 2},
                               .schedule = "N",
                               .options = std::move(options)},
                              generator)(0)
        ->describe();
  };
  EXPECT_EQ(make({}),
            "d_model=32, heads=4, kv_heads=2, head_dim=8, value_dim=8, block=16, stride=16, "
            "select_block=16, select_count=8 (1 initial, 2 local), window=128, compressor=mean, "
            "kv=independent, cmp_rope=start, branches=cmp+slc+win, rope_theta=10000");
  EXPECT_EQ(
      make({"block=32", "stride=8", "select-block=64", "select-count=16", "initial=2", "local=3",
            "window=512", "compressor=linear", "kv-sharing=shared", "cmp-rope=before",
            "branches=cmp+win", "head-dim=6", "value-dim=4", "rope=false"}),
      "d_model=32, heads=4, kv_heads=2, head_dim=6, value_dim=4, block=32, stride=8, "
      "select_block=64, select_count=16 (2 initial, 3 local), window=512, compressor=linear, "
      "kv=shared, cmp_rope=before, branches=cmp+win, rope_theta=0");
  EXPECT_NO_THROW(make(
      {"compressor=mlp", "compressor-hidden=12", "compressor-residual=true", "gate-hidden=9"}));
}

TEST(Nsa, RefusesWhatDoesNotFit) {
  const auto message = [](const auto& change) {
    NsaOptions options = tiny_nsa();
    change(options);
    return message_of<ConfigError>([&] { make_nsa(options); });
  };
  const std::string who = "native sparse attention: ";
  EXPECT_EQ(message([](NsaOptions& o) { o.stride = 3; }),
            who + "block (4) must be a multiple of stride (3)");
  EXPECT_EQ(message([](NsaOptions& o) { o.select_block = 9; }),
            who + "select_block (9) must be a multiple of stride (2)");
  EXPECT_EQ(message([](NsaOptions& o) { o.select_block = 2; }),
            who + "select_block (2) must be at least block (4)");
  EXPECT_EQ(message([](NsaOptions& o) { o.select_count = 1; }),
            who + "select_count (1) must be at least initial + local (1 + 1)");
  EXPECT_EQ(message([](NsaOptions& o) { o.local = 0; }), who + "local must be at least 1, got 0");
  EXPECT_EQ(message([](NsaOptions& o) { o.initial = -1; }),
            who + "initial must be at least 0, got -1");
  EXPECT_EQ(message([](NsaOptions& o) { o.window = 0; }), who + "window must be at least 1, got 0");
  EXPECT_EQ(message([](NsaOptions& o) { o.block = 0; }), who + "block must be at least 1, got 0");
  EXPECT_EQ(message([](NsaOptions& o) { o.n_kv_heads = 3; }),
            who + "n_heads (4) must be a multiple of n_kv_heads (3)");
  EXPECT_EQ(message([](NsaOptions& o) { o.head_dim = 7; }),
            who + "head_dim must be even for rotary positions, got 7");
  EXPECT_EQ(message([](NsaOptions& o) { o.head_dim = 0, o.d_model = 18; }),
            who + "d_model (18) must be a multiple of n_heads (4) unless head_dim is given");
  EXPECT_EQ(message([](NsaOptions& o) { o.branches = {}; }),
            who + "branches must name at least one of cmp, slc and win");
  EXPECT_EQ(message([](NsaOptions& o) { o.compressor_residual = true; }),
            who + "compressor_residual needs the compressor mlp, got mean");
  EXPECT_EQ(message([](NsaOptions& o) { o.rope_theta = -1; }),
            who + "rope_theta must be above 0, or 0 for no rotation, got -1");
  message([](NsaOptions& o) { o.init_std = 0; });
  message([](NsaOptions& o) { o.gate_hidden = -1; });
  message([](NsaOptions& o) { o.compressor_hidden = -1; });
  message([](NsaOptions& o) { o.value_dim = -1; });
  message([](NsaOptions& o) { o.d_model = 0; });
  message([](NsaOptions& o) { o.n_heads = 0; });

  const auto layer = make_nsa(tiny_nsa());
  const auto cache = layer->make_cache(1, 4, DType::bf16, kCpu);
  EXPECT_EQ(message_of<DTypeError>([&] {
              layer->prefill(Variable(zeros({1, 2, 16})), *cache);
            }),
            "cache: made for bf16, got [1, 2, 16] f32 cpu");
  message_of<ConfigError>([&] { layer->make_cache(1, 0, DType::f32, kCpu); });
  Generator generator(1);
  FullAttention full({.d_model = 16, .n_heads = 2}, generator);
  message_of<ConfigError>([&] {
    layer->prefill(Variable(zeros({1, 2, 16})), *full.make_cache(1, 4, DType::f32, kCpu));
  });
}

}  // namespace
}  // namespace weft::attention

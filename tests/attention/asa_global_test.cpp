// The global layer of alternating sparse attention: its definition, reductions to other layers,
// causality and gradients.
#include "weft/attention/latent_attention.h"
#include "weft/autograd/grad_check.h"

#include "asa_test_data.h"

namespace weft::attention {
namespace {

using testing::compare_with_oracle;
using testing::expected_lists;
using testing::forward;
using testing::largest_difference;
using testing::lists_of;
using testing::make_asa;
using testing::open_gates;
using testing::oracle_of;
using testing::random_tensor;
using testing::root_mean_square;
using testing::same_bits;
using testing::small_asa;

TEST(AsaGlobal, AgreesWithItsDefinitionInEveryTypeAndForm) {
  testing::ResultChecks checks;
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const LatentForm form : {LatentForm::automatic, LatentForm::naive, LatentForm::absorbed}) {
      for (const AsaBranches branches :
           {AsaBranches::both, AsaBranches::compressed, AsaBranches::selected}) {
        for (const int64_t length : {3, 29, 64}) {
          AsaGlobalOptions options = small_asa();
          options.latent.form = form;
          options.branches = branches;
          options.latent.query_latent_dim = length == 29 ? 9 : 0;
          SCOPED_TRACE(::testing::Message()
                       << to_string(dtype) << " form " << static_cast<int>(form) << " branches "
                       << static_cast<int>(branches) << " T " << length);
          const auto layer = make_asa(options);
          compare_with_oracle(*layer, random_tensor({2, length, 20}, dtype, 1),
                              oracle_of(*layer, 3), checks[dtype], 3);
        }
      }
    }
  }
}

TEST(AsaGlobal, AgreesWithItsDefinitionForEveryCompressor) {
  testing::ResultChecks checks;
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const std::string& kind : compressor_kinds()) {
      for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
        for (const AsaBranches branches :
             {AsaBranches::both, AsaBranches::compressed, AsaBranches::selected}) {
          for (const int64_t length : {3, 17, 64}) {
            AsaGlobalOptions options = small_asa();
            options.compressor = parse_compressor_kind(kind);
            options.latent.form = form;
            options.branches = branches;
            SCOPED_TRACE(::testing::Message()
                         << to_string(dtype) << " " << kind << " form " << static_cast<int>(form)
                         << " branches " << static_cast<int>(branches) << " T " << length);
            const auto layer = make_asa(options);
            const Tensor x = random_tensor({2, length, 20}, dtype, 1);
            compare_with_oracle(*layer, x, oracle_of(*layer, 3), checks[dtype], 3);
            if (dtype == DType::f64) {
              testing::expect_decodes(*layer, x, forward(*layer, x),
                                      [](int64_t t) { return t == 0 ? 6 : t + 1 + t % 3; });
            }
          }
        }
      }
    }
  }
}

TEST(AsaGlobal, ReadsTheBlocksWithTheMostAttention) {
  for (const int64_t run : {1, 2, 4}) {
    AsaGlobalOptions options = small_asa();
    options.query_run = run;
    options.latent.init_std = 0.5;
    const auto layer = make_asa(options);
    layer->to(DType::f64);
    const Tensor x = random_tensor({2, 61, 20}, DType::f64, 1);
    EXPECT_EQ(lists_of(layer->selection(Variable(x))),
              lists_of(expected_lists(*layer, x).selection));
  }
}

TEST(AsaGlobal, RunsDoNotMatterWhereAllBlocksAreRead) {
  AsaGlobalOptions options = small_asa();
  options.select_count = 8;  // of 8
  const Tensor x = random_tensor({2, 63, 20}, DType::f64, 1);
  std::vector<Tensor> y;
  for (const int64_t run : {1, 4, 8}) {
    options.query_run = run;
    const auto layer = make_asa(options);
    layer->to(DType::f64);
    y.push_back(forward(*layer, x));
  }
  EXPECT_LE(largest_difference(y[1], y[0]), 1e-13);
  EXPECT_LE(largest_difference(y[2], y[0]), 1e-13);
  options.select_count = 3;
  const auto layer = make_asa(options);
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

TEST(AsaGlobal, LaterTokensReachNothingEarlier) {
  const int64_t length = 40;
  for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
    AsaGlobalOptions options = small_asa();
    options.latent.form = form;
    const auto layer = make_asa(options);
    const Tensor x = random_tensor({1, length, 20}, DType::f32, 1);
    const Tensor before = forward(*layer, x);
    for (int64_t t = 1; t < length; ++t) {
      Tensor changed = x.clone();
      changed.slice(1, t, length).fill_(0.8);
      EXPECT_TRUE(same_bits(forward(*layer, changed).slice(1, 0, t), before.slice(1, 0, t))) << t;
      if (t > 3) testing::expect_gradient_of_first_rows_alone(*layer, x, t);
    }
  }
}

TEST(AsaGlobal, SelectingAllBlocksIsGroupedLatentAttention) {
  AsaGlobalOptions options = small_asa();
  options.branches = AsaBranches::selected;
  options.select_count = 6;
  const auto layer = make_asa(options);
  layer->to(DType::f64);
  open_gates(*layer);
  const Tensor x = random_tensor({2, 45, 20}, DType::f64, 1);
  EXPECT_LE(largest_difference(forward(*layer, x), forward(*without_blocks(*layer), x)), 1e-13);
}

TEST(AsaGlobal, BlocksOfOneTokenAreGroupedLatentAttention) {
  AsaGlobalOptions options = small_asa();
  options.branches = AsaBranches::compressed;
  options.block = options.stride = 1;
  const auto layer = make_asa(options);
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
    AsaGlobalOptions options = small_asa();
    options.branches = branches;
    const auto layer = make_asa(options);
    const auto both = make_asa(small_asa());
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
  AsaGlobalOptions options = small_asa();
  options.branches = AsaBranches::compressed;
  const auto layer = make_asa(options);
  const Variable x(random_tensor({2, 3, 20}, DType::f32, 1), true);
  const Variable y = layer->forward(x, {});
  EXPECT_EQ(root_mean_square(y.data()), 0);
  y.backward(ones(y.shape()));
  for (const auto& [name, parameter] : layer->named_parameters()) {
    if (!parameter.grad().defined()) continue;
    for (const double value : parameter.grad().to_vector<double>()) ASSERT_EQ(value, 0) << name;
  }
  const auto both = make_asa(small_asa());
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
      AsaGlobalOptions options = small_asa();
      options.compressor = kind;
      options.latent.form = form;
      const auto layer = make_asa(options);
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
    AsaGlobalOptions options = small_asa();
    options.compressor = parse_compressor_kind(kind);
    options.latent.form = LatentForm::naive;
    const auto naive = make_asa(options);
    options.latent.form = LatentForm::absorbed;
    const auto absorbed = make_asa(options);
    naive->to(DType::f64);
    absorbed->to(DType::f64);
    const Tensor x = random_tensor({2, 50, 20}, DType::f64, 1);
    EXPECT_LE(largest_difference(forward(*naive, x), forward(*absorbed, x)), 1e-13) << kind;
  }
}

TEST(AsaGlobal, PositionsAreRelative) {
  const auto layer = make_asa(small_asa());
  layer->to(DType::f64);
  const Variable x(random_tensor({1, 40, 20}, DType::f64, 1));
  EXPECT_LE(largest_difference(layer->forward(x, {.position = 0}).data(),
                               layer->forward(x, {.position = 1000}).data()),
            1e-10);
}

TEST(AsaGlobal, LargeScoresStayFinite) {
  AsaGlobalOptions options = small_asa();
  options.latent.init_std = 30;
  for (const LatentForm form : {LatentForm::naive, LatentForm::absorbed}) {
    options.latent.form = form;
    testing::expect_finite(*make_asa(options), random_tensor({1, 40, 20}, DType::f32, 1));
  }
}

TEST(AsaGlobal, GivesTheSameBitsTwice) {
  testing::expect_same_bits_twice(*make_asa(small_asa()),
                                  random_tensor({2, 60, 20}, DType::f32, 1));
}

}  // namespace
}  // namespace weft::attention

// What every registered mechanism must do, whatever it computes. A new line in registry.cpp is
// tested here without further work.
#include <algorithm>
#include <cctype>

#include <gtest/gtest.h>

#include "weft/attention/registry.h"
#include "weft/autograd/grad_check.h"
#include "weft/nn/decoder.h"

#include "layer_test.h"

namespace weft::attention {
namespace {

using autograd::Variable;
using testing::forward;
using testing::largest_difference;
using testing::layer_difference;
using testing::random_tensor;
using testing::root_mean_square;
using testing::same_bits;

constexpr int64_t kWidth = 24;

/// A mechanism with some of its options.
struct Case {
  std::string mechanism;
  std::vector<std::string> options{};
};

std::string name_of(const Case& variant) {
  std::string name = variant.mechanism;
  for (const std::string& option : variant.options) name += "_" + option;
  for (char& letter : name) {
    if (std::isalnum(static_cast<unsigned char>(letter)) == 0) letter = '_';
  }
  return name;
}

void PrintTo(const Case& variant, std::ostream* stream) {
  *stream << name_of(variant);
}

std::unique_ptr<nn::SequenceMixer> make_mixer(const Case& variant, int64_t kv_heads = 2) {
  // Large weights, so that attention is far from uniform.
  AttentionConfig config{.shape = {.d_model = kWidth,
                                   .n_heads = 4,
                                   .n_kv_heads = kv_heads,
                                   .n_layers = 1,
                                   .init_std = 0.4},
                         .schedule = variant.mechanism,
                         .options = variant.options};
  Generator generator(3);
  return make_mixer_factory(config, generator)(0);
}

/// Every mechanism as it comes, and with options that short sequences make a difference to.
std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const MechanismInfo& mechanism : mechanisms()) {
    if (mechanism.schedule.empty()) cases.push_back({mechanism.name});
  }
  cases.push_back({"swa", {"window=2"}});
  cases.push_back({"swa", {"window=7"}});
  cases.push_back({"mla", {"form=absorbed"}});
  cases.push_back({"mla", {"query-latent-dim=10"}});
  cases.push_back({"gla", {"form=absorbed", "latent-dim=5"}});
  cases.push_back({"gla", {"groups=4", "value-dim=3"}});
  cases.push_back({"asa-local", {"window=7"}});
  cases.push_back({"asa-local", {"window=2", "form=absorbed"}});
  const std::vector<std::string> blocks = {"block=4", "stride=2", "select-block=8", "local=1"};
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"select-count=3"},
                                             {"select-count=3", "form=absorbed"},
                                             {"select-count=3", "query-run=1"},
                                             {"select-count=3", "branches=slc"},
                                             {"select-count=3", "groups=4"},
                                             {"select-count=5", "compressor=weighted"}}) {
    cases.push_back({"asa-global", blocks});
    cases.back().options.insert(cases.back().options.end(), more.begin(), more.end());
  }
  return cases;
}

class MixerContract : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, MixerContract, ::testing::ValuesIn(all_cases()),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(MixerContract, SaysWhatItIs) {
  const MechanismInfo& info = find_mechanism(GetParam().mechanism);
  EXPECT_FALSE(info.summary.empty());
  EXPECT_FALSE(info.paper.empty());
  for (const OptionInfo& option : info.options) {
    EXPECT_FALSE(option.help.empty()) << option.name;
    OptionValues values(info.name, info.options);
    EXPECT_NO_THROW(values.set(option.name, option.default_value)) << option.name;
  }
  EXPECT_FALSE(make_mixer(GetParam())->describe().empty());
}

TEST_P(MixerContract, GradientsAgreeWithFiniteDifferences) {
  const auto mixer = make_mixer(GetParam());
  mixer->to(DType::f64);
  std::vector<Variable> inputs = {Variable(random_tensor({2, 19, kWidth}, DType::f64, 1), true)};
  for (const Variable& parameter : mixer->parameters()) inputs.push_back(parameter);
  const auto result = autograd::grad_check(
      [&](const std::vector<Variable>& in) { return mixer->forward(in[0], {}); }, inputs,
      {.max_elements = 25});
  EXPECT_TRUE(result) << result.message;
}

TEST_P(MixerContract, FutureDoesNotReachEarlierRows) {
  const auto mixer = make_mixer(GetParam());
  const int64_t length = 80;
  const Tensor x = random_tensor({1, length, kWidth}, DType::f32, 1);
  const Tensor before = forward(*mixer, x);
  for (int64_t t = 1; t < length; ++t) {
    Tensor changed = x.clone();
    changed.slice(1, t, length).fill_(0.7);
    const Tensor after = forward(*mixer, changed);
    EXPECT_TRUE(same_bits(before.slice(1, 0, t), after.slice(1, 0, t))) << t;
    EXPECT_GT(largest_difference(before.slice(1, t, length), after.slice(1, t, length)), 0) << t;
  }
}

TEST_P(MixerContract, EarlierRowsGiveLaterTokensNoGradient) {
  const auto mixer = make_mixer(GetParam());
  const Tensor x = random_tensor({1, 40, kWidth}, DType::f32, 1);
  for (int64_t rows = 4; rows < 40; ++rows)
    testing::expect_gradient_of_first_rows_alone(*mixer, x, rows);
}

TEST_P(MixerContract, PrefixGivesTheSameRows) {
  const auto mixer = make_mixer(GetParam());
  mixer->to(DType::f64);
  const Tensor x = random_tensor({2, 70, kWidth}, DType::f64, 1);
  const Tensor whole = forward(*mixer, x);
  for (int64_t t = 1; t < 70; ++t) {
    EXPECT_LE(largest_difference(forward(*mixer, x.slice(1, 0, t)), whole.slice(1, 0, t)), 1e-12)
        << t;
  }
}

TEST_P(MixerContract, CachedDecodingEqualsForwardFromEveryPrefill) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const auto mixer = make_mixer(GetParam());
    mixer->to(dtype);
    const int64_t length = 37;
    const Tensor x = random_tensor({2, length, kWidth}, dtype, 1);
    const Tensor whole = forward(*mixer, x);
    const double tolerance = testing::layer_tolerance(dtype);
    for (int64_t first = 0; first < length; ++first) {
      const auto cache = mixer->make_cache(2, length, dtype, kCpu);
      const auto expect_rows = [&](int64_t begin, int64_t end) {
        const Variable y = end - begin == 1
                               ? mixer->step(Variable(x.slice(1, begin, end)), *cache)
                               : mixer->prefill(Variable(x.slice(1, begin, end)), *cache);
        EXPECT_FALSE(y.requires_grad());
        EXPECT_LE(layer_difference(y.data(), whole.slice(1, begin, end)), tolerance)
            << begin << ".." << end << " after a prefill of " << first;
        EXPECT_EQ(cache->length(), end);
      };
      if (first > 0) expect_rows(0, first);
      // Then single steps, with one more prefill in between.
      int64_t t = first;
      for (; t < std::min(first + 6, length); ++t) expect_rows(t, t + 1);
      if (t < length) expect_rows(t, length);
    }
  }
}

TEST_P(MixerContract, CacheKeepsItsPromises) {
  const auto mixer = make_mixer(GetParam());
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto cache = mixer->make_cache(3, 20, dtype, kCpu);
    EXPECT_EQ(cache->bytes(), 3 * mixer->cache_bytes(20, dtype));
    EXPECT_EQ(cache->capacity(), 20);
    EXPECT_EQ(cache->length(), 0);
  }
  const auto cache = mixer->make_cache(1, 6, DType::f32, kCpu);
  const Tensor x = random_tensor({1, 6, kWidth}, DType::f32, 1);
  const Tensor first = mixer->prefill(Variable(x), *cache).data();
  EXPECT_THROW(mixer->step(Variable(x.slice(1, 0, 1)), *cache), ShapeError);  // full
  cache->reset();
  EXPECT_EQ(cache->length(), 0);
  EXPECT_TRUE(same_bits(mixer->prefill(Variable(x), *cache).data(), first));
  cache->reset();
  EXPECT_THROW(mixer->prefill(Variable(zeros({2, 3, kWidth})), *cache), ShapeError);  // batch
}

TEST_P(MixerContract, CostsGrowWithLength) {
  const auto mixer = make_mixer(GetParam());
  EXPECT_GT(mixer->forward_cost(64).core_flops, mixer->forward_cost(32).core_flops);
  EXPECT_DOUBLE_EQ(mixer->forward_cost(64).projection_flops,
                   2 * mixer->forward_cost(32).projection_flops);
  EXPECT_GT(mixer->step_cost(100).total(), 0);
  EXPECT_GE(mixer->step_cost(100).core_flops, mixer->step_cost(10).core_flops);
}

TEST_P(MixerContract, MixedPrecisionGivesGradientsOfTheMasters) {
  const auto mixer = make_mixer(GetParam());  // f32 parameters
  const Tensor x = random_tensor({2, 33, kWidth}, DType::f32, 1);
  const Tensor exact = forward(*mixer, x.to(DType::bf16).to(DType::f32));
  const Variable input(x.to(DType::bf16), true);
  const Variable y = mixer->forward(input, {});
  EXPECT_EQ(y.dtype(), DType::bf16);
  // A rounding to bf16 is off by 2^-8 / sqrt(3) / 1.5 = 0.0015 in the root mean square. Weights,
  // queries, keys, values, outputs and the result are rounded one after another, 0.004 together,
  // and the weights of this test make scores large and what rounds queries and keys count twice.
  EXPECT_LE(testing::relative_rms(y.data(), exact), 0.01);
  y.backward(ones(y.shape(), DType::bf16));
  EXPECT_EQ(input.grad().dtype(), DType::bf16);
  for (const auto& [name, parameter] : mixer->named_parameters()) {
    ASSERT_TRUE(parameter.grad().defined()) << name;
    EXPECT_EQ(parameter.grad().dtype(), DType::f32) << name;
    EXPECT_GT(root_mean_square(parameter.grad()), 0) << name;
  }
}

TEST_P(MixerContract, StateDictMovesBetweenMixers) {
  const auto mixer = make_mixer(GetParam());
  const Tensor x = random_tensor({1, 9, kWidth}, DType::f32, 1);
  const Tensor before = forward(*mixer, x);
  StateDict state;
  for (const NamedTensor& entry : mixer->state_dict())
    state.push_back({entry.name, entry.tensor.clone()});
  for (Variable parameter : mixer->parameters()) parameter.mutable_data().fill_(0);
  EXPECT_EQ(root_mean_square(forward(*mixer, x)), 0);
  mixer->load_state_dict(state);
  EXPECT_TRUE(same_bits(forward(*mixer, x), before));
}

TEST_P(MixerContract, RefusesAnotherWidth) {
  const auto mixer = make_mixer(GetParam());
  EXPECT_THROW(mixer->forward(Variable(zeros({1, 3, kWidth + 1})), {}), ShapeError);
  EXPECT_THROW(mixer->forward(Variable(zeros({3, kWidth})), {}), ShapeError);
}

TEST_P(MixerContract, TrainsADecoder) {
  const nn::DecoderConfig decoder_config{
      .vocab_size = 13, .n_layers = 2, .d_model = kWidth, .d_ff = 32, .init_std = 0.1};
  const AttentionConfig config{
      .shape = {.d_model = kWidth, .n_heads = 4, .n_kv_heads = 2, .n_layers = 2, .init_std = 0.1},
      .schedule = GetParam().mechanism,
      .options = GetParam().options};
  Generator generator(5);
  nn::DecoderLM model(decoder_config, make_mixer_factory(config, generator), generator);
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 40; ++i) ids.push_back(i * i % 13);
  const Tensor tokens = from_vector(ids, {2, 20});
  const Tensor targets = from_vector(std::vector<int64_t>(ids.rbegin(), ids.rend()), {2, 20});
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    model.zero_grad();
    const Variable loss = model.loss(tokens, targets);
    last = loss.data().item<double>();
    if (step == 0) first = last;
    loss.backward();
    for (Variable parameter : model.parameters()) {
      Tensor update = parameter.grad().clone();
      std::vector<double> w = parameter.data().to_vector<double>();
      const std::vector<double> g = update.to_vector<double>();
      for (size_t i = 0; i < w.size(); ++i) w[i] -= 0.3 * g[i];
      parameter.mutable_data().copy_(from_vector(w, parameter.shape()));
    }
  }
  EXPECT_LT(last, 0.8 * first);
}

TEST_P(MixerContract, RecomputingGivesTheSameBits) {
  // Where nothing is recorded, as in the first of two runs, another kernel does the absorbed form.
  const std::vector<std::string>& options = GetParam().options;
  const bool rounds_otherwise_unrecorded =
      std::find(options.begin(), options.end(), "form=absorbed") != options.end();
  const AttentionConfig config{
      .shape = {.d_model = kWidth, .n_heads = 4, .n_kv_heads = 2, .n_layers = 2, .init_std = 0.1},
      .schedule = GetParam().mechanism,
      .options = GetParam().options};
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 40; ++i) ids.push_back(i * i % 13);
  const Tensor tokens = from_vector(ids, {2, 20});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<std::vector<float>> expected;
    for (const nn::Recompute recompute : {nn::Recompute::none, nn::Recompute::elementwise,
                                          nn::Recompute::attention, nn::Recompute::block}) {
      const nn::DecoderConfig decoder_config{.vocab_size = 13,
                                             .n_layers = 2,
                                             .d_model = kWidth,
                                             .d_ff = 32,
                                             .init_std = 0.1,
                                             .compute_dtype = dtype,
                                             .recompute = recompute};
      Generator generator(5);
      nn::DecoderLM model(decoder_config, make_mixer_factory(config, generator), generator);
      model.loss(tokens, tokens).backward();
      std::vector<std::vector<float>> grads;
      for (const Variable& parameter : model.parameters())
        grads.push_back(parameter.grad().to_vector<float>());
      if (recompute == nn::Recompute::none) expected = grads;
      SCOPED_TRACE(::testing::Message() << to_string(dtype) << " " << static_cast<int>(recompute));
      if (!rounds_otherwise_unrecorded) {
        EXPECT_EQ(grads, expected);
        continue;
      }
      for (size_t i = 0; i < grads.size(); ++i) {
        for (size_t k = 0; k < grads[i].size(); ++k)
          ASSERT_NEAR(grads[i][k], expected[i][k], dtype == DType::f32 ? 1e-5 : 2e-2);
      }
    }
  }
}

}  // namespace
}  // namespace weft::attention

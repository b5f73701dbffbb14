// What all optimizers have in common: groups, skipping, errors, state.
#include "weft/optim/optimizer.h"

#include <limits>
#include <memory>

#include "weft/autograd/node.h"
#include "weft/optim/adamw.h"
#include "weft/optim/muon.h"
#include "weft/optim/sgd.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/linear.h"

#include "optim_test_support.h"

namespace weft::optim {
namespace {

using autograd::Variable;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::vector<std::string> names_of(const NamedParameters& parameters) {
  std::vector<std::string> names;
  for (const NamedParameter& named : parameters) names.push_back(named.name);
  return names;
}

const Tensor& entry(const StateDict& state, const std::string& name) {
  for (const NamedTensor& named : state)
    if (named.name == name) return named.tensor;
  throw ConfigError("no entry " + name);
}

StateDict clone_state(const StateDict& state) {
  StateDict copy;
  for (const NamedTensor& named : state) copy.push_back({named.name, named.tensor.clone()});
  return copy;
}

TEST(DefaultGroups, DecayFallsOnMatricesThatAreNoEmbeddingsOrNorms) {
  const std::vector<ParameterGroup> groups = default_groups(
      {make_parameter("model.embed_tokens.weight", zeros({10, 4})),
       make_parameter("model.layers.0.self_attn.q_proj.weight", zeros({4, 4})),
       make_parameter("model.layers.0.self_attn.q_proj.bias", zeros({4})),
       make_parameter("model.layers.0.self_attn.latent_norm.weight", zeros({2, 4})),
       make_parameter("model.norm.weight", zeros({4})), make_parameter("scale", zeros({})),
       make_parameter("lm_head.weight", zeros({10, 4}))});
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_THAT(names_of(groups[0].parameters),
              ElementsAre("model.layers.0.self_attn.q_proj.weight", "lm_head.weight"));
  EXPECT_EQ(groups[0].weight_decay, std::nullopt);
  EXPECT_THAT(
      names_of(groups[1].parameters),
      ElementsAre("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.bias",
                  "model.layers.0.self_attn.latent_norm.weight", "model.norm.weight", "scale"));
  EXPECT_EQ(groups[1].weight_decay, 0.0);
}

struct Kind {
  const char* name;
  std::unique_ptr<Optimizer> (*make)(const NamedParameters&);
};

class OptimizerTest : public testing::TestWithParam<Kind> {
 protected:
  static std::unique_ptr<Optimizer> make(const NamedParameters& parameters) {
    return GetParam().make(parameters);
  }
};

INSTANTIATE_TEST_SUITE_P(
    Kinds, OptimizerTest,
    testing::Values(Kind{"sgd",
                         [](const NamedParameters& p) -> std::unique_ptr<Optimizer> {
                           return std::make_unique<Sgd>(default_groups(p));
                         }},
                    Kind{"momentum",
                         [](const NamedParameters& p) -> std::unique_ptr<Optimizer> {
                           return std::make_unique<Sgd>(
                               default_groups(p), SgdOptions{.momentum = 0.9, .dampening = 0.1});
                         }},
                    Kind{"adamw",
                         [](const NamedParameters& p) -> std::unique_ptr<Optimizer> {
                           return std::make_unique<AdamW>(default_groups(p));
                         }},
                    Kind{"muon",
                         [](const NamedParameters& p) -> std::unique_ptr<Optimizer> {
                           return std::make_unique<Muon>(split_for_muon(p));
                         }}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(OptimizerTest, NothingToDoIsNoError) {
  make({})->step(0.1);
  make({})->zero_grad();
  EXPECT_TRUE(make({})->state_dict().empty());
  make({})->load_state_dict({});
  const NamedParameter lonely = make_parameter("w", ones({3}));
  make({lonely})->step(0.1);
  EXPECT_EQ(values_of(lonely), (std::vector<double>{1, 1, 1}));
}

TEST_P(OptimizerTest, ParametersWithoutGradientAreSkippedWithTheirState) {
  const NamedParameter used = make_parameter("used", ones({2, 2}));
  const NamedParameter unused = make_parameter("unused", ones({2, 2}));
  const auto optimizer = make({used, unused});
  set_grad(used, ones({2, 2}));
  optimizer->step(0.1);
  EXPECT_NE(values_of(used), std::vector<double>(4, 1.0));
  EXPECT_EQ(values_of(unused), std::vector<double>(4, 1.0));
  EXPECT_EQ(entry(optimizer->state_dict(), "used/step").item<int64_t>(), 1);
  EXPECT_EQ(entry(optimizer->state_dict(), "unused/step").item<int64_t>(), 0);
}

TEST_P(OptimizerTest, FrozenParametersAreLeftOut) {
  const NamedParameter frozen{"frozen", Variable(ones({2}))};
  const NamedParameter learned = make_parameter("learned", ones({2}));
  const auto optimizer = make({frozen, learned});
  EXPECT_THAT(names_of(optimizer->parameters()), ElementsAre("learned"));
  for (const NamedTensor& named : optimizer->state_dict())
    EXPECT_THAT(named.name, Not(HasSubstr("frozen")));
}

/// What two optimizers of equal parameters keep.
void expect_same_state(const Optimizer& a, const Optimizer& b) {
  const StateDict state_a = a.state_dict(), state_b = b.state_dict();
  ASSERT_EQ(state_a.size(), state_b.size());
  for (size_t i = 0; i < state_a.size(); ++i) {
    EXPECT_EQ(state_a[i].tensor.to_vector<double>(), state_b[i].tensor.to_vector<double>())
        << state_a[i].name;
  }
}

TEST_P(OptimizerTest, TheScaleMayBeATensor) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const NamedParameters a = assorted_parameters(dtype), b = clone_parameters(a);
    const auto of_a = make(a), of_b = make(b);
    for (int step = 0; step < 4; ++step) {
      set_random_grads(a, step);
      set_random_grads(b, step);
      const double scale = step % 2 == 0 ? 0.3 : 0.375;
      of_a->step(0.01 / (1 + step), scale);
      if (step < 2) {
        of_b->step(0.01 / (1 + step), scalar(scale, step == 0 ? DType::f64 : DType::f32));
      } else {
        of_b->prepare_step(0.01 / (1 + step));
        of_b->apply_step(scalar(scale, DType::f64));
      }
      expect_same_bits(a, b);
      expect_same_state(*of_a, *of_b);
    }
  }
}

TEST_P(OptimizerTest, NothingChangesWhereTheScaleIsNotFinite) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const double bad : {infinity, -infinity, std::nan("")}) {
      const NamedParameters a = assorted_parameters(dtype), b = clone_parameters(a);
      const auto of_a = make(a), of_b = make(b);
      for (int step = 0; step < 3; ++step) {
        set_random_grads(b, 40 + step);
        of_b->step(10, scalar(bad, step == 0 ? DType::f32 : DType::f64));
        expect_same_bits(a, b);
        of_b->revert_step_count();
        of_b->revert_step_count();  // of one step only
        expect_same_state(*of_a, *of_b);
        set_random_grads(a, step);
        set_random_grads(b, step);
        of_a->step(0.01);
        of_b->step(0.01);
      }
      expect_same_bits(a, b);
      expect_same_state(*of_a, *of_b);
    }
  }
}

TEST_P(OptimizerTest, OnlyStepsThatWereTakenAreReverted) {
  const NamedParameter used = make_parameter("used", ones({2, 2}));
  const NamedParameter unused = make_parameter("unused", ones({2, 2}));
  const auto optimizer = make({used, unused});
  const auto steps = [&] {
    return std::pair(entry(optimizer->state_dict(), "used/step").item<int64_t>(),
                     entry(optimizer->state_dict(), "unused/step").item<int64_t>());
  };
  optimizer->revert_step_count();
  EXPECT_EQ(steps(), std::pair(int64_t{0}, int64_t{0}));
  set_grad(used, ones({2, 2}));
  set_grad(unused, ones({2, 2}));
  optimizer->step(0.1);
  optimizer->zero_grad();
  set_grad(used, ones({2, 2}));
  optimizer->step(0.1);
  EXPECT_EQ(steps(), std::pair(int64_t{2}, int64_t{1}));
  optimizer->revert_step_count();
  EXPECT_EQ(steps(), std::pair(int64_t{1}, int64_t{1}));
  optimizer->load_state_dict(clone_state(optimizer->state_dict()));
  optimizer->revert_step_count();
  EXPECT_EQ(steps(), std::pair(int64_t{1}, int64_t{1}));
}

TEST_P(OptimizerTest, HalvesOfAStepComeInPairs) {
  const NamedParameter named = make_parameter("w", ones({3}));
  set_grad(named, ones({3}));
  const auto optimizer = make({named});
  const Tensor one = scalar(1, DType::f64);
  EXPECT_THROW(optimizer->apply_step(one), AutogradError);
  optimizer->prepare_step(0.1);
  optimizer->prepare_step(0);  // the last counts, once
  optimizer->apply_step(one);
  EXPECT_EQ(values_of(named), (std::vector<double>{1, 1, 1}));
  EXPECT_EQ(entry(optimizer->state_dict(), "w/step").item<int64_t>(), 1);
  EXPECT_THROW(optimizer->apply_step(one), AutogradError);
  EXPECT_THROW(optimizer->prepare_step(-1), ConfigError);
  EXPECT_THROW(optimizer->step(0.1, Tensor()), ShapeError);
  EXPECT_THROW(optimizer->step(0.1, ones({1})), ShapeError);
  EXPECT_THROW(optimizer->step(0.1, scalar(1, DType::bf16)), DTypeError);
  EXPECT_EQ(values_of(named), (std::vector<double>{1, 1, 1}));
}

TEST_P(OptimizerTest, WritesLowPrecisionCopiesWithTheirWeights) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    clear_low_precision_copies();
    NamedParameters parameters = assorted_parameters(dtype);
    // Three weights in one storage, as attention packs them; the second gets no gradient.
    Tensor packed = random_tensor({50, 24}, dtype, 77);
    for (const auto& [begin, end] : {std::pair(0, 30), std::pair(30, 37), std::pair(37, 50)})
      parameters.push_back(
          make_parameter("q" + std::to_string(begin), packed.slice(0, begin, end)));
    const auto optimizer = make(parameters);
    std::vector<std::pair<Tensor, Tensor>> copies;
    const auto keep = [&](const Tensor& source, DType half) {
      copies.emplace_back(source, low_precision_copy(source, half));
    };
    for (size_t i = 0; i + 3 < parameters.size(); ++i)
      keep(parameters[i].parameter.data(), i % 2 == 0 ? DType::bf16 : DType::f16);
    keep(packed, DType::bf16);
    keep(packed, DType::f16);
    keep(packed.slice(0, 30, 37).transpose(0, 1), DType::f16);
    for (int step = 0; step < 3; ++step) {
      set_random_grads(parameters, step);
      Variable handle = parameters[parameters.size() - 2].parameter;
      handle.zero_grad();
      optimizer->step(0.01, scalar(step == 1 ? std::nan("") : 0.5, DType::f64));
      for (const auto& [source, copy] : copies) {
        // Compared before low_precision_copy() could mend it.
        ASSERT_EQ(copy.to_vector<float>(), source.to(copy.dtype()).to_vector<float>());
        const uint64_t version = copy.version();
        const Tensor again = low_precision_copy(source, copy.dtype());
        EXPECT_EQ(again.raw_data(), copy.raw_data());
        EXPECT_EQ(again.version(), version) << "was converted again";
      }
    }
  }
}

TEST_P(OptimizerTest, ZeroGradForgetsTheGradients) {
  const NamedParameters parameters = assorted_parameters(DType::f32);
  set_random_grads(parameters, 0);
  make(parameters)->zero_grad();
  for (const NamedParameter& named : parameters)
    EXPECT_FALSE(named.parameter.grad().defined()) << named.name;
}

TEST_P(OptimizerTest, RateZeroChangesNoParameter) {
  const NamedParameters parameters = assorted_parameters(DType::f32);
  const NamedParameters before = clone_parameters(parameters);
  set_random_grads(parameters, 0);
  make(parameters)->step(0);
  expect_same_bits(parameters, before);
}

TEST_P(OptimizerTest, MixedTypesStepTogether) {
  const NamedParameter single = make_parameter("single", ones({3}, DType::f32));
  const NamedParameter twice = make_parameter("double", ones({3}, DType::f64));
  const NamedParameter last = make_parameter("last", ones({3}, DType::f32));
  const auto optimizer = make({single, twice, last});
  for (const NamedParameter& named : {single, twice, last})
    set_grad(named, ones({3}, named.parameter.dtype()));
  optimizer->step(0.125);
  expect_near(values_of(single), values_of(twice), 1e-6, "single");
  EXPECT_EQ(values_of(single), values_of(last));
  EXPECT_LT(values_of(twice)[0], 0.9);
}

TEST_P(OptimizerTest, StridedParametersAndGradients) {
  const Tensor table = random_tensor({5, 7}, DType::f64, 1);
  const Tensor grad = random_tensor({5, 7}, DType::f64, 2);
  const NamedParameter dense = make_parameter("w", table.transpose(0, 1).clone());
  const NamedParameter strided = make_parameter("w", table.clone().transpose(0, 1));
  ASSERT_FALSE(strided.parameter.data().is_contiguous());
  const auto dense_optimizer = make({dense});
  const auto strided_optimizer = make({strided});
  for (int step = 0; step < 3; ++step) {
    set_grad(dense, grad.transpose(0, 1).contiguous());
    set_grad(strided, grad.transpose(0, 1));
    dense_optimizer->step(0.1);
    strided_optimizer->step(0.1);
  }
  expect_same_bits({dense}, {strided});
  EXPECT_NE(values_of(dense), table.transpose(0, 1).to_vector<double>());
}

TEST_P(OptimizerTest, ParameterInsideALargerTensorKeepsItsNeighbours) {
  Tensor whole = ones({9});
  const NamedParameter middle = make_parameter("middle", whole.slice(0, 3, 6));
  set_grad(middle, ones({3}));
  make({middle})->step(0.5);
  const std::vector<double> values = whole.to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i] == 1, i < 3 || i >= 6) << i;
}

TEST_P(OptimizerTest, StepIsSeenByTheVersionThatAutogradWatches) {
  const NamedParameter named = make_parameter("w", ones({3}));
  const autograd::SavedTensor saved(named.parameter.data());
  set_grad(named, ones({3}));
  make({named})->step(0.1);
  EXPECT_THROW(saved.get(), AutogradError);
}

TEST_P(OptimizerTest, RefusesBadRatesAndScales) {
  const NamedParameter named = make_parameter("w", ones({3}));
  set_grad(named, ones({3}));
  const auto optimizer = make({named});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_THAT(message_of<ConfigError>([&] { optimizer->step(-0.5); }),
              AllOf(HasSubstr(optimizer->name() + ": lr"), HasSubstr("got -0.5")));
  EXPECT_THROW(optimizer->step(nan), ConfigError);
  EXPECT_THROW(optimizer->step(infinity), ConfigError);
  EXPECT_THAT(message_of<ConfigError>([&] { optimizer->step(0.1, nan); }), HasSubstr("grad_scale"));
  EXPECT_THROW(optimizer->step(0.1, -1), ConfigError);
  EXPECT_EQ(values_of(named), std::vector<double>(3, 1.0));
}

TEST_P(OptimizerTest, RefusesGradientsThatDoNotFitAndChangesNothing) {
  const NamedParameter good = make_parameter("good", ones({3}));
  const NamedParameter bad = make_parameter("layer.bad", ones({3}));
  const auto optimizer = make({good, bad});
  set_grad(good, ones({3}));
  set_grad(bad, ones({4}));
  EXPECT_THAT(message_of<AutogradError>([&] { optimizer->step(0.1); }),
              AllOf(HasSubstr("'layer.bad'"), HasSubstr("[4]"), HasSubstr("[3]")));
  set_grad(bad, ones({3}, DType::i64));
  EXPECT_THROW(optimizer->step(0.1), AutogradError);
  EXPECT_EQ(values_of(good), std::vector<double>(3, 1.0));
  EXPECT_EQ(entry(optimizer->state_dict(), "good/step").item<int64_t>(), 0);
}

TEST_P(OptimizerTest, GradientsOfAHalfTypeAreWidened) {
  const NamedParameter a = make_parameter("w", ones({3}));
  const NamedParameter b = make_parameter("w", ones({3}));
  set_grad(a, from_vector<float>({0.5, -2, 3}, {3}));
  set_grad(b, from_vector<float>({0.5, -2, 3}, {3}).to(DType::bf16));
  make({a})->step(0.1);
  make({b})->step(0.1);
  expect_same_bits({a}, {b});
}

TEST_P(OptimizerTest, RefusesBadParameters) {
  const NamedParameter w = make_parameter("w", ones({3}));
  EXPECT_THAT(message_of<ConfigError>([&] {
                make({w, make_parameter("w", ones({3}))});
              }),
              HasSubstr("two parameters are named 'w'"));
  EXPECT_THAT(message_of<ConfigError>([&] {
                make({w, {"tied", w.parameter}});
              }),
              AllOf(HasSubstr("'w'"), HasSubstr("'tied'")));
  EXPECT_THROW(make({{"undefined", Variable()}}), AutogradError);
  EXPECT_THAT(
      message_of<DTypeError>([&] { make({make_parameter("half", ones({3}, DType::bf16))}); }),
      AllOf(HasSubstr("'half'"), HasSubstr("bf16"), HasSubstr("f32 or f64")));
  const Variable result = autograd::record(
      "twice", ones({3}), {w.parameter}, [](const Tensor& dy) { return std::vector<Tensor>{dy}; });
  EXPECT_THROW(make({{"result", result}}), AutogradError);
}

TEST_P(OptimizerTest, RefusesParametersThatChangedTheirType) {
  NamedParameter named = make_parameter("w", ones({3}));
  const auto optimizer = make({named});
  named.parameter.set_data(ones({3}, DType::f16));
  set_grad(named, ones({3}, DType::f16));
  EXPECT_THROW(optimizer->step(0.1), Error);
}

TEST_P(OptimizerTest, ResumedRunContinuesBitForBit) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const NamedParameters straight = assorted_parameters(dtype);
    const auto first = make(straight);
    for (int step = 0; step < 3; ++step) {
      set_random_grads(straight, step);
      first->step(0.01);
    }
    const NamedParameters resumed = clone_parameters(straight);
    const auto second = make(resumed);
    second->load_state_dict(clone_state(first->state_dict()));
    for (int step = 3; step < 6; ++step) {
      set_random_grads(straight, step);
      set_random_grads(resumed, step);
      first->step(0.02);
      second->step(0.02);
    }
    expect_same_bits(straight, resumed);
  }
}

TEST_P(OptimizerTest, LoadingCopies) {
  const NamedParameters parameters = {make_parameter("w", ones({3}))};
  set_random_grads(parameters, 0);
  const auto source = make(parameters);
  source->step(0.1);
  const StateDict saved = clone_state(source->state_dict());
  const NamedParameters others = clone_parameters(parameters);
  const auto target = make(others);
  target->load_state_dict(source->state_dict());
  set_random_grads(others, 1);
  target->step(0.1);
  const StateDict after = source->state_dict();
  ASSERT_EQ(after.size(), saved.size());
  for (size_t i = 0; i < saved.size(); ++i)
    EXPECT_EQ(after[i].tensor.to_vector<double>(), saved[i].tensor.to_vector<double>());
}

TEST_P(OptimizerTest, RefusesAStateThatDoesNotFitAndChangesNothing) {
  const NamedParameters parameters = {make_parameter("a", ones({3})),
                                      make_parameter("b", ones({2}))};
  const auto optimizer = make(parameters);
  set_random_grads(parameters, 0);
  optimizer->step(0.1);
  const StateDict good = clone_state(optimizer->state_dict());

  StateDict other;
  for (const NamedTensor& named : good) {
    if (named.name.starts_with("a/")) other.push_back({"c" + named.name.substr(1), named.tensor});
    if (named.name.starts_with("b/")) other.push_back(named);
  }
  EXPECT_THAT(message_of<ConfigError>([&] { optimizer->load_state_dict(other); }),
              AllOf(HasSubstr("missing: a/"), HasSubstr("unexpected: c/"), Not(HasSubstr("b/"))));
  EXPECT_THAT(message_of<ConfigError>([&] { optimizer->load_state_dict({}); }),
              AllOf(HasSubstr("a/step"), HasSubstr("b/step"), HasSubstr("unexpected: none")));
  StateDict twofold = good;
  twofold.push_back(good.front());
  EXPECT_THROW(optimizer->load_state_dict(twofold), ConfigError);

  for (size_t i = 0; i < good.size(); ++i) {
    StateDict bad = clone_state(good);
    for (NamedTensor& named : bad)
      if (named.tensor.rank() == 1) named.tensor.fill_(77);
    bad[i].tensor = zeros({5}, bad[i].tensor.dtype());
    EXPECT_THAT(message_of<ShapeError>([&] { optimizer->load_state_dict(bad); }),
                AllOf(HasSubstr(bad[i].name), HasSubstr("[5]")));
    bad[i].tensor = good[i].tensor.to(DType::f16);
    EXPECT_THAT(message_of<DTypeError>([&] { optimizer->load_state_dict(bad); }),
                AllOf(HasSubstr(bad[i].name), HasSubstr("f16")));
    bad[i].tensor = Tensor();
    EXPECT_THROW(optimizer->load_state_dict(bad), ShapeError);
  }
  StateDict negative = clone_state(good);
  for (NamedTensor& named : negative) named.tensor.fill_(-1);
  EXPECT_THROW(optimizer->load_state_dict(negative), ConfigError);

  const StateDict after = optimizer->state_dict();
  for (size_t i = 0; i < good.size(); ++i)
    EXPECT_EQ(after[i].tensor.to_vector<double>(), good[i].tensor.to_vector<double>());
}

TEST(Optimizer, StateNamesComeFromTheParameters) {
  const NamedParameters parameters = {
      make_parameter("model.layers.0.mlp.up_proj.weight", ones({2, 3}))};
  std::vector<std::string> names;
  for (const NamedTensor& named : AdamW(default_groups(parameters)).state_dict())
    names.push_back(named.name);
  EXPECT_THAT(names, ElementsAre("model.layers.0.mlp.up_proj.weight/exp_avg",
                                 "model.layers.0.mlp.up_proj.weight/exp_avg_sq",
                                 "model.layers.0.mlp.up_proj.weight/step"));
  EXPECT_TRUE(Sgd(default_groups(parameters)).state_dict().size() == 1);
  EXPECT_EQ(Sgd(default_groups(parameters), {.momentum = 0.5}).state_dict()[0].name,
            "model.layers.0.mlp.up_proj.weight/momentum_buffer");
}

TEST(Optimizer, RefusesBadGroups) {
  const auto message = [](const ParameterGroup& group) {
    return message_of<ConfigError>([&] { Sgd({group}); });
  };
  EXPECT_THAT(message({.name = "heads", .lr_scale = -1, .weight_decay = 0.0}),
              AllOf(HasSubstr("'heads'"), HasSubstr("lr_scale"), HasSubstr("-1")));
  EXPECT_THAT(message({.name = "heads", .weight_decay = -2.0}),
              AllOf(HasSubstr("'heads'"), HasSubstr("weight_decay"), HasSubstr("-2")));
  const NamedParameter w = make_parameter("w", ones({3}));
  const ParameterGroup group{.parameters = {w}};
  EXPECT_THROW(Sgd({group, group}), ConfigError);
}

}  // namespace
}  // namespace weft::optim

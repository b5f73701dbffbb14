#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/autograd/checkpoint.h"
#include "weft/autograd/dot.h"
#include "weft/autograd/grad_check.h"
#include "weft/autograd/node.h"
#include "weft/autograd/variable.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/arithmetic.h"

namespace weft::autograd {
namespace {

using ::testing::HasSubstr;

/// Small recorded functions of our own, so that these tests depend on the engine alone.
Variable times(const Variable& a, const Variable& b) {
  return record("times", mul(a.data(), b.data()), {a, b},
                [x = SavedTensor(a.data()),
                 y = SavedTensor(b.data())](const Tensor& dy) -> std::vector<Tensor> {
                  return {mul(dy, y.get()), mul(dy, x.get())};
                });
}

Variable plus(const Variable& a, const Variable& b) {
  return record("plus", add(a.data(), b.data()), {a, b},
                [](const Tensor& dy) -> std::vector<Tensor> {
                  return {dy, dy};
                });
}

/// Two outputs: (2x, 3x).
std::vector<Variable> twice_and_thrice(const Variable& x) {
  return record("twice_and_thrice", {mul(x.data(), 2.0), mul(x.data(), 3.0)}, {x},
                [](const std::vector<Tensor>& grads) -> std::vector<Tensor> {
                  Tensor total;
                  if (grads[0].defined()) total = mul(grads[0], 2.0);
                  if (grads[1].defined())
                    total = total.defined() ? add(total, mul(grads[1], 3.0)) : mul(grads[1], 3.0);
                  return {total};
                });
}

Variable leaf(std::vector<double> values) {
  const auto count = static_cast<int64_t>(values.size());
  return Variable(from_vector(values, {count}), /*requires_grad=*/true);
}

std::vector<double> grad_of(const Variable& v) {
  return v.grad().to_vector<double>();
}

TEST(Backward, GradientsOfLeavesKeepNothingLargerAlive) {
  const Variable a(ones({2, 3}), true);
  const Variable b(ones({3, 3}), true);
  for (const bool all_are_kept : {false, true}) {
    const Variable c(ones({1, 3}), all_are_kept);
    Tensor seen;  // holds a gradient elsewhere
    const auto run = [&](bool look) {
      record("joined", ones({6, 3}), {a, b, c}, [&, look](const Tensor& dy) {
        const Tensor all = mul(dy, 2.0);
        if (look) seen = all;
        return all.split(std::vector<int64_t>{2, 3, 1}, 0);
      }).backward(ones({6, 3}));
    };
    for (const bool look : {false, true}) {
      run(look);
      for (Variable leaf : {a, b}) {
        EXPECT_EQ(leaf.grad().to_vector<float>(),
                  std::vector<float>(static_cast<size_t>(leaf.numel()), 2.0f));
        // Together they may be all of it, if nothing else is.
        const auto bytes = static_cast<size_t>(all_are_kept && !look ? 18 : leaf.numel()) * 4;
        EXPECT_EQ(leaf.grad().storage()->bytes(), bytes);
        leaf.zero_grad();
      }
    }
  }
}

TEST(Engine, ChainsProductsAndSums) {
  const Variable x = leaf({3});
  const Variable y = leaf({5});
  plus(times(x, y), times(x, x)).backward();
  EXPECT_EQ(grad_of(x), (std::vector<double>{5 + 6}));
  EXPECT_EQ(grad_of(y), (std::vector<double>{3}));
}

TEST(Engine, AccumulatesOverUsesAndCalls) {
  const Variable x = leaf({2});
  plus(x, plus(x, x)).backward();
  EXPECT_EQ(grad_of(x), (std::vector<double>{3}));
  times(x, x).backward();
  EXPECT_EQ(grad_of(x), (std::vector<double>{7}));
  Variable(x).zero_grad();
  EXPECT_FALSE(x.grad().defined());
}

TEST(Engine, GradientOfALeafIsNotSharedWithTheSeedOrAnotherLeaf) {
  const Variable x = leaf({2});
  const Variable y = leaf({4});
  const Tensor seed = ones({1}, DType::f64);
  plus(x, y).backward(seed);
  plus(x, y).backward(seed);
  EXPECT_EQ(seed.item<double>(), 1);
  EXPECT_EQ(grad_of(x), (std::vector<double>{2}));
  EXPECT_EQ(grad_of(y), (std::vector<double>{2}));
}

TEST(Engine, DiamondRunsEachNodeOnce) {
  const Variable x = leaf({2});
  int calls = 0;
  const Variable middle =
      record("counted", mul(x.data(), 3.0), {x}, [&calls](const Tensor& dy) -> std::vector<Tensor> {
        ++calls;
        return {mul(dy, 3.0)};
      });
  plus(times(middle, middle), middle).backward();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(grad_of(x), (std::vector<double>{3 * (2 * 6 + 1)}));
}

TEST(Engine, SeveralOutputsAndUnusedOnes) {
  const Variable x = leaf({1});
  const auto both = twice_and_thrice(x);
  plus(both[0], both[1]).backward();
  EXPECT_EQ(grad_of(x), (std::vector<double>{5}));
  Variable(x).zero_grad();
  twice_and_thrice(x)[1].backward();
  EXPECT_EQ(grad_of(x), (std::vector<double>{3}));
}

TEST(Engine, SeveralRoots) {
  const Variable x = leaf({1, 2});
  const Variable a = times(x, x);
  const Variable b = plus(x, x);
  backward({a, b}, {ones({2}, DType::f64), ones({2}, DType::f64)});
  EXPECT_EQ(grad_of(x), (std::vector<double>{4, 6}));
}

TEST(Engine, RetainGraphAllowsASecondWalkAndItsAbsenceForbidsIt) {
  const Variable x = leaf({3});
  const Variable y = times(x, x);
  y.backward({}, /*retain_graph=*/true);
  y.backward();
  EXPECT_EQ(grad_of(x), (std::vector<double>{12}));
  EXPECT_THROW(y.backward(), AutogradError);
}

TEST(Engine, FreesSavedTensorsWithTheRecord) {
  const Variable x = leaf({3});
  std::weak_ptr<Storage> saved;
  Variable y;
  {
    const Variable inner = plus(x, x);
    saved = inner.data().storage();
    y = times(inner, inner);
  }
  EXPECT_FALSE(saved.expired());
  y.backward();
  EXPECT_TRUE(saved.expired());
}

TEST(Engine, NothingIsKeptThatNoBackwardNeeds) {
  const Variable x = leaf({3});
  std::weak_ptr<Storage> unused;
  Variable y;
  {
    const Variable inner = plus(x, x);
    unused = inner.data().storage();
    y = plus(inner, inner);
  }
  EXPECT_TRUE(unused.expired());
}

TEST(Engine, NoGradRecordsNothing) {
  const Variable x = leaf({3});
  Variable y;
  {
    const NoGradGuard no_grad;
    y = times(x, x);
    const GradModeGuard with_grad(true);
    EXPECT_TRUE(times(x, x).requires_grad());
  }
  EXPECT_FALSE(y.requires_grad());
  EXPECT_TRUE(grad_enabled());
  EXPECT_THROW(y.backward(), AutogradError);
}

TEST(Engine, NoGradIsAMatterOfTheThread) {
  const NoGradGuard no_grad;
  bool other = false;
  std::thread([&] { other = grad_enabled(); }).join();
  EXPECT_TRUE(other);
}

TEST(Engine, DetachCutsTheRecord) {
  const Variable x = leaf({3});
  times(x, times(x, x).detach()).backward();
  EXPECT_EQ(grad_of(x), (std::vector<double>{9}));
}

TEST(Engine, CatchesDamageToSavedTensors) {
  Variable x = leaf({3});
  const Variable y = times(x, x);
  x.mutable_data().fill_(4);
  try {
    y.backward();
    FAIL() << "the damage went unnoticed";
  } catch (const AutogradError& error) {
    EXPECT_THAT(error.what(), HasSubstr("changed in place"));
  }
}

TEST(Engine, DamageThroughAViewIsCaughtToo) {
  Variable x = leaf({3, 4});
  const Variable y = times(x, x);
  x.mutable_data().slice(0, 0, 1).fill_(0);
  EXPECT_THROW(y.backward(ones({2}, DType::f64)), AutogradError);
}

TEST(Engine, ChangesToWhatWasNotSavedAreFine) {
  Variable x = leaf({3});
  const Variable y = plus(x, x);
  x.mutable_data().fill_(4);
  y.backward();
  EXPECT_EQ(grad_of(x), (std::vector<double>{2}));
}

TEST(Engine, RetainsGradientsOfInnerVariables) {
  const Variable x = leaf({3});
  Variable inner = times(x, x);
  inner.retain_grad();
  plus(inner, inner).backward();
  EXPECT_EQ(grad_of(inner), (std::vector<double>{2}));
  EXPECT_EQ(grad_of(x), (std::vector<double>{12}));
}

TEST(Engine, HooksSeeTheWholeGradientOnceAndMayChangeIt) {
  Variable x = leaf({3});
  std::vector<double> seen;
  x.register_hook([&](const Tensor& grad) {
    seen.push_back(grad.item<double>());
    return mul(grad, 10.0);
  });
  Variable inner = plus(x, x);
  inner.register_hook([&](const Tensor& grad) {
    seen.push_back(grad.item<double>());
    return Tensor();
  });
  plus(inner, x).backward();
  EXPECT_EQ(seen, (std::vector<double>{1, 3}));
  EXPECT_EQ(grad_of(x), (std::vector<double>{30}));
  x.register_hook([](const Tensor&) { return zeros({2}, DType::f64); });
  EXPECT_THROW(plus(x, x).backward(), ShapeError);
}

TEST(Engine, ALongChainNeedsNoDeepStack) {
  const Variable x = leaf({1});
  Variable y = x;
  for (int i = 0; i < 200000; ++i) y = plus(y, x);
  y.backward();
  EXPECT_EQ(grad_of(x), (std::vector<double>{200001}));
}

TEST(Engine, WrongSeedsAndBackwardsAreErrors) {
  const Variable x = leaf({1, 2});
  EXPECT_THROW(plus(x, x).backward(), AutogradError);
  EXPECT_THROW(plus(x, x).backward(ones({3}, DType::f64)), ShapeError);
  EXPECT_THROW(Variable(ones({1})).backward(), AutogradError);
  EXPECT_THROW(Variable().backward(), AutogradError);
  const Variable short_list =
      record("bad_count", x.data(), {x}, [](const Tensor&) { return std::vector<Tensor>{}; });
  EXPECT_THROW(short_list.backward(ones({2}, DType::f64)), AutogradError);
  const Variable wrong_shape = record("bad_shape", x.data(), {x}, [](const Tensor&) {
    return std::vector<Tensor>{ones({3}, DType::f64)};
  });
  EXPECT_THROW(wrong_shape.backward(ones({2}, DType::f64)), ShapeError);
}

TEST(Variable, OnlyFloatingLeavesAskForGradients) {
  EXPECT_THROW(Variable(arange(0, 3), true), AutogradError);
  Variable y = plus(leaf({1}), leaf({2}));
  EXPECT_THROW(y.set_requires_grad(false), AutogradError);
  EXPECT_THROW(y.set_data(ones({1}, DType::f64)), AutogradError);
  EXPECT_THROW(Variable{Tensor()}, AutogradError);
}

TEST(ReduceToShape, SumsWhatBroadcastingStretched) {
  const Tensor grad = ones({4, 2, 3});
  EXPECT_EQ(reduce_to_shape(grad, {2, 1}).to_vector<float>(), (std::vector<float>{12, 12}));
  EXPECT_EQ(reduce_to_shape(grad, {}).item<float>(), 24);
  EXPECT_EQ(reduce_to_shape(grad, {4, 2, 3}).storage(), grad.storage());
}

TEST(GradCheck, PassesWhatIsRightAndNamesWhatIsWrong) {
  const auto right = [](const std::vector<Variable>& in) { return times(in[0], in[1]); };
  EXPECT_TRUE(grad_check(right, {leaf({1, 2, 3}), leaf({-1, 0.5, 4})}));

  const auto wrong = [](const std::vector<Variable>& in) {
    return record("wrong", mul(in[0].data(), in[0].data()), {in[0]},
                  [x = in[0].data()](const Tensor& dy) { return std::vector<Tensor>{mul(dy, x)}; });
  };
  const GradCheckResult result = grad_check(wrong, {leaf({1, 2})});
  EXPECT_FALSE(result);
  EXPECT_THAT(result.message, HasSubstr("input 0 element"));
  EXPECT_GT(result.worst_error, 1e3);

  EXPECT_THROW(grad_check(right, {Variable(ones({1}), true), leaf({1})}), ConfigError);
}

TEST(Checkpoint, GivesTheGradientsOfAPlainCall) {
  const Variable weight = leaf({0.5, -2, 3});
  const auto function = [weight](const std::vector<Variable>& in) -> std::vector<Variable> {
    const Variable a = times(in[0], weight);
    return {times(a, a), plus(a, in[1])};
  };
  std::vector<std::vector<double>> grads[2];
  for (const bool checkpointed : {false, true}) {
    Variable(weight).zero_grad();
    const Variable x = leaf({1, 2, 3});
    const Variable y = leaf({4, 5, 6});
    const auto outputs = checkpointed ? checkpoint(function, {x, y}) : function({x, y});
    times(outputs[0], outputs[1]).backward(ones({3}, DType::f64));
    grads[checkpointed] = {grad_of(x), grad_of(y), grad_of(weight)};
  }
  EXPECT_EQ(grads[0], grads[1]);
}

TEST(Checkpoint, KeepsOnlyItsInputs) {
  const Variable x = leaf({1, 2});
  std::weak_ptr<Storage> inner;
  const auto outputs = checkpoint(
      [&inner](const std::vector<Variable>& in) -> std::vector<Variable> {
        const Variable a = plus(in[0], in[0]);
        inner = a.data().storage();
        return {times(a, a)};
      },
      {x});
  EXPECT_TRUE(inner.expired());
  outputs[0].backward(ones({2}, DType::f64));
  EXPECT_EQ(grad_of(x), (std::vector<double>{8, 16}));
}

TEST(Checkpoint, ReplaysRandomStreamsAndLeavesThemWhereTheyWere) {
  Generator generator(7);
  const auto noisy = [&generator](const std::vector<Variable>& in) -> std::vector<Variable> {
    const GeneratorState state = generator.reserve(1);
    const double factor = philox4x32(state.seed, state.offset)[0] * 0x1p-32;
    return {times(in[0], Variable(full({1}, factor, DType::f64)))};
  };
  const Variable x = leaf({1});
  const auto outputs = checkpoint(noisy, {x}, {&generator});
  generator.reserve(5);
  const uint64_t offset = generator.state().offset;
  outputs[0].backward();
  EXPECT_EQ(grad_of(x).at(0), outputs[0].data().item<double>());
  EXPECT_EQ(generator.state().offset, offset);
}

TEST(Dot, ShowsFunctionsLeavesAndShapes) {
  Variable x = leaf({1, 2});
  x.grad_meta()->name = "x";
  const std::string dot = to_dot(times(plus(x, x), x));
  EXPECT_THAT(dot, HasSubstr("digraph"));
  EXPECT_THAT(dot, HasSubstr("label=\"times\""));
  EXPECT_THAT(dot, HasSubstr("label=\"plus\""));
  EXPECT_THAT(dot, HasSubstr("x\\n[2] f64"));
  EXPECT_EQ(dot, to_dot(times(plus(x, x), x)));
}

}  // namespace
}  // namespace weft::autograd

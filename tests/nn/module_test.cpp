#include "weft/nn/module.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

namespace weft::nn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Inner : public Module {
 public:
  explicit Inner(double value) : Module("Inner") {
    weight = register_parameter("weight", full({2}, value));
    counter = &register_buffer("counter", full({}, value, DType::i64));
  }
  Variable weight;
  Tensor* counter;
};

class Outer : public Module {
 public:
  Outer()
      : Module("Outer"),
        first(register_module<Inner>("first", 1)),
        second(register_module<Inner>("second", 2)) {
    scale = register_parameter("scale", full({3}, 5));
  }
  using Module::register_buffer;
  using Module::register_module;
  using Module::register_parameter;
  Inner& first;
  Inner& second;
  Variable scale;
};

std::vector<std::string> names(const auto& entries) {
  std::vector<std::string> result;
  for (const auto& entry : entries) result.push_back(entry.name);
  return result;
}

TEST(Module, NamesItsTree) {
  const Outer module;
  EXPECT_THAT(names(module.named_parameters()),
              ElementsAre("scale", "first.weight", "second.weight"));
  EXPECT_THAT(names(module.state_dict()), ElementsAre("scale", "first.weight", "first.counter",
                                                      "second.weight", "second.counter"));
  EXPECT_EQ(module.num_parameters(), 7);
  EXPECT_EQ(module.parameter("second.weight").data().to_vector<float>(),
            (std::vector<float>{2, 2}));
  EXPECT_THROW(module.parameter("third"), ConfigError);
}

TEST(Module, RefusesBadNames) {
  Outer module;
  for (const char* name : {"", "a.b", "scale", "first"}) {
    EXPECT_THROW(module.register_parameter(name, zeros({1})), ConfigError) << name;
    EXPECT_THROW(module.register_buffer(name, zeros({1})), ConfigError) << name;
    EXPECT_THROW(module.register_module<Inner>(name, 0), ConfigError) << name;
  }
}

TEST(Module, StateDictRoundTrips) {
  Outer source;
  source.scale.mutable_data().fill_(9);
  source.first.counter->fill_(42);
  Outer target;
  const Variable scale = target.scale;
  target.load_state_dict(source.state_dict());
  EXPECT_EQ(scale.data().to_vector<float>(), (std::vector<float>{9, 9, 9}));
  EXPECT_EQ(target.first.counter->item<int>(), 42);
}

TEST(Module, LoadingRefusesWhatDoesNotFitAndChangesNothing) {
  Outer module;
  StateDict state = Outer().state_dict();
  state[0].tensor = zeros({3});
  state.pop_back();
  state.push_back({"surplus", zeros({1})});
  try {
    module.load_state_dict(state);
    FAIL() << "a missing and an unexpected name went unnoticed";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("missing [second.counter]"));
    EXPECT_THAT(error.what(), HasSubstr("unexpected [surplus]"));
  }
  EXPECT_EQ(module.scale.data().to_vector<float>()[0], 5);
  module.load_state_dict(state, /*strict=*/false);
  EXPECT_EQ(module.scale.data().to_vector<float>()[0], 0);

  StateDict wrong_shape = {{"first.weight", ones({2})}, {"scale", zeros({4})}};
  EXPECT_THROW(module.load_state_dict(wrong_shape, false), ShapeError);
  EXPECT_THROW(module.load_state_dict({{"scale", zeros({3})}, {"scale", zeros({3})}}, false),
               ConfigError);
}

TEST(Module, TrainAndEvalReachTheWholeTree) {
  Outer module;
  EXPECT_TRUE(module.second.training());
  {
    const EvalModeGuard eval_mode(module);
    EXPECT_FALSE(module.second.training());
  }
  EXPECT_TRUE(module.second.training());
}

TEST(Module, ConvertsFloatingTensorsInPlace) {
  Outer module;
  const Variable scale = module.scale;
  module.to(DType::f64);
  EXPECT_EQ(scale.dtype(), DType::f64);
  EXPECT_TRUE(scale.requires_grad());
  EXPECT_EQ(module.first.counter->dtype(), DType::i64);
  EXPECT_THROW(module.to(DType::i32), DTypeError);
}

TEST(Module, PartsOfOneStorageStayTogetherWhenConverted) {
  struct Packed : Module {
    Packed() : Module("Packed") {
      const Tensor both = arange(0, 12, 1, DType::f32).view({4, 3});
      upper = register_parameter("upper", both.slice(0, 0, 1));
      lower = register_parameter("lower", both.slice(0, 1, 4));
    }
    Variable upper, lower;
  } module;
  module.to(DType::f64);
  EXPECT_EQ(module.upper.data().storage(), module.lower.data().storage());
  EXPECT_EQ(module.lower.data().offset(), 3);
  EXPECT_EQ(module.lower.data().to_vector<double>(),
            std::vector<double>({3, 4, 5, 6, 7, 8, 9, 10, 11}));
}

TEST(Module, PrintsItsTree) {
  EXPECT_EQ(Outer().to_string(), "Outer()\n  (first) Inner()\n  (second) Inner()\n");
}

}  // namespace
}  // namespace weft::nn

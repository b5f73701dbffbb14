#include "weft/tensor/profiler.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "weft/nn/decoder.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/arithmetic.h"

#include "shift_mixer.h"

namespace weft {
namespace {

using profiler::Range;
using profiler::RangeKind;
using profiler::Report;
using profiler::Row;

void spend(double milliseconds) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(milliseconds));
}

Row row_of(const std::vector<Row>& rows, const std::string& name) {
  const auto found =
      std::find_if(rows.begin(), rows.end(), [&](const Row& row) { return row.name == name; });
  return found == rows.end() ? Row{} : *found;
}

/// Stops what a failed test left running.
class Profiler : public ::testing::Test {
 protected:
  void TearDown() override {
    if (profiler::enabled()) profiler::stop();
  }
};

TEST_F(Profiler, IsOffUntilStarted) {
  EXPECT_FALSE(profiler::enabled());
  { const Range range("unseen"); }
  EXPECT_THROW(profiler::stop(), ConfigError);
  profiler::start(kCpu);
  EXPECT_TRUE(profiler::enabled());
  EXPECT_THROW(profiler::start(kCpu), ConfigError);
  const Report report = profiler::stop();
  EXPECT_FALSE(profiler::enabled());
  EXPECT_TRUE(report.ops.empty() && report.modules.empty() && report.backward.empty());
  EXPECT_EQ(report.milliseconds, 0);
}

TEST_F(Profiler, SharesTimeAmongNestedRanges) {
  profiler::start(kCpu);
  for (int i = 0; i < 3; ++i) {
    const Range outer("outer");
    EXPECT_NE(profiler::current_module(), 0);
    spend(2);
    {
      const Range inner("inner");
      const Range op(RangeKind::op, "slow", kCpu);
      spend(2);
      const Range nested(RangeKind::op, "part", kCpu);
      spend(2);
    }
  }
  EXPECT_EQ(profiler::current_module(), 0);
  const Report report = profiler::stop();
  ASSERT_EQ(report.modules.size(), 2u);
  EXPECT_EQ(report.modules[0].name, "outer");
  EXPECT_EQ(report.modules[1].name, "outer.inner");
  EXPECT_EQ(report.modules[1].calls, 3);
  EXPECT_GE(report.modules[0].milliseconds, 18);
  EXPECT_GE(report.modules[1].milliseconds, 12);
  EXPECT_LT(report.modules[1].milliseconds, report.modules[0].milliseconds);
  EXPECT_EQ(report.milliseconds, report.modules[0].milliseconds);
  const Row slow = row_of(report.ops, "slow"), part = row_of(report.ops, "part");
  EXPECT_EQ(slow.calls, 3);
  EXPECT_GE(slow.milliseconds, 6);
  EXPECT_GE(part.milliseconds, 6);
  EXPECT_LE(slow.milliseconds + part.milliseconds, report.modules[1].milliseconds);
}

TEST_F(Profiler, CountsItsThreadAlone) {
  profiler::start(kCpu);
  std::thread([] { const Range range("elsewhere"); }).join();
  EXPECT_TRUE(profiler::stop().modules.empty());
}

TEST_F(Profiler, EndsWithARangeOpen) {
  profiler::start(kCpu);
  {
    const Range range("open");
    profiler::stop();
    profiler::start(kCpu);
  }
  EXPECT_EQ(profiler::stop().milliseconds, 0);
}

TEST_F(Profiler, KernelsAreRangesOnTheirDevice) {
  profiler::start(kCpu);
  const Tensor a = ones({8});
  add(a, a);
  add(a, a);
  const Report report = profiler::stop();
  EXPECT_EQ(row_of(report.ops, "arithmetic").calls, 2) << to_text(report);
}

TEST_F(Profiler, AModelTellsItsLayersForwardAndBackward) {
  for (const nn::Recompute recompute :
       {nn::Recompute::none, nn::Recompute::attention, nn::Recompute::block}) {
    const nn::DecoderConfig config{
        .vocab_size = 11, .n_layers = 2, .d_model = 6, .d_ff = 10, .recompute = recompute};
    Generator generator(1);
    nn::DecoderLM model(
        config, [&](int) { return std::make_unique<nn::ShiftMixer>(config.d_model, generator); },
        generator);
    const Tensor tokens = from_vector<int64_t>({1, 2, 3, 4}, {2, 2});
    profiler::start(kCpu);
    model.loss(tokens, tokens).backward();
    const Report report = profiler::stop();
    const int forwards = recompute == nn::Recompute::block ? 2 : 1;
    double in_layers = 0;
    for (const char* const part :
         {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}) {
      const Row row = row_of(report.modules, std::string("model.layers.1.") + part);
      EXPECT_EQ(row.calls, forwards) << part << "\n" << to_text(report);
      EXPECT_GT(row.milliseconds, 0) << part;
      EXPECT_GT(row.backward_milliseconds, 0) << part;
      in_layers += row.backward_milliseconds;
    }
    const Row layer = row_of(report.modules, "model.layers.1");
    EXPECT_EQ(layer.calls, forwards);
    EXPECT_NEAR(layer.backward_milliseconds, in_layers, 1e-9 + 1e-6 * in_layers);
    EXPECT_EQ(row_of(report.modules, "model.embed_tokens").calls, 1);
    EXPECT_EQ(row_of(report.modules, "lm_head").calls, 1);
    EXPECT_EQ(row_of(report.modules, "self_attn").calls, 0) << "a layer without its number";
    if (recompute != nn::Recompute::block) {  // whose record is of no layer
      double by_function = 0, by_module = 0;
      for (const Row& row : report.backward) by_function += row.milliseconds;
      for (const char* const part :
           {"model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"})
        by_module += row_of(report.modules, part).backward_milliseconds;
      EXPECT_NEAR(by_module, by_function, 1e-9 + 1e-6 * by_function) << to_text(report);
    }
    double shares = 0;
    for (const Row& row : report.ops) shares += row.milliseconds;
    EXPECT_GT(shares, 0);
    EXPECT_LE(shares, 1.001 * report.milliseconds);
    const std::string text = to_text(report);
    for (const char* const part : {"forward ms", "backward ms", "model.layers.0.mlp", "matmul"})
      EXPECT_NE(text.find(part), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace weft

// Small decoders of every mechanism on the GPU: scoring, decoding and training as on the CPU.
#include "weft/nn/decoder.h"

#include <algorithm>
#include <cmath>

#include "weft/nn/generation.h"
#include "weft/optim/adamw.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/profiler.h"
#include "weft/tensor/stream.h"

#include "decoder_cases.h"

namespace weft::nn {
namespace {

using attention::testing::kGpu;
using attention::testing::relative_error;

using testing::all_decoder_cases;
using testing::all_same;
using testing::kVocab;
using Case = testing::DecoderCase;

constexpr int64_t kTokens = 48;

std::unique_ptr<DecoderLM> make_model(const Case& variant, DType compute = DType::f32,
                                      Recompute recompute = Recompute::none) {
  return testing::make_decoder(variant, compute, recompute);
}

std::unique_ptr<DecoderLM> make_model_on(Device device, const Case& variant,
                                         DType compute = DType::f32,
                                         Recompute recompute = Recompute::none) {
  auto model = make_model(variant, compute, recompute);
  model->to(device);
  return model;
}

Tensor random_tokens(uint64_t seed, int64_t batch = 2, int64_t tokens = kTokens) {
  Generator generator(seed);
  return randint(0, kVocab, {batch, tokens}, generator, DType::i32);
}

/// Steps of AdamW on fresh tokens; the losses before each.
std::vector<double> train(DecoderLM& model, optim::Optimizer& optimizer, int first, int last) {
  std::vector<double> losses;
  for (int step = first; step < last; ++step) {
    const auto seed = static_cast<uint64_t>(2 * step);
    optimizer.zero_grad();
    const Variable loss = model.loss(random_tokens(seed, 4), random_tokens(seed + 1, 4));
    losses.push_back(loss.data().item<double>());
    loss.backward();
    optimizer.step(1e-3);
  }
  return losses;
}

optim::AdamW make_optimizer(const DecoderLM& model) {
  return optim::AdamW(optim::default_groups(model.named_parameters()));
}

class DecoderOnGpu : public testing::EachDecoderOnGpu {};
INSTANTIATE_TEST_SUITE_P(All, DecoderOnGpu, ::testing::ValuesIn(all_decoder_cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(DecoderOnGpu, ScoresAsOnTheCpu) {
  const auto model = make_model(GetParam()), on = make_model_on(kGpu, GetParam());
  EXPECT_EQ(on->device(), kGpu);
  const Tensor tokens = random_tokens(1), targets = random_tokens(2);
  const Tensor logits = on->logits(tokens).data();
  EXPECT_EQ(logits.device(), kGpu);
  EXPECT_LE(relative_error(logits, model->logits(tokens).data()), 1e-4);
  // Tokens that are there already, in the other type.
  EXPECT_LE(relative_error(on->logits(tokens.to(DType::i64).to(kGpu)).data(), logits), 1e-6);
  EXPECT_LE(relative_error(on->token_losses(tokens, targets), model->token_losses(tokens, targets)),
            1e-4);
  const Tensor rows = from_vector<int64_t>({95, 0, 13, 13}, {4});
  EXPECT_LE(relative_error(on->logits_at(tokens, rows), model->logits_at(tokens, rows)), 1e-4);
  EXPECT_EQ(on->find_non_finite(tokens), "the loss");
}

TEST_P(DecoderOnGpu, BackwardAsOnTheCpu) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (const Recompute recompute :
         {Recompute::none, Recompute::elementwise, Recompute::attention, Recompute::block}) {
      SCOPED_TRACE(std::string(to_string(dtype)) + ", recompute " +
                   std::to_string(static_cast<int>(recompute)));
      const auto model = make_model(GetParam(), dtype);
      const auto on = make_model_on(kGpu, GetParam(), dtype, recompute);
      const Tensor tokens = random_tokens(1), targets = random_tokens(2);
      model->loss(tokens, targets).backward();
      on->loss(tokens, targets).backward();
      const auto expected = model->named_parameters(), got = on->named_parameters();
      ASSERT_EQ(expected.size(), got.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_TRUE(got[i].parameter.grad().defined()) << got[i].name;
        EXPECT_LE(relative_error(got[i].parameter.grad(), expected[i].parameter.grad()),
                  dtype == DType::f64 ? 1e-9 : 1e-3)
            << got[i].name;
      }
    }
  }
}

TEST_P(DecoderOnGpu, GeneratesTheSameTokens) {
  const auto model = make_model(GetParam()), on = make_model_on(kGpu, GetParam());
  const std::vector<int64_t> prompt = {5, 17, 3, 40, 8, 8, 21, 60};
  const GenerationOptions options{.max_new_tokens = 32, .sampling = {.temperature = 0}};
  Generator generator(1);
  const std::vector<int64_t> expected = generate(*model, prompt, options, generator);
  EXPECT_EQ(generate(*on, prompt, options, generator), expected);
  GenerationOptions without_cache = options;
  without_cache.use_cache = false;
  EXPECT_EQ(generate(*on, prompt, without_cache, generator), expected);

  // The comparison is fair where no two best tokens are within rounding of each other.
  std::vector<int64_t> sequence = prompt;
  sequence.insert(sequence.end(), expected.begin(), expected.end());
  const auto length = static_cast<int64_t>(sequence.size());
  const std::vector<float> logits =
      model->logits(from_vector(sequence, {1, length})).data().to_vector<float>();
  for (int64_t t = static_cast<int64_t>(prompt.size()) - 1; t + 1 < length; ++t) {
    std::vector<float> row(logits.begin() + t * kVocab, logits.begin() + (t + 1) * kVocab);
    std::nth_element(row.begin(), row.begin() + 1, row.end(), std::greater<>());
    EXPECT_GT(row[0] - row[1], 1e-3) << "choose another seed: at " << t;
  }
}

TEST_P(DecoderOnGpu, PrefillsAndStepsAsItScores) {
  const auto on = make_model_on(kGpu, GetParam());
  const Tensor tokens = random_tokens(4);
  const Tensor whole = on->logits(tokens).data();
  for (const int64_t first : {1, 7, 16, 33}) {
    DecoderCache cache = on->make_cache(2, kTokens);
    for (int64_t t = first; t <= kTokens; ++t) {
      const Tensor logits =
          on->prefill(t == first ? tokens.slice(1, 0, t) : tokens.slice(1, t - 1, t), cache);
      ASSERT_EQ(logits.device(), kGpu);
      EXPECT_LE(relative_error(logits, whole.select(1, t - 1)), 1e-4)
          << t << " after a prefill of " << first;
    }
  }
}

TEST_P(DecoderOnGpu, CachesTakeTheBytesThatTheyTell) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto on = make_model_on(kGpu, GetParam(), dtype);
    const AllocatorStats before = allocator(kGpu).stats();
    const DecoderCache cache = on->make_cache(1, kTokens);
    const AllocatorStats after = allocator(kGpu).stats();
    int64_t told = 0;
    for (int layer = 0; layer < on->n_layers(); ++layer)
      told += on->mixer(layer).cache_bytes(kTokens, dtype);
    EXPECT_EQ(cache.bytes(), told);
    // Each block is rounded up to 256 bytes.
    const auto taken = static_cast<double>(after.allocated - before.allocated);
    EXPECT_NEAR(taken, static_cast<double>(told),
                256.0 * static_cast<double>(after.count - before.count + 2))
        << to_string(dtype);
  }
}

TEST_P(DecoderOnGpu, RunsInBf16) {
  const auto exact = make_model(GetParam());
  const auto on = make_model_on(kGpu, GetParam(), DType::bf16);
  const Tensor tokens = random_tokens(1), targets = random_tokens(2);
  const Variable loss = on->loss(tokens, targets);
  const double expected = exact->loss(tokens, targets).data().item<double>();
  EXPECT_NEAR(loss.data().item<double>(), expected, 0.03 * expected);
  loss.backward();
  for (const auto& [name, parameter] : on->named_parameters()) {
    ASSERT_TRUE(parameter.grad().defined()) << name;
    EXPECT_EQ(parameter.grad().dtype(), DType::f32) << name;
    EXPECT_TRUE(all_finite(parameter.grad())) << name;
  }
  const Tensor whole = on->logits(tokens).data();
  DecoderCache cache = on->make_cache(2, kTokens);
  Tensor logits = on->prefill(tokens.slice(1, 0, 20), cache);
  for (int64_t t = 20; t < 30; ++t) logits = on->prefill(tokens.slice(1, t, t + 1), cache);
  EXPECT_LE(relative_error(logits, whole.select(1, 29)), 0.1);
}

TEST_P(DecoderOnGpu, TrainsAsOnTheCpu) {
  constexpr int kSteps = 20;
  const auto model = make_model(GetParam()), on = make_model_on(kGpu, GetParam());
  optim::AdamW optimizer = make_optimizer(*model), optimizer_on = make_optimizer(*on);
  const std::vector<double> expected = train(*model, optimizer, 0, kSteps);
  const std::vector<double> got = train(*on, optimizer_on, 0, kSteps);
  for (int step = 0; step < kSteps; ++step) {
    const auto at = static_cast<size_t>(step);
    EXPECT_NEAR(got[at], expected[at], 1e-4 * expected[at]) << "step " << step;
  }
}

TEST_P(DecoderOnGpu, GoesOnOnTheOtherDevice) {
  const auto on = make_model_on(kGpu, GetParam());
  optim::AdamW optimizer_on = make_optimizer(*on);
  train(*on, optimizer_on, 0, 3);
  const auto model = make_model(GetParam());
  optim::AdamW optimizer = make_optimizer(*model);
  model->load_state_dict(on->state_dict());
  optimizer.load_state_dict(optimizer_on.state_dict());
  EXPECT_TRUE(all_same(model->state_dict(), on->state_dict()));
  EXPECT_TRUE(all_same(optimizer.state_dict(), optimizer_on.state_dict()));
  EXPECT_EQ(model->device(), kCpu);
  const double here = train(*model, optimizer, 3, 4)[0], there = train(*on, optimizer_on, 3, 4)[0];
  EXPECT_NEAR(here, there, 1e-4 * here);

  // And back.
  const auto back = make_model_on(kGpu, GetParam());
  optim::AdamW optimizer_back = make_optimizer(*back);
  back->load_state_dict(model->state_dict());
  optimizer_back.load_state_dict(optimizer.state_dict());
  EXPECT_TRUE(all_same(model->state_dict(), back->state_dict()));
  EXPECT_TRUE(all_same(optimizer.state_dict(), optimizer_back.state_dict()));
  const double next = train(*model, optimizer, 4, 5)[0];
  EXPECT_NEAR(train(*back, optimizer_back, 4, 5)[0], next, 1e-4 * next);
}

class DecodersOnGpu : public attention::testing::OnGpu {};

TEST_F(DecodersOnGpu, BlocksAreChosenAsOnTheCpu) {
  // In f64 no two scores agree up to rounding, so that even a choice of few blocks is the same.
  const std::vector<std::string> blocks = {"block=4",        "stride=2", "select-block=8",
                                           "select-count=3", "local=1",  "window=10"};
  for (const char* const mechanism : {"nsa", "asa"}) {
    SCOPED_TRACE(mechanism);
    const Case variant{mechanism, mechanism, blocks};
    const auto model = make_model(variant, DType::f64);
    const auto on = make_model_on(kGpu, variant, DType::f64);
    const Tensor tokens = random_tokens(1), targets = random_tokens(2);
    EXPECT_LE(relative_error(on->logits(tokens).data(), model->logits(tokens).data()), 1e-10);
    model->loss(tokens, targets).backward();
    on->loss(tokens, targets).backward();
    const auto expected = model->named_parameters(), got = on->named_parameters();
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_LE(relative_error(got[i].parameter.grad(), expected[i].parameter.grad()), 1e-9)
          << got[i].name;
    }
  }
}

TEST_F(DecodersOnGpu, ASecondGpuComputesTheSame) {
  const Device second{DeviceType::cuda, 1};
  if (!is_available(second)) GTEST_SKIP() << unavailable_reason(second);
  for (const Case& variant : all_decoder_cases()) {
    SCOPED_TRACE(variant.name);
    const auto model = make_model(variant), on = make_model_on(second, variant);
    EXPECT_EQ(on->device(), second);
    const Tensor tokens = random_tokens(1);
    const Tensor logits = on->logits(tokens).data();
    EXPECT_EQ(logits.device(), second);
    EXPECT_LE(relative_error(logits, model->logits(tokens).data()), 1e-4);
    optim::AdamW optimizer = make_optimizer(*model), optimizer_on = make_optimizer(*on);
    const double expected = train(*model, optimizer, 0, 3).back();
    EXPECT_NEAR(train(*on, optimizer_on, 0, 3).back(), expected, 1e-4 * expected);
  }
}

TEST_F(DecodersOnGpu, ATokenOutsideTheTableIsAnIndexError) {
  const auto on = make_model_on(kGpu, {"full", "full"});
  const Tensor bad = from_vector<int64_t>({1, kVocab, 2}, {1, 3});
  try {
    on->logits(bad).data().to_vector<float>();
    FAIL() << "no error";
  } catch (const IndexError& error) {
    EXPECT_NE(std::string(error.what()).find("61"), std::string::npos) << error.what();
  }
  // What follows is computed as if nothing had been.
  const Tensor tokens = random_tokens(1);
  EXPECT_LE(relative_error(on->logits(tokens).data(),
                           make_model({"full", "full"})->logits(tokens).data()),
            1e-4);
}

TEST_F(DecodersOnGpu, ProfilesTellWhereTimeGoes) {
  const auto on = make_model_on(kGpu, {"full", "full"});
  optim::AdamW optimizer = make_optimizer(*on);
  train(*on, optimizer, 0, 2);
  profiler::start(kGpu);
  train(*on, optimizer, 2, 5);
  const profiler::Report report = profiler::stop();
  EXPECT_EQ(report.device, kGpu);
  EXPECT_GT(report.milliseconds, 0);
  double ops = 0;
  for (const profiler::Row& row : report.ops) {
    EXPECT_GT(row.calls, 0) << row.name;
    EXPECT_GE(row.milliseconds, 0) << row.name;
    ops += row.milliseconds;
  }
  EXPECT_GT(ops, 0);
  EXPECT_LE(ops, 1.001 * report.milliseconds);
  const auto row_of = [](const std::vector<profiler::Row>& rows, const std::string& name) {
    const auto found =
        std::find_if(rows.begin(), rows.end(), [&](const auto& row) { return row.name == name; });
    return found == rows.end() ? profiler::Row{} : *found;
  };
  for (const char* const part : {"model.embed_tokens", "model.layers.0", "model.layers.1.self_attn",
                                 "model.layers.1.mlp", "lm_head"}) {
    const profiler::Row row = row_of(report.modules, part);
    EXPECT_EQ(row.calls, 3) << part;
    EXPECT_GT(row.milliseconds, 0) << part;
    // The loss computes its gradients on the way forward.
    if (std::string(part) != "lm_head") {
      EXPECT_GT(row.backward_milliseconds, 0) << part;
    }
  }
  EXPECT_GT(row_of(report.ops, "matmul").calls, 0) << to_text(report);
}

}  // namespace
}  // namespace weft::nn

// --device: the CPU where no GPU can be used, and the same commands on a GPU.
#include "weft/tensor/device.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/allocator.h"
#include "weft/tensor/device_info.h"
#include "weft/tensor/tensor.h"

#include "common/console.h"
#include "common/machine.h"
#include "common/options.h"
#include "common/run_plan.h"
#include "common/train_config.h"
#include "common/trainer.h"
#include "gpu_context.h"
#include "weft_process.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr Device kGpu{DeviceType::cuda, 0};

Arguments bench_arguments(const Arguments& more = {}) {
  return joined({"bench", "attention", "--d-model", "32", "--n-heads", "4", "--repeats", "2",
                 "--seq-len", "64", "--format", "json"},
                more);
}

TEST(WithoutAGpu, AutoTakesTheCpu) {
  const auto rows = parse_json(weft(bench_arguments({"--device", "auto"})));
  EXPECT_EQ(rows.at(0).at("device"), "cpu");
  EXPECT_NE(rows.at(0).at("device_name"), "");
  const TemporaryFolder folder;
  const Outcome train =
      weft(train_arguments("builtin:stories", folder / "run", {"--device", "auto", "--dry-run"}));
  EXPECT_EQ(train.code, 0) << train.err;
  EXPECT_THAT(train.err, HasSubstr(" on cpu, "));
  EXPECT_THAT(train.err, HasSubstr("device      cpu, since "));
  const Outcome chosen =
      weft(train_arguments("builtin:stories", folder / "run", {"--device", "cpu", "--dry-run"}));
  EXPECT_THAT(chosen.err, Not(HasSubstr("since")));
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}

TEST(WithoutAGpu, CudaIsOneClearErrorInEveryCommand) {
  const TemporaryFolder folder;
  const std::string run = (folder / "run").string();
  ASSERT_EQ(weft(train_arguments("builtin:stories", run)).code, 0);
  for (const Arguments& command :
       {train_arguments("builtin:stories", folder / "other"),
        train_arguments("builtin:stories", folder / "other", {"--dry-run"}),
        Arguments{"eval", "--run", run}, Arguments{"generate", "--run", run}, bench_arguments(),
        Arguments{"bench", "step"}}) {
    for (const char* const device : {"cuda", "cuda:1"}) {
      const Outcome outcome = weft(joined(command, {"--device", device}));
      EXPECT_EQ(outcome.code, 1) << command[0];
      EXPECT_TRUE(is_one_error_line(outcome.err)) << outcome.err;
      EXPECT_THAT(outcome.err, HasSubstr(std::string("--device ") + device));
      EXPECT_EQ(outcome.out, "");
    }
    const Outcome wrong = weft(joined(command, {"--device", "cuda:x"}));
    EXPECT_EQ(wrong.code, 2) << command[0];
    EXPECT_THAT(wrong.err, HasSubstr("allowed are auto, cpu, cuda, cuda:N"));
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "other"));
}

TEST(Profile, IsATableInAFileOrOnStderr) {
  const TemporaryFolder folder;
  const std::string file = (folder / "profile.txt").string();
  const Outcome to_file =
      weft(train_arguments("builtin:stories", folder / "a", {"--profile=" + file}));
  EXPECT_EQ(to_file.code, 0) << to_file.err;
  const std::string table = read_bytes(file);
  for (const char* const part : {"ms on cpu", "matmul", "model.layers.0.self_attn",
                                 "model.layers.0.mlp", "lm_head", "backward of"})
    EXPECT_THAT(table, HasSubstr(part));
  EXPECT_THAT(to_file.err, Not(HasSubstr("self_attn")));

  const Outcome to_stderr = weft(train_arguments("builtin:stories", folder / "b", {"--profile"}));
  EXPECT_EQ(to_stderr.code, 0) << to_stderr.err;
  EXPECT_THAT(to_stderr.err, HasSubstr("model.layers.0.self_attn"));
  // It changes nothing.
  EXPECT_EQ(losses(folder / "a"), losses(folder / "b"));
  const Outcome plain = weft(train_arguments("builtin:stories", folder / "c"));
  EXPECT_EQ(losses(folder / "a"), losses(folder / "c"));
  EXPECT_EQ(tensor_hashes(folder / "a"), tensor_hashes(folder / "c"));
  EXPECT_EQ(read_bytes(folder / "a/config.ini").find("profile"), std::string::npos);

  const Outcome nowhere = weft(train_arguments("builtin:stories", folder / "d",
                                               {"--profile=" + (folder / "none/x").string()}));
  EXPECT_EQ(nowhere.code, 2);
  EXPECT_TRUE(nowhere.err.find("--profile") != std::string::npos) << nowhere.err;
  EXPECT_FALSE(std::filesystem::exists(folder / "d"));
}

TEST(Profile, OfABenchLeavesOutTheWarmUp) {
  const Outcome outcome =
      weft({"bench", "step", "--n-layers", "1", "--d-model", "32", "--n-heads", "2", "--seq-len",
            "16", "--batch-size", "2", "--steps", "3", "--format", "json", "--profile"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const auto result = parse_json(outcome);
  EXPECT_EQ(result.at("device"), "cpu");
  EXPECT_THAT(outcome.err, testing::ContainsRegex("model.layers.0 +3 "));
}

Arguments backend_arguments(const char* backend, const Arguments& more = {}) {
  return joined(
      {"bench", "step", "--n-layers", "2", "--d-model", "128", "--n-heads", "2", "--seq-len", "512",
       "--batch-size", "2", "--steps", "2", "--format", "json", "--attention-backend", backend},
      more);
}

TEST(AttentionBackend, IsTheOneThatTheFlagNames) {
  const auto tiles = parse_json(weft(backend_arguments("weft")));
  const auto reference = parse_json(weft(backend_arguments("reference")));
  const double loss = reference.at("loss").get<double>();
  EXPECT_NEAR(tiles.at("loss").get<double>(), loss, 1e-5 * loss);
  // All scores in memory: of the probabilities alone 2 x 2 x 512 x 512 floats a layer.
  EXPECT_GT(reference.at("peak_tensor_bytes").get<double>(),
            tiles.at("peak_tensor_bytes").get<double>() + 4194304);
  const Outcome cudnn = weft(backend_arguments("cudnn"));
  EXPECT_EQ(cudnn.code, 1);
  EXPECT_TRUE(is_one_error_line(cudnn.err)) << cudnn.err;
  EXPECT_THAT(cudnn.err, HasSubstr("cuDNN runs on GPUs; automatic, weft and reference run here"));
  const Outcome unknown = weft(backend_arguments("flash"));
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("allowed are automatic, cudnn, weft, reference"));
}

TEST(AllocatorVariable, ChangesNoBit) {
  const TemporaryFolder folder;
  ASSERT_EQ(weft(train_arguments("builtin:stories", folder / "caching")).code, 0);
  for (const char* const mode : {"direct", "poison"}) {
    const Outcome outcome = weft(train_arguments("builtin:stories", folder / mode),
                                 {.environment = {{"WEFT_ALLOCATOR", mode}}});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(tensor_hashes(folder / mode), tensor_hashes(folder / "caching")) << mode;
  }
  const Outcome unknown = weft(train_arguments("builtin:stories", folder / "x"),
                               {.environment = {{"WEFT_ALLOCATOR", "other"}}});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("WEFT_ALLOCATOR: 'other' is unknown; allowed are caching, "));
}

TEST(ProductRate, IsThatOfTheDevice) {
  EXPECT_GT(measure_product_rate(DType::f32), 1e8);
  if (!is_available(kGpu)) GTEST_SKIP() << unavailable_reason(kGpu);
  // No GPU that this builds for is slower.
  EXPECT_GT(measure_product_rate(DType::bf16, kGpu), 1e13);
}

/// Commands on the GPU against the same on the CPU.
class OnGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_available(kGpu)) GTEST_SKIP() << unavailable_reason(kGpu);
  }

  static Outcome on_gpu(const Arguments& arguments, ProcessOptions options = {}) {
    options.gpu = true;
    options.timeout = 300;
    return weft(joined(arguments, {"--device", "cuda"}), options);
  }

  Arguments train(const std::string& run, const Arguments& more = {}) const {
    return train_arguments(
        "builtin:stories", folder_ / run,
        joined({"--max-steps", "20", "--d-model", "32", "--save-every", "10", "--eval-every", "10"},
               more));
  }

  std::string path(const std::string& run) const { return (folder_ / run).string(); }

  void expect_close_losses(const std::string& a, const std::string& b, double tolerance) const {
    const auto x = losses(folder_ / a), y = losses(folder_ / b);
    ASSERT_EQ(x.size(), 20u);
    ASSERT_EQ(y.size(), 20u);
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = std::stod(y[i].second);
      EXPECT_NEAR(std::stod(x[i].second), expected, tolerance * expected) << "step " << i + 1;
    }
  }

  TemporaryFolder folder_;
};

TEST_F(OnGpu, AutoTakesIt) {
  const Outcome bench = weft(bench_arguments({"--dtype", "bf16"}), {.gpu = true});
  const auto rows = parse_json(bench);
  EXPECT_EQ(rows.at(0).at("device"), "cuda:0");
  EXPECT_EQ(rows.at(0).at("device_name"), device_info(kGpu).name);
  EXPECT_TRUE(rows.at(0).at("graph").get<bool>()) << bench.err;
  for (const char* const key : {"fwd_ms", "bwd_ms", "decode_ms", "peak_bytes", "kept_bytes"})
    EXPECT_GT(rows.at(0).at(key).get<double>(), 0) << key;
  const auto step = parse_json(weft(
      {"bench", "step", "--n-layers", "1", "--d-model", "32", "--n-heads", "2", "--format", "json"},
      {.gpu = true}));
  EXPECT_EQ(step.at("device"), "cuda:0");
  const Outcome plan = weft(train("run", {"--dry-run"}), {.gpu = true});
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_THAT(plan.err, HasSubstr(device_info(kGpu).name));
  EXPECT_EQ(weft(bench_arguments({"--device", "cuda:63"}), {.gpu = true}).code, 1);
}

TEST_F(OnGpu, TrainsAsTheCpuAndGoesOnThere) {
  for (const char* const mechanism : {"full", "swa", "mla", "gla", "nsa", "asa"}) {
    SCOPED_TRACE(mechanism);
    const std::string name = mechanism;
    const Arguments options = {"--attention", name, "--n-layers", "2"};
    ASSERT_EQ(weft(train(name + "-cpu", options)).code, 0);
    const Outcome gpu = on_gpu(train(name + "-gpu", options));
    ASSERT_EQ(gpu.code, 0) << gpu.err;
    expect_close_losses(name + "-gpu", name + "-cpu", 1e-3);

    // Half of the steps on one device, the rest on the other.
    for (const bool gpu_first : {true, false}) {
      const std::string run = name + (gpu_first ? "-gpu-cpu" : "-cpu-gpu");
      std::filesystem::copy(folder_ / (name + (gpu_first ? "-gpu" : "-cpu")), folder_ / run,
                            std::filesystem::copy_options::recursive);
      std::filesystem::remove(folder_ / run / "checkpoints/step-00000020.h5");
      const Arguments rest = train(run, options);
      const Outcome second = gpu_first ? weft(rest) : on_gpu(rest);
      ASSERT_EQ(second.code, 0) << second.err;
      EXPECT_THAT(second.err, HasSubstr("resumed after step 10"));
      expect_close_losses(run, name + "-cpu", 1e-3);
    }

    const auto loss_on = [&](const Outcome& outcome) {
      return parse_json(outcome).at("loss").get<double>();
    };
    const Arguments eval = {"eval",     "--run", path(name + "-gpu"), "--max-sequences", "8",
                            "--format", "json"};
    const double expected = loss_on(weft(eval));
    EXPECT_NEAR(loss_on(on_gpu(eval)), expected, 1e-4 * expected);
    const Arguments generate = {
        "generate",         "--run", path(name + "-gpu"), "--temperature", "0",
        "--max-new-tokens", "16",    "--prompt",          "The "};
    const Outcome text = on_gpu(generate);
    EXPECT_EQ(text.code, 0) << text.err;
    EXPECT_GT(text.out.size(), 15u);
  }
}

TEST_F(OnGpu, EveryKindOfStepRuns) {
  for (const Arguments& options :
       std::vector<Arguments>{{"--dtype", "bf16"},
                              {"--dtype", "bf16", "--recompute", "block"},
                              {"--dtype", "auto", "--optimizer", "muon"},
                              {"--optimizer", "sgd", "--grad-accum-steps", "2", "--tie-embeddings"},
                              {"--dropout", "0.2"},
                              {"--dropout", "0.2", "--recompute", "attention"},
                              {"--sample-every", "10", "--sample-tokens", "8"},
                              {"--profile"}}) {
    SCOPED_TRACE(options[0] + options.back());
    const std::string run = "run" + std::to_string(std::hash<std::string>()(options.back()));
    const Outcome outcome = on_gpu(train(run, options));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_THAT(outcome.err, Not(HasSubstr("without a CUDA graph")));
    std::filesystem::remove_all(folder_ / run);
  }
}

TEST_F(OnGpu, VariablesForFindingErrorsChangeNoResult) {
  ASSERT_EQ(on_gpu(train("plain", {"--deterministic"})).code, 0);
  const std::vector<std::pair<std::string, std::string>> variables = {
      {"WEFT_CUDA_SYNC", "1"}, {"WEFT_ALLOCATOR", "direct"}, {"WEFT_ALLOCATOR", "poison"}};
  for (const auto& [variable, value] : variables) {
    SCOPED_TRACE(variable + "=" + value);
    const std::string run = variable + value;
    const Outcome outcome =
        on_gpu(train(run, {"--deterministic"}), {.environment = {{variable, value}}});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    expect_close_losses(run, "plain", 1e-5);
    if (value == "poison") continue;
    EXPECT_THAT(outcome.err, HasSubstr("steps run without a CUDA graph: graph: "));
  }
}

TEST_F(OnGpu, AttentionIsByTheBackendThatTheFlagNamesWhichIsToldOnce) {
  const double loss =
      parse_json(on_gpu(backend_arguments("reference", {"--dtype", "bf16"}))).at("loss");
  std::vector<std::pair<const char*, const char*>> backends = {
      {"weft", ": by Weft's kernels (asked for by name)"}};
#ifdef WEFT_HAVE_CUDNN
  backends.emplace_back("cudnn", ": by cuDNN");
#endif
  for (const auto& [backend, told] : backends) {
    SCOPED_TRACE(backend);
    const Outcome outcome = on_gpu(backend_arguments(backend, {"--dtype", "bf16"}));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_NEAR(parse_json(outcome).at("loss").get<double>(), loss, 1e-3 * loss);
    const std::string forward = "flash_attention bf16, 2 heads of 64 over 2, causal, on cuda:0";
    const size_t first = outcome.err.find(forward);
    ASSERT_NE(first, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.compare(first + forward.size(), std::string(told).size(), told), 0)
        << outcome.err;
    EXPECT_EQ(outcome.err.find(forward, first + 1), std::string::npos) << outcome.err;
  }
}

TEST_F(OnGpu, AnotherThanTheFirstServesAsWell) {
  if (!is_available({DeviceType::cuda, 1})) GTEST_SKIP() << "there is one GPU";
  const ProcessOptions all{.timeout = 300, .gpu = true};
  ASSERT_EQ(weft(train("cpu")).code, 0);
  const Outcome outcome = weft(train("gpu", {"--device", "cuda:1"}), all);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  expect_close_losses("gpu", "cpu", 1e-3);
  const Outcome text = weft({"generate", "--run", path("gpu"), "--device", "cuda:1"}, all);
  EXPECT_EQ(text.code, 0) << text.err;
}

/// `weft train` within this process.
int train_here(const Arguments& arguments) {
  TrainConfig config;
  Options options("train", "", "");
  config.add_to(options);
  options.parse({arguments.begin() + 1, arguments.end()});
  Console console(config.console);
  RunPlan plan(config);
  plan.describe(console);
  return Trainer(std::move(plan), options.to_config(), console).run();
}

/// Ends the process: with 0 where training on the second GPU gave that one alone a context.
[[noreturn]] void train_on_the_second_and_exit() {
  int code = 1;
  try {
    const TemporaryFolder folder;
    code = train_here(train_arguments(
        "builtin:stories", folder / "run",
        {"--device", "cuda:1", "--dtype", "bf16", "--save-every", "2", "--eval-every", "2"}));
    fmt::print(stderr, "exit code {}; contexts: first GPU {}, second GPU {}\n", code,
               test::has_gpu_context(0), test::has_gpu_context(1));
    if (test::has_gpu_context(0) || !test::has_gpu_context(1)) code = 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
  }
  std::_Exit(code);
}

/// A context would take memory of the first GPU, and could not be had where that is full. It lasts
/// as long as the process, so that the test needs one of its own, in which nothing asks for cuda:0.
TEST(SecondOnGpuDeathTest, TrainingLeavesTheFirstAlone) {
  if (cuda_device_count() < 2) GTEST_SKIP() << "needs two GPUs, there is " << cuda_device_count();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(train_on_the_second_and_exit(), testing::ExitedWithCode(0), "");
}

TEST_F(OnGpu, RetrievalSuitesRun) {
  for (const std::string suite : {"recall", "needle"}) {  // each has characters of its own
    SCOPED_TRACE(suite);
    const Outcome trained =
        on_gpu(train_arguments("builtin:" + suite, folder_ / suite, {"--seq-len", "128"}));
    ASSERT_EQ(trained.code, 0) << trained.err;
    const Outcome outcome = on_gpu(
        {"eval", "--run", path(suite), "--suite", suite, "--documents", "4", "--format", "json"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(outcome.err.empty()) << outcome.err;
  }
}

/// One message at the end that says what was asked for, what is there and what helps; and no
/// checkpoint, whole or half-written.
void expect_short_memory(const Outcome& outcome, const std::filesystem::path& run) {
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  const size_t last = outcome.err.rfind("weft: ");
  ASSERT_NE(last, std::string::npos) << outcome.err;
  for (const char* const part :
       {"out of memory on cuda:0", "requested", "free", "cached", "peak", "--batch-size",
        "--grad-accum-steps", "--recompute", "--seq-len", "--dtype"})
    EXPECT_THAT(outcome.err.substr(last), HasSubstr(part));
  EXPECT_TRUE(is_one_error_line(outcome.err.substr(last))) << outcome.err;
  EXPECT_TRUE(!std::filesystem::exists(run / "checkpoints") ||
              std::filesystem::is_empty(run / "checkpoints"));
}

TEST_F(OnGpu, ShortMemoryIsOneMessageThatHelps) {
  const Outcome outcome =
      on_gpu(train("run", {"--seq-len", "1k", "--batch-size", "64", "--n-layers", "4"}),
             {.environment = {{"WEFT_CUDA_MEMORY_LIMIT", "134217728"}}});
  expect_short_memory(outcome, folder_ / "run");
  EXPECT_EQ(on_gpu(train("run")).code, 0);
}

TEST_F(OnGpu, ABatchLargerThanTheCardIsOneMessageAndLeavesTheCardFree) {
  // No limit is set: each of these layers keeps about 20 GiB for backward, so the card itself ends
  // it.
  const Outcome outcome = on_gpu(
      train_arguments("builtin:stories", folder_ / "run",
                      {"--seq-len", "1k", "--batch-size", "2k", "--d-model", "256", "--n-heads",
                       "4", "--d-ff", "256", "--n-layers", "24", "--eval-every", "-1"}));
  EXPECT_FALSE(outcome.killed || outcome.timed_out) << outcome.err;
  expect_short_memory(outcome, folder_ / "run");
  // Another process gets more than half of the card in one piece right after.
  const int64_t most = device_info(kGpu).memory_bytes / 10 * 6;
  EXPECT_EQ(full({most}, 1, DType::u8, kGpu).slice(0, most - 1, most).item<int64_t>(), 1);
  allocator(kGpu).empty_cache();
}

}  // namespace
}  // namespace weft::apps

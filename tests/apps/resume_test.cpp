#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/io/atomic_file.h"
#include "weft/io/checkpoint.h"

#include "places.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;

class Resume : public PlaceTest<> {};

TEST_P(Resume, ContinuesToTheBitAfterAKill) {
  const TemporaryFolder folder;
  const Arguments options = {"--max-steps",  "20", "--save-every", "10",
                             "--eval-every", "5",  "--lr",         "0.01"};
  const Outcome whole = train("builtin:stories", folder / "whole", options);
  ASSERT_EQ(whole.code, 0) << whole.err;

  // A run to the same end, killed as soon as it has its first checkpoint.
  {
    Process first(
        train_arguments("builtin:stories", folder / "parts", joined(options, GetParam().arguments)),
        GetParam().options());
    ASSERT_TRUE(first.wait_for(folder / "parts/checkpoints/step-00000010.h5"));
    first.send(SIGKILL);
    first.wait();
  }
  std::filesystem::remove(folder / "parts/checkpoints/step-00000020.h5");  // had it been faster
  const Outcome second = train("builtin:stories", folder / "parts", options);
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_THAT(second.err, HasSubstr("resumed after step 10"));

  const auto expected = losses(folder / "whole");
  EXPECT_EQ(expected.size(), 20u);
  EXPECT_EQ(losses(folder / "parts"), expected);
  const auto hashes = tensor_hashes(folder / "whole");
  EXPECT_GT(hashes.size(), 20u);  // weights and the state of the optimizer
  EXPECT_EQ(tensor_hashes(folder / "parts"), hashes);
}

INSTANTIATE_TEST_SUITE_P(
    Variants, Resume,
    testing::Values(
        Place{"AdamWF32", {"--optimizer", "adamw"}},
        Place{"AdamWBf16", {"--optimizer", "adamw", "--dtype", "bf16"}},
        Place{"F16WithItsLossScale", {"--dtype", "f16"}},
        Place{"MuonF32", {"--optimizer", "muon", "--n-layers", "2"}},
        Place{
            "MuonBf16Recomputed",
            {"--optimizer", "muon", "--dtype", "bf16", "--recompute", "block", "--dropout", "0.2"}},
        Place{"Sgd", {"--optimizer", "sgd", "--lr-schedule", "wsd"}},
        Place{"DropoutAndAccumulation",
              {"--dropout", "0.2", "--grad-accum-steps", "2", "--tie-embeddings"}},
        // Steps after the first are replayed from a graph: a run that goes on takes its first step
        // otherwise than the whole run took the same.
        Place{"OnGpuAdamWF32", {"--device", "cuda", "--deterministic"}, true},
        Place{"OnGpuMuonBf16Recomputed",
              {"--device", "cuda", "--deterministic", "--optimizer", "muon", "--dtype", "bf16",
               "--recompute", "block", "--grad-accum-steps", "2"},
              true},
        Place{"OnGpuF16WithItsLossScale",
              {"--device", "cuda", "--deterministic", "--dtype", "f16"},
              true},
        Place{"OnGpuDropout", {"--device", "cuda", "--deterministic", "--dropout", "0.2"}, true},
        Place{"OnGpuDropoutRecomputed",
              {"--device", "cuda", "--deterministic", "--dropout", "0.2", "--dtype", "bf16",
               "--recompute", "block", "--grad-accum-steps", "2"},
              true}),
    &name_of);

/// What interrupted saves left, or saves under way are writing.
std::set<std::string> unfinished_checkpoints(const std::filesystem::path& run) {
  std::set<std::string> names;
  std::error_code none_yet;
  for (const auto& item : std::filesystem::directory_iterator(run / "checkpoints", none_yet)) {
    const std::string name = item.path().filename().string();
    if (io::is_temporary(name) && name.starts_with(".step-")) names.insert(name);
  }
  return names;
}

class KillWhileSaving : public PlaceTest<> {};

TEST_P(KillWhileSaving, LeavesTheCheckpointBeforeAndARunThatEndsTheSame) {
  const TemporaryFolder folder;
  // A checkpoint of some megabytes, written after every step.
  const Arguments options = {"--d-model",   "128", "--d-ff",       "512", "--n-layers", "2",
                             "--max-steps", "40",  "--save-every", "1",   "-q"};
  const Outcome whole = train("builtin:stories", folder / "whole", options);
  ASSERT_EQ(whole.code, 0) << whole.err;

  const std::filesystem::path parts = folder / "parts";
  constexpr int kKills = 6;
  int64_t step = 0;
  int torn = 0;
  for (int kill = 0; kill < kKills; ++kill) {
    SCOPED_TRACE(testing::Message() << "kill " << kill << " after step " << step);
    const std::set<std::string> old = unfinished_checkpoints(parts);
    const auto is_saving = [&] {
      const std::vector<int64_t> steps = io::CheckpointFolder(parts / "checkpoints").steps();
      if ((steps.empty() ? 0 : steps.back()) < step + kill) return false;
      for (const std::string& name : unfinished_checkpoints(parts)) {
        if (!old.contains(name)) return true;
      }
      return false;
    };
    Process process(
        train_arguments("builtin:stories", parts, joined(options, GetParam().arguments)),
        GetParam().options());
    ASSERT_TRUE(process.wait_until(is_saving)) << process.wait().err;
    process.send(SIGKILL);
    const Outcome outcome = process.wait();
    ASSERT_TRUE(outcome.killed) << "it ended before: " << outcome.err;
    if (unfinished_checkpoints(parts) != old) ++torn;
    const std::vector<int64_t> steps = io::CheckpointFolder(parts / "checkpoints").steps();
    if (steps.empty()) continue;
    const Outcome found = weft({"inspect", parts.string(), "--format", "json"});
    ASSERT_EQ(found.code, 0) << found.err;
    EXPECT_EQ(found.err, "") << "no checkpoint was damaged";
    const int64_t reached = parse_json(found).at("step");
    EXPECT_EQ(reached, steps.back());
    ASSERT_GE(reached, step) << "a checkpoint was lost";
    step = reached;
  }
  EXPECT_GT(torn, 0) << "every save was over when its process was killed";
  EXPECT_GT(step, 0);
  EXPECT_LT(step, 40);

  const Outcome last = train("builtin:stories", parts, options);
  EXPECT_EQ(last.code, 0) << last.err;
  EXPECT_EQ(losses(parts), losses(folder / "whole"));
  EXPECT_EQ(tensor_hashes(parts), tensor_hashes(folder / "whole"));
  EXPECT_TRUE(unfinished_checkpoints(parts).empty()) << "left over";
}

INSTANTIATE_TEST_SUITE_P(
    Places, KillWhileSaving,
    testing::Values(Place{"OnCpu"}, Place{"OnGpu", {"--device", "cuda", "--deterministic"}, true}),
    &name_of);

class StopSignal : public testing::TestWithParam<int> {};

TEST_P(StopSignal, SavesAndTheSameCommandContinues) {
  const TemporaryFolder folder;
  const Arguments whole = train_arguments("builtin:stories", folder / "whole",
                                          {"--max-steps", "1500", "--eval-every", "1k", "-q"});
  Arguments parts = whole;
  *std::find(parts.begin(), parts.end(), (folder / "whole").string()) = (folder / "parts").string();
  Outcome stopped;
  {
    Process process(parts);
    ASSERT_TRUE(process.wait_for(folder / "parts/metrics.csv"));
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    process.send(GetParam());
    stopped = process.wait();
  }
  EXPECT_EQ(stopped.code, 128 + GetParam()) << stopped.err;
  EXPECT_FALSE(stopped.killed);
  const auto at = parse_json(weft({"inspect", (folder / "parts").string(), "--format", "json"}));
  const int step = at.at("step");
  EXPECT_GT(step, 0);
  EXPECT_LT(step, 1500);
  EXPECT_EQ(losses(folder / "parts").size(), static_cast<size_t>(step));
  EXPECT_THAT(read_bytes(folder / "parts/train.log"), HasSubstr("the same command continues"));

  EXPECT_EQ(weft(parts).code, 0);
  EXPECT_EQ(weft(whole).code, 0);
  EXPECT_EQ(losses(folder / "parts"), losses(folder / "whole"));
  EXPECT_EQ(tensor_hashes(folder / "parts"), tensor_hashes(folder / "whole"));
}

INSTANTIATE_TEST_SUITE_P(Signals, StopSignal, testing::Values(SIGINT, SIGTERM),
                         [](const auto& info) { return info.param == SIGINT ? "Int" : "Term"; });

TEST(StopSignals, DoNotDisturbLargeMatrixProducts) {
  const TemporaryFolder folder;
  for (int i = 0; i < 12; ++i) {
    // The run begins with products of 768 x 768, which is where most of these signals come.
    const std::string run = (folder / std::to_string(i)).string();
    Process process(train_arguments("builtin:stories", run, {"--max-steps", "1M", "-q"}));
    ASSERT_TRUE(process.wait_for(run + "/metrics.csv"));
    std::this_thread::sleep_for(std::chrono::milliseconds(5 * i));
    process.send(SIGTERM);
    const Outcome outcome = process.wait();
    EXPECT_EQ(outcome.code, 128 + SIGTERM) << outcome.err;
    EXPECT_FALSE(outcome.killed);
    EXPECT_EQ(weft({"inspect", run}).code, 0);
  }
}

TEST(StopSignals, ASecondOneStopsAtOnce) {
  const TemporaryFolder folder;
  // One step takes minutes here.
  Process process({"train", "--data", "builtin:stories", "-o", (folder / "run").string(),
                   "--batch-size", "256", "--seq-len", "1k", "--n-layers", "1"});
  ASSERT_TRUE(process.wait_for(folder / "run/metrics.csv"));
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  process.send(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto start = std::chrono::steady_clock::now();
  process.send(SIGTERM);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 128 + SIGTERM) << outcome.err;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  EXPECT_FALSE(std::filesystem::exists(folder / "run/checkpoints"));
}

TEST(ResumeChoice, NeverStartsAnewAndAPathIsTaken) {
  const TemporaryFolder folder;
  const auto train = [&](const char* run, const Arguments& more) {
    return weft(train_arguments("builtin:stories", folder / run,
                                joined({"--max-steps", "6", "--save-every", "3"}, more)));
  };
  ASSERT_EQ(train("a", {}).code, 0);
  const Outcome anew = train("a", {"--resume", "never"});
  EXPECT_EQ(anew.code, 0) << anew.err;
  EXPECT_THAT(anew.err, HasSubstr("step 00001/"));
  const std::string checkpoint = (folder / "a/checkpoints/step-00000003.h5").string();
  const Outcome branch = train("b", {"--resume", checkpoint});
  EXPECT_EQ(branch.code, 0) << branch.err;
  EXPECT_THAT(branch.err, HasSubstr("resumed after step 3 from " + checkpoint));
  EXPECT_EQ(tensor_hashes(folder / "b"), tensor_hashes(folder / "a"));
  const Outcome longer = train("b", {"--max-steps", "8"});
  EXPECT_EQ(longer.code, 2) << "--max-steps is given twice";
}

TEST(ResumeChoice, F16GoesOnFromARunOfAnotherTypeWithAFreshLossScale) {
  const TemporaryFolder folder;
  const auto train = [&](const char* dtype, const Arguments& more) {
    return weft(
        train_arguments("builtin:stories", folder / "run", joined({"--dtype", dtype}, more)));
  };
  ASSERT_EQ(train("f32", {}).code, 0);
  EXPECT_FALSE(tensor_hashes(folder / "run").contains("loss_scaler.scale"));
  const Outcome half = train("f16", {"--max-steps", "8"});
  ASSERT_EQ(half.code, 0) << half.err;
  EXPECT_THAT(half.err, HasSubstr("resumed after step 4"));
  EXPECT_EQ(losses(folder / "run").size(), 8u);
  const auto saved = tensor_hashes(folder / "run");
  EXPECT_TRUE(saved.contains("loss_scaler.scale"));

  // The scale that it saved is taken again, and nobody needs it for another type.
  EXPECT_EQ(train("f16", {"--max-steps", "10"}).code, 0);
  EXPECT_EQ(train("f32", {"--max-steps", "12"}).code, 0);
  EXPECT_EQ(losses(folder / "run").size(), 12u);
}

TEST(ResumeChoice, RefusesAnotherModelAndListsTheKeys) {
  const TemporaryFolder folder;
  ASSERT_EQ(weft(train_arguments("builtin:stories", folder / "run")).code, 0);
  const auto before = tensor_hashes(folder / "run");
  const Outcome other = weft(train_arguments(
      "builtin:stories", folder / "run",
      {"--d-model", "32", "--n-layers", "2", "--optimizer", "muon", "--max-steps", "8"}));
  EXPECT_EQ(other.code, 2);
  for (const char* part : {"d-model ('16' saved, '32' given)", "n-layers ('1' saved, '2' given)",
                           "optimizer ('adamw' saved, 'muon' given)"}) {
    EXPECT_THAT(other.err, HasSubstr(part));
  }
  write_bytes(folder / "text.txt", sample_text(50));
  const Outcome tokenizer = weft(train_arguments((folder / "text.txt").string(), folder / "run",
                                                 {"--tokenizer", "char", "--max-steps", "8"}));
  EXPECT_EQ(tokenizer.code, 2);
  EXPECT_THAT(tokenizer.err, HasSubstr("tokenizer"));
  EXPECT_EQ(tensor_hashes(folder / "run"), before);
}

TEST(ResumeChoice, FallsBackFromADamagedCheckpointWithAWarning) {
  const TemporaryFolder folder;
  const Arguments options = {"--max-steps", "6", "--save-every", "2"};
  const Arguments command = train_arguments("builtin:stories", folder / "run", options);
  ASSERT_EQ(weft(command).code, 0);
  const auto expected = tensor_hashes(folder / "run");
  const std::filesystem::path newest = folder / "run/checkpoints/step-00000006.h5";
  const std::string intact = read_bytes(newest);
  for (const char* damage : {"truncated", "flipped", "empty"}) {
    std::string bytes = intact;
    if (damage[0] == 't') bytes.resize(bytes.size() / 2);
    if (damage[0] == 'f') bytes[bytes.size() / 2] ^= 1;
    if (damage[0] == 'e') bytes.clear();
    write_bytes(newest, bytes);
    const Outcome scored =
        weft({"eval", "--run", (folder / "run").string(), "--max-sequences", "1"});
    EXPECT_EQ(scored.code, 0) << scored.err;
    EXPECT_THAT(scored.err, HasSubstr("warning: ")) << damage;
    EXPECT_THAT(scored.out, HasSubstr("step-00000004.h5")) << damage;
    const Outcome resumed = weft(command);
    EXPECT_EQ(resumed.code, 0) << resumed.err;
    EXPECT_THAT(resumed.err, HasSubstr("warning: ")) << damage;
    EXPECT_THAT(resumed.err, HasSubstr("resumed after step 4")) << damage;
    EXPECT_EQ(tensor_hashes(folder / "run"), expected) << damage;
  }
  for (const char* name : {"step-00000002.h5", "step-00000004.h5", "step-00000006.h5"})
    write_bytes(folder / "run/checkpoints" / name, "WEFT");
  const Outcome none = weft(command);
  EXPECT_EQ(none.code, 1) << none.err;
  EXPECT_THAT(none.err, HasSubstr("weft: "));
}

/// Kills a run that saves after every step, again and again, until it reaches its end.
TEST(SlowKills, AHundredLeaveARunThatEndsTheSame) {
  const TemporaryFolder folder;
  const Arguments options = {
      "--max-steps",    "400", "--save-every",    "1", "--keep-checkpoints", "3", "-q",
      "--sample-every", "20",  "--sample-tokens", "3", "--eval-every",       "50"};
  ASSERT_EQ(weft(train_arguments("builtin:stories", folder / "whole", options)).code, 0);
  const Arguments command = train_arguments("builtin:stories", folder / "parts", options);
  std::mt19937 random(1);
  std::uniform_int_distribution<int> milliseconds(20, 260);
  int kills = 0;
  for (int step = 0; kills < 100; ++kills) {
    Process process(command);
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds(random)));
    process.send(SIGKILL);
    const Outcome outcome = process.wait();
    ASSERT_TRUE(outcome.killed || outcome.code == 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    if (!std::filesystem::exists(folder / "parts/checkpoints/latest")) continue;
    const Outcome found = weft({"inspect", (folder / "parts").string(), "--format", "json"});
    ASSERT_EQ(found.code, 0) << "after kill " << kills << ": " << found.err;
    const int reached = parse_json(found).at("step");
    ASSERT_GE(reached, step) << "a kill lost a checkpoint";
    step = reached;
    if (kills % 10 == 0) {
      const Outcome scored =
          weft({"eval", "--run", (folder / "parts").string(), "--max-sequences", "2"});
      ASSERT_EQ(scored.code, 0) << scored.err;
      EXPECT_EQ(scored.err, "") << "no checkpoint was damaged";
    }
  }
  const Outcome last = weft(command);
  EXPECT_EQ(last.code, 0) << last.err;
  EXPECT_EQ(losses(folder / "parts"), losses(folder / "whole"));
  EXPECT_EQ(tensor_hashes(folder / "parts"), tensor_hashes(folder / "whole"));
  for (const auto& item : std::filesystem::directory_iterator(folder / "parts/checkpoints"))
    EXPECT_TRUE(item.path().filename() == "latest" || item.path().extension() == ".h5")
        << "left over: " << item.path();
}

}  // namespace
}  // namespace weft::apps

#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/attention/registry.h"

#include "weft_process.h"

namespace weft::apps {
namespace {

struct Mechanism {
  const char* name;
  const char* options;  ///< --attention-opt, so small that a sequence is longer than what is seen
};

void PrintTo(const Mechanism& mechanism, std::ostream* out) {
  *out << mechanism.name;
}

const std::vector<Mechanism> kMechanisms = {
    {"full", ""},
    {"swa", "window=12"},
    {"mla", "rope-dim=4"},
    {"gla", "rope-dim=4,groups=2"},
    {"nsa", "window=8,block=4,stride=4,select-block=4,select-count=4"},
    {"asa", "window=8,block=4,stride=4,select-block=4,select-count=4,rope-dim=4"}};

class TrainedMechanism : public testing::TestWithParam<Mechanism> {};

TEST_P(TrainedMechanism, LearnsResumesAndWrites) {
  const TemporaryFolder folder;
  Arguments options = {
      "--attention", GetParam().name, "--n-layers",   "2",  "--seq-len", "48",  "--batch-size", "4",
      "--max-steps", "120",           "--save-every", "60", "--lr",      "0.02"};
  if (*GetParam().options != '\0') {
    options.insert(options.end(), {"--attention-opt", GetParam().options});
  }
  const auto run = [&](const char* name) { return (folder / name).string(); };

  const Outcome whole = weft(train_arguments("builtin:stories", run("whole"), options));
  ASSERT_EQ(whole.code, 0) << whole.err;
  const auto course = losses(run("whole"));
  ASSERT_EQ(course.size(), 120u);
  const auto mean = [&](size_t from) {
    double sum = 0;
    for (size_t i = from; i < from + 10; ++i) sum += std::stod(course[i].second);
    return sum / 10;
  };
  EXPECT_LT(mean(110), 0.8 * mean(0));

  options.insert(options.end(), {"--resume", run("whole") + "/checkpoints/step-00000060.h5"});
  const Outcome rest = weft(train_arguments("builtin:stories", run("rest"), options));
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_THAT(rest.err, testing::HasSubstr("resumed after step 60"));
  EXPECT_EQ(tensor_hashes(run("rest")), tensor_hashes(run("whole")));

  // Far beyond the window, from a prompt shorter and one longer than it.
  for (const char* prompt : {"One", "Once upon a time there was a red fox that"}) {
    const Arguments generate = {"generate",      "--run", run("whole"), "--prompt",        prompt,
                                "--temperature", "0",     "-q",         "--max-new-tokens"};
    Arguments cached = generate;
    cached.push_back("40");
    Arguments uncached = cached;
    uncached.push_back("--no-cache");
    const Outcome text = weft(cached);
    ASSERT_EQ(text.code, 0) << text.err;
    EXPECT_GE(text.out.size(), 40u);
    EXPECT_EQ(weft(uncached).out, text.out);
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrainedMechanism, testing::ValuesIn(kMechanisms),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(TrainedMechanisms, AreAllThereAre) {
  for (const attention::MechanismInfo& mechanism : attention::mechanisms()) {
    const bool found = std::any_of(kMechanisms.begin(), kMechanisms.end(),
                                   [&](const Mechanism& m) { return m.name == mechanism.name; });
    EXPECT_TRUE(found || mechanism.name == "asa-local" || mechanism.name == "asa-global")
        << mechanism.name;
  }
}

}  // namespace
}  // namespace weft::apps

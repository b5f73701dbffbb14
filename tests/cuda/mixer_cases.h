#pragma once

// Every mechanism with some of its options.
#include <cctype>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weft/attention/registry.h"
#include "weft/nn/sequence_mixer.h"

#include "attention_cuda_test_data.h"

namespace weft::attention::testing {

inline constexpr int64_t kWidth = 48;

/// A mechanism with some of its options.
struct MixerCase {
  std::string mechanism;
  std::vector<std::string> options{};
};

inline std::string name_of(const MixerCase& variant) {
  std::string name = variant.mechanism;
  for (const std::string& option : variant.options) name += "_" + option;
  for (char& letter : name) {
    if (std::isalnum(static_cast<unsigned char>(letter)) == 0) letter = '_';
  }
  return name;
}

inline std::unique_ptr<nn::SequenceMixer> make_mixer(const MixerCase& variant,
                                                     int64_t width = kWidth) {
  // Large weights, so that attention is far from uniform.
  AttentionConfig config{
      .shape = {.d_model = width, .n_heads = 4, .n_kv_heads = 2, .n_layers = 1, .init_std = 0.3},
      .schedule = variant.mechanism,
      .options = variant.options};
  Generator generator(3);
  return make_mixer_factory(config, generator)(0);
}

inline std::vector<MixerCase> all_mixer_cases() {
  std::vector<MixerCase> cases;
  for (const MechanismInfo& mechanism : mechanisms()) {
    if (mechanism.schedule.empty()) cases.push_back({mechanism.name});
  }
  cases.push_back({"swa", {"window=7"}});
  cases.push_back({"mla", {"form=absorbed"}});
  cases.push_back({"gla", {"form=absorbed", "latent-dim=5"}});
  cases.push_back({"asa-local", {"window=7"}});
  const std::vector<std::string> blocks = {"block=4", "stride=2", "select-block=8", "local=1",
                                           "select-count=3"};
  for (const std::string more : {"form=absorbed", "query-run=1", "compressor=weighted"}) {
    cases.push_back({"asa-global", blocks});
    cases.back().options.push_back(more);
  }
  // All blocks of 150 tokens, so that rounding changes nothing of what is chosen.
  const std::vector<std::string> all_blocks = {"block=4", "stride=2", "select-block=8", "local=1",
                                               "select-count=19"};
  const auto add = [&](const char* mechanism, std::vector<std::string> more) {
    more.insert(more.end(), all_blocks.begin(), all_blocks.end());
    cases.push_back({mechanism, std::move(more)});
  };
  for (const char* const form : {"form=naive", "form=absorbed"}) add("asa-global", {form});
  add("asa-global", {"compressor=weighted", "query-run=1"});
  add("nsa", {"compressor=weighted"});
  add("nsa", {"compressor=linear", "kv-sharing=shared", "cmp-rope=middle"});
  add("nsa", {"compressor=mlp", "compressor-residual=true", "gate-hidden=12", "value-dim=16"});
  // With a mean, since biases and positions would add the same to all keys, which changes nothing.
  add("nsa", {"compressor=mean", "cmp-rope=before"});
  return cases;
}

/// Runs for each of all_mixer_cases(), where there is a GPU.
class MixerOnGpu : public ::testing::TestWithParam<MixerCase> {
 protected:
  void SetUp() override {
    if (!is_available(kGpu)) GTEST_SKIP() << unavailable_reason(kGpu);
  }
};

}  // namespace weft::attention::testing

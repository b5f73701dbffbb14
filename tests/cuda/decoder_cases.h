#pragma once

// Small decoders of every mechanism.
#include <algorithm>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "weft/attention/registry.h"
#include "weft/nn/decoder.h"
#include "weft/tensor/parallel.h"

#include "attention_cuda_test_data.h"

namespace weft::nn::testing {

inline constexpr int64_t kVocab = 61;

/// A mechanism with some of its options.
struct DecoderCase {
  std::string name;
  std::string mechanism;
  std::vector<std::string> options{};
};

inline void PrintTo(const DecoderCase& variant, std::ostream* stream) {
  *stream << variant.name;
}

/// nsa and asa read all six blocks of a sequence of 48 tokens. With fewer, two blocks whose scores
/// agree up to rounding could be chosen in another order on the other device, and all later values
/// differ: right for both, but no ground to compare on.
inline std::vector<DecoderCase> all_decoder_cases() {
  const std::vector<std::string> blocks = {"block=8",        "stride=4", "select-block=8",
                                           "select-count=6", "local=1",  "window=16"};
  return {{"full", "full"}, {"swa", "swa", {"window=16"}}, {"mla", "mla"},
          {"gla", "gla"},   {"nsa", "nsa", blocks},        {"asa", "asa", blocks}};
}

struct DecoderShape {
  int64_t d_model = 48;
  int64_t d_ff = 80;
  /// Large, so that attention and logits are far from uniform.
  double init_std = 0.2;
  double dropout = 0;
};

inline std::unique_ptr<DecoderLM> make_decoder(const DecoderCase& variant,
                                               DType compute = DType::f32,
                                               Recompute recompute = Recompute::none,
                                               const DecoderShape& shape = {}) {
  const DecoderConfig config{.vocab_size = kVocab,
                             .n_layers = 2,
                             .d_model = shape.d_model,
                             .d_ff = shape.d_ff,
                             .dropout = shape.dropout,
                             .init_std = shape.init_std,
                             .compute_dtype = compute,
                             .recompute = recompute};
  Generator generator(3);
  const attention::AttentionConfig attention{.shape = {.d_model = config.d_model,
                                                       .n_heads = 4,
                                                       .n_kv_heads = 2,
                                                       .n_layers = config.n_layers,
                                                       .init_std = config.init_std},
                                             .schedule = variant.mechanism,
                                             .options = variant.options};
  auto model = std::make_unique<DecoderLM>(
      config, attention::make_mixer_factory(attention, generator), generator);
  if (compute == DType::f64) model->to(DType::f64);
  return model;
}

inline bool all_same(const StateDict& a, const StateDict& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].name != b[i].name ||
        !attention::testing::same_bits(a[i].tensor.to(kCpu), b[i].tensor.to(kCpu)))
      return false;
  }
  return true;
}

/// Runs for each of all_decoder_cases(), where there is a GPU. These decoders are so small that
/// many threads on the CPU would mostly wait for each other.
class EachDecoderOnGpu : public ::testing::TestWithParam<DecoderCase> {
 protected:
  void SetUp() override {
    if (!is_available(attention::testing::kGpu))
      GTEST_SKIP() << unavailable_reason(attention::testing::kGpu);
    set_num_threads(std::min(threads_, 4));
  }
  void TearDown() override { set_num_threads(threads_); }

 private:
  int threads_ = num_threads();
};

}  // namespace weft::nn::testing

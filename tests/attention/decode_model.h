#pragma once

#include <memory>
#include <string>
#include <vector>

#include "weft/attention/registry.h"
#include "weft/nn/decoder.h"

namespace weft::attention::testing {

inline constexpr int64_t kDecodeVocabulary = 31;

/// A small model whose mechanism decodes by itself.
struct DecodeCase {
  std::string schedule;
  std::vector<std::string> options{};
  int64_t kv_heads = 2;
  bool tied = false;
};

inline std::vector<DecodeCase> decode_cases() {
  return {{"full"},
          {"full", {}, 4},
          {"full", {"rope=false"}, 1, true},
          {"swa", {"window=7"}},
          {"full,swa", {"window=1"}}};
}

/// Large weights: attention is far from uniform, and the most likely tokens differ.
inline std::unique_ptr<nn::DecoderLM> make_decode_model(const DecodeCase& c, DType dtype,
                                                        DType compute_dtype, int64_t width = 32) {
  const nn::DecoderConfig config{.vocab_size = kDecodeVocabulary,
                                 .n_layers = 2,
                                 .d_model = width,
                                 .d_ff = 40,
                                 .tie_embeddings = c.tied,
                                 .init_std = 0.4,
                                 .compute_dtype = compute_dtype};
  const AttentionConfig attention{.shape = {.d_model = width,
                                            .n_heads = 4,
                                            .n_kv_heads = c.kv_heads,
                                            .n_layers = 2,
                                            .init_std = 0.4},
                                  .schedule = c.schedule,
                                  .options = c.options};
  Generator generator(5);
  auto model =
      std::make_unique<nn::DecoderLM>(config, make_mixer_factory(attention, generator), generator);
  model->to(dtype);
  model->eval();
  return model;
}
inline std::unique_ptr<nn::DecoderLM> make_decode_model(const DecodeCase& c, DType dtype) {
  return make_decode_model(c, dtype, dtype);
}

/// Tokens [batch, length].
inline Tensor prompt_rows(int64_t batch, int64_t length) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < batch * length; ++i) ids.push_back((7 * i * i + 3 * i) % 31);
  return from_vector(ids, {batch, length});
}

}  // namespace weft::attention::testing

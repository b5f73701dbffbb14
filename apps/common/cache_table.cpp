#include "common/cache_table.h"

#include <fmt/format.h>

#include "common/attention_bench.h"

namespace weft::apps {
namespace {

constexpr int64_t kLayers = 24;
constexpr int64_t kHeadDim = 64;
constexpr int64_t kLong = 1 << 16;

struct Case {
  const char* layers;
  const char* schedule;
  int64_t n_heads;
  int64_t n_kv_heads;
  std::vector<std::string> options;
  int64_t tokens;
  int64_t left_out = 0;  ///< elements per token and layer that do not count
};

/// Bytes per token and layer, mean over the layers.
double bytes_per_token(const Case& which) {
  const std::vector<std::string> layers = schedule_pattern(which.schedule);
  attention::AttentionConfig config{.shape = {.d_model = which.n_heads * kHeadDim,
                                              .n_heads = which.n_heads,
                                              .n_kv_heads = which.n_kv_heads,
                                              .n_layers = static_cast<int64_t>(layers.size())},
                                    .schedule = which.schedule,
                                    .options = options_of_schedule(which.schedule, which.options)};
  Generator generator(0);
  const nn::MixerFactory factory = attention::make_mixer_factory(config, generator);
  double bytes = 0;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    bytes += static_cast<double>(
        factory(static_cast<int>(layer))->cache_bytes(which.tokens, DType::bf16));
  }
  return bytes / static_cast<double>(layers.size()) / static_cast<double>(which.tokens) -
         2.0 * static_cast<double>(which.left_out);
}

}  // namespace

std::vector<CacheTableRow> cache_table() {
  const std::vector<std::string> blocks = {
      "block=16",          "stride=16",   "select-block=16", "select-count=16",
      "kv-sharing=shared", "rope-dim=32", "groups=2",        "query-run=4"};
  const auto with_window = [&](const char* window) {
    std::vector<std::string> options = blocks;
    options.emplace_back(window);
    return options;
  };
  const auto ring = with_window("window=512");
  const auto no_ring = with_window("window=64k");
  const std::vector<Case> cases = {
      {"MHA, 16 heads (340M)", "full", 16, 16, {}, kLong},
      {"MHA, 32 heads (1.3B)", "full", 32, 32, {}, kLong},
      {"GQA, 4 key heads", "full", 16, 4, {}, kLong},
      {"NSA, 4 key heads", "nsa", 16, 4, ring, kLong},
      {"ASA, latents alone", "gla", 16, 4, blocks, kLong, 32},
      {"ASA, all parts, nothing evicted", "asa", 16, 4, no_ring, kLong},
      {"ASA, local ring evicted, 8k tokens", "asa", 16, 4, ring, 8 << 10},
      {"ASA, local ring evicted, 64k tokens", "asa", 16, 4, ring, kLong},
      {"NSA and windows in turn, 64k tokens", "swa,nsa", 16, 4, ring, kLong},
      {"NSA, 8 key heads", "nsa", 16, 8, ring, kLong},
      {"ASA of 8 key heads' width, nothing evicted", "asa", 16, 8, no_ring, kLong},
  };
  std::vector<CacheTableRow> rows;
  const double nsa = bytes_per_token(cases[3]);
  const double nsa_of_8 = bytes_per_token(cases[9]);
  for (const Case& which : cases) {
    const double bytes = bytes_per_token(which);
    rows.push_back({.layers = which.layers,
                    .elements = bytes / 2,
                    .bytes = bytes,
                    .model_bytes = bytes * kLayers,
                    .to_nsa = bytes / (which.n_kv_heads == 8 ? nsa_of_8 : nsa)});
  }
  return rows;
}

std::string describe_readings(const std::vector<CacheTableRow>& rows) {
  const double gqa = rows[2].bytes;
  const double latents = rows[4].bytes;
  return fmt::format(
      "bf16, mean over 24 layers of heads of 64; blocks of 16 tokens, a window of 512, latents of "
      "256 and rotary\nkeys of 32 numbers. Half of NSA's cache can be read in two ways:\n"
      "  R1, latents: one latent vector serves as key and value, {:.0f} bytes in the place of "
      "{:.0f} "
      "({:.1f}%) before\n      rotary keys and compressed blocks are counted; with all parts "
      "{:.1f}%.\n"
      "  R2, alternation: caches as wide as NSA's, but every second layer keeps a window alone: "
      "{:.1f}% at 64k tokens.\nBoth together: {:.1f}% at 8k, {:.1f}% at 64k tokens.\n",
      latents, gqa, 100 * latents / gqa, 100 * rows[5].to_nsa, 100 * rows[8].to_nsa,
      100 * rows[6].to_nsa, 100 * rows[7].to_nsa);
}

}  // namespace weft::apps

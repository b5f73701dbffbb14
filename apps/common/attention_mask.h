#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weft/attention/registry.h"
#include "weft/nn/sequence_mixer.h"

namespace weft::apps {

/// Which tokens a layer reads to make which output.
struct AttentionMask {
  std::string mechanism;
  int64_t tokens = 0;
  std::vector<std::string> branches;     ///< "cmp", "slc", "win"; one empty name for a single one
  std::vector<std::vector<bool>> reads;  ///< of each branch, [tokens * tokens]: query, then key

  bool read(size_t branch, int64_t query, int64_t key) const {
    return reads[branch][static_cast<size_t>(query * tokens + key)];
  }
};

/// Finds out what a layer reads from how it behaves: output t reads token s when its gradient by
/// that token is not zero. The layer's own token t therefore always counts, as the one that asks.
/// Branches, where the mechanism has gates for them ("gate_proj.bias", by head and branch), are
/// told apart by closing the gates of the others; the biases are set back.
AttentionMask find_mask(nn::SequenceMixer& mixer, const std::string& mechanism,
                        const std::vector<std::string>& branches, int64_t d_model, int64_t tokens,
                        uint64_t seed);

/// The masks of the layers of one repetition of a schedule, with random weights and tokens. Throws
/// ConfigError.
std::vector<AttentionMask> find_masks(const std::string& schedule,
                                      const attention::MixerShape& shape,
                                      const std::vector<std::string>& options, int64_t tokens,
                                      uint64_t seed);

/// The masks beside each other as one SVG file.
std::string plot_masks(const std::vector<AttentionMask>& masks, const std::string& title);

}  // namespace weft::apps

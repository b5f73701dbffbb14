#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weft/attention/registry.h"
#include "weft/nn/sequence_mixer.h"
#include "weft/tensor/dtype.h"

namespace weft::apps {

/// One repetition of a schedule: "full" is one layer, "LG" two. Throws ConfigError on a schedule
/// that parse_schedule() refuses.
std::vector<std::string> schedule_pattern(const std::string& schedule);

/// Those of "key=value" and "mechanism.key=value" that a mechanism of the schedule has, so that one
/// list serves mechanisms with different options.
std::vector<std::string> options_of_schedule(const std::string& schedule,
                                             const std::vector<std::string>& options);

struct AttentionBenchOptions {
  attention::MixerShape shape;       ///< n_layers is set from the schedule
  std::vector<std::string> options;  ///< for every mechanism that has them
  int64_t batch_size = 1;
  DType dtype = DType::f32;
  Device device = kCpu;
  int64_t repeats = 5;
  double max_seconds = 20;  ///< no repetition of a measurement starts after it took this long
  bool forward = true;      ///< time passes over the whole sequence
  bool backward = true;     ///< of them, time training passes; otherwise forward alone, unrecorded
  bool decode = true;
};

/// Medians of one attention layer (projections included), or the mean over the layers of a
/// schedule. Times are taken between events on the device's stream. Forward and backward are
/// recorded as CUDA graphs and replayed where they can be, so that the host's launches count as
/// little as in training; elsewhere, and in decoding, times hold what the GPU waits for them.
struct AttentionBenchResult {
  int64_t layers = 0;  ///< of the schedule
  double parameters = 0;
  double forward_s = 0;
  double backward_s = 0;
  double decode_s = 0;  ///< one token for each sequence, behind seq_len cached ones: of 16 steps
                        ///< that follow one another the mean, as not every step has the same to do
  double best_forward_s =
      0;  ///< of the same repeats, what other work on the machine disturbs least
  double best_backward_s = 0;
  double best_decode_s = 0;
  nn::MixerCost forward{};  ///< FLOP for the whole batch
  nn::MixerCost decode{};
  double peak_bytes = 0;      ///< most bytes of tensors during a forward and backward pass, beyond
                              ///< weights and input
  double kept_bytes = 0;      ///< of those, what stays between forward and backward
  bool replayed = false;      ///< forward and backward came from CUDA graphs
  std::string graph_refusal;  ///< why they did not, on a GPU
  double cache_bytes_per_token = 0;  ///< of one sequence with a cache for seq_len tokens
};

/// Times a mechanism's name or schedule at one sequence length. The cache for decoding is filled by
/// one prefill. Throws ConfigError.
AttentionBenchResult bench_attention(const std::string& schedule, int64_t seq_len,
                                     const AttentionBenchOptions& options);

}  // namespace weft::apps

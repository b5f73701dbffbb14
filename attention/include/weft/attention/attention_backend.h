#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace weft::attention {

/// Whose kernels compute full attention, also over a window: flash_attention_forward() and what
/// uses it. Attention over selected blocks has Weft's kernels alone.
enum class AttentionBackend {
  automatic,  ///< cuDNN on a GPU where it is faster, otherwise Weft's
  cudnn,      ///< NotImplementedError where cuDNN does not do it
  weft,       ///< tiles of the scores, on any device
  reference,  ///< matrix products and softmax in f32 (f64 for f64), with all scores in memory
};

/// "automatic", "cudnn", "weft", "reference".
std::string to_string(AttentionBackend backend);
/// Throws ConfigError with the allowed names.
AttentionBackend parse_attention_backend(std::string_view text);

/// The choice of this process: automatic at first.
AttentionBackend attention_backend();
void set_attention_backend(AttentionBackend backend);

/// Whose kernels do what, on a GPU.
struct AttentionChoice {
  std::string problem;  ///< "flash_attention bf16, 16 heads of 64 over 4, causal, on cuda:0"
  AttentionBackend backend = AttentionBackend::weft;
  std::string reason;  ///< why it is not cuDNN; cuDNN's version where it is
};

/// Is called when a kind of problem first runs, and when it first runs another way. Kinds differ in
/// direction, type, heads, mask and device, not in lengths. Few query rows, as in decoding, are
/// Weft's without a choice and not told. An empty function: nobody is told. Calls come one at a
/// time from the threads that attend, and must not attend themselves.
using AttentionListener = std::function<void(const AttentionChoice&)>;
void set_attention_listener(AttentionListener listener);

}  // namespace weft::attention

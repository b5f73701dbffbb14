#pragma once

// Which kernels run a problem of full attention on a GPU.
#include <string>

#include "weft/attention/attention_backend.h"

#include "kernels/flash_attention_kernels.h"

namespace weft::attention {

/// Puts the problem on the stream by cuDNN, if the process's AttentionBackend and the problem are
/// for it; false, with nothing done, where Weft's kernels are to run. Throws NotImplementedError
/// where cuDNN is asked for by name and does not do it.
bool run_by_cudnn(const char* op, const FlashAttentionParams& params, Stream stream);
bool run_by_cudnn(const char* op, const FlashAttentionBackwardParams& params, Stream stream);

/// Tells the listener of attention_backend.h what it has not been told before.
void tell_attention_choice(const char* op, const FlashAttentionParams& params, Device device,
                           AttentionBackend backend, const std::string& reason);

}  // namespace weft::attention

#include "kernels/attention_choice.h"

#include "weft/tensor/check.h"
#include "weft/tensor/determinism.h"

#include "kernels/split_attention_kernels.h"

#ifdef WEFT_HAVE_CUDNN
#include "cuda/library_check.h"
#include "kernels/cudnn_attention.h"
#endif

namespace weft::attention {
namespace {

/// Below so many products of the whole matrix of scores, cuDNN's plan takes longer to make than
/// many runs of any kernel: prompts have lengths of their own, and every length its plan.
constexpr double kFewProducts = 1 << 28;

/// Why Weft's kernels are preferred where cuDNN's may be able; empty where they are not.
std::string preference(const FlashAttentionParams& p) {
  const double products = static_cast<double>(p.batch * p.heads) * static_cast<double>(p.queries) *
                          static_cast<double>(p.keys) * static_cast<double>(p.dim + p.value_dim);
  if (products < kFewProducts) return "too small to be worth a plan of cuDNN's";
  return "";
}

/// Why this process does not let cuDNN do it; empty where it does.
std::string ban(const FlashAttentionParams& /*params*/) {
  return "";
}
std::string ban(const FlashAttentionBackwardParams& /*params*/) {
  return is_deterministic() ? "cuDNN adds up dq in an order that varies, and results must repeat"
                            : "";
}

#ifdef WEFT_HAVE_CUDNN

const CudnnAttention* find_plan(const FlashAttentionParams& params, int device,
                                cudnnHandle_t handle, std::string* refusal) {
  return cudnn_attention_forward(params, device, handle, refusal);
}
const CudnnAttention* find_plan(const FlashAttentionBackwardParams& params, int device,
                                cudnnHandle_t handle, std::string* refusal) {
  return cudnn_attention_backward(params, device, handle, refusal);
}

/// Runs the problem, or says why not.
template <class Params>
std::string try_cudnn(const char* op, const Params& params, Stream stream) {
  std::string refusal = cudnn_attention_limits(params);
  if (!refusal.empty()) return refusal;
  const cudnn::Handle handle(stream);
  const CudnnAttention* const plan = find_plan(params, stream.device().index, handle, &refusal);
  if (plan == nullptr) return refusal;
  const Tensor workspace =
      empty({static_cast<int64_t>(plan->workspace_bytes())}, DType::u8, stream.device());
  plan->run(params, handle, workspace.raw_data());
  cuda::check_library_work(op, stream);
  return "";
}
std::string cudnn_version() {
  return cudnn::version();
}

#else

std::string try_cudnn(const char* /*op*/, const FlashAttentionParams& /*params*/,
                      Stream /*stream*/) {
  return "this build has no cuDNN (WEFT_ENABLE_CUDNN)";
}
std::string cudnn_version() {
  return "cuDNN";
}

#endif

template <class Params>
bool choose(const char* op, const Params& params, Stream stream) {
  const AttentionBackend wanted = attention_backend();
  const Device device = stream.device();
  std::string reason;
  if (device.is_cpu()) {
    if (wanted != AttentionBackend::cudnn) return false;
    reason = "cuDNN runs on GPUs";
  } else if (wanted == AttentionBackend::weft) {
    reason = "asked for by name";
  } else if (wanted == AttentionBackend::automatic && has_few_rows(params)) {
    return false;  // these always have kernels that spread their keys over the whole GPU
  } else {
    if (wanted == AttentionBackend::automatic) reason = preference(params);
    if (reason.empty()) reason = ban(params);
    if (reason.empty()) reason = try_cudnn(op, params, stream);
    if (reason.empty()) {
      tell_attention_choice(op, params, device, AttentionBackend::cudnn, cudnn_version());
      return true;
    }
  }
  WEFT_CHECK(wanted != AttentionBackend::cudnn, NotImplementedError,
             "{}: the attention backend cudnn is asked for, on {}, but {}; automatic, weft and "
             "reference run here",
             op, device, reason);
  tell_attention_choice(op, params, device, AttentionBackend::weft, reason);
  return false;
}

}  // namespace

bool run_by_cudnn(const char* op, const FlashAttentionParams& params, Stream stream) {
  return choose(op, params, stream);
}

bool run_by_cudnn(const char* op, const FlashAttentionBackwardParams& params, Stream stream) {
  return choose(op, params, stream);
}

}  // namespace weft::attention

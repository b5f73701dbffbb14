#include "cuda/cudnn_choice.h"

#include "weft/tensor/cudnn_choice.h"

#include "cuda/backend.h"
#include "cuda/cudnn_handle.h"
#include "cuda/library_check.h"

namespace weft::cudnn {
namespace {

std::string try_cudnn(const std::function<std::string()>& attempt) {
  if (!is_cudnn_enabled()) return "cuDNN is switched off";
  try {
    return attempt();
  } catch (const UnsupportedGraph& refusal) {
    return refusal.what();
  }
}

}  // namespace

bool run_by_cudnn(const char* op, DType dtype, Device device,
                  const std::function<std::string()>& attempt) {
  const std::string reason = try_cudnn(attempt);
  const bool done = reason.empty();
  if (done) cuda::check_library_work(op, current_stream(device));
  tell_choice(op, dtype, device, done, done ? version() : reason);
  return done;
}

}  // namespace weft::cudnn

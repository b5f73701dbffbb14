#include "weft/tensor/cudnn_choice.h"

#include <atomic>
#include <mutex>
#include <set>
#include <utility>

#include "weft/tensor/check.h"

#include "cuda/cudnn_choice.h"

namespace weft {
namespace {

std::atomic<bool> enabled = true;

struct Listeners {
  std::mutex mutex;
  CudnnListener listener;
  std::set<std::pair<std::string, bool>> told;
};

Listeners& listeners() {
  static Listeners listeners;
  return listeners;
}

}  // namespace

bool is_cudnn_enabled() {
  return enabled;
}

void set_cudnn_enabled(bool value) {
  enabled = value;
}

void set_cudnn_listener(CudnnListener listener) {
  const std::lock_guard lock(listeners().mutex);
  listeners().listener = std::move(listener);
  listeners().told.clear();
}

void cudnn::tell_choice(const char* op, DType dtype, Device device, bool by_cudnn,
                        const std::string& reason) {
  Listeners& told = listeners();
  const std::lock_guard lock(told.mutex);
  if (!told.listener) return;
  std::string problem = fmt::format("{} {} on {}", op, dtype, device);
  if (told.told.emplace(problem, by_cudnn).second)
    told.listener({std::move(problem), by_cudnn, reason});
}

}  // namespace weft

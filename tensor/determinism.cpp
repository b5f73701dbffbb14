#include "weft/tensor/determinism.h"

#include <atomic>

namespace weft {
namespace {

std::atomic<bool> deterministic_flag = false;

}  // namespace

bool is_deterministic() {
  return deterministic_flag;
}

void set_deterministic(bool deterministic) {
  deterministic_flag = deterministic;
}

}  // namespace weft

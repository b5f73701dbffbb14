#include "weft/attention/attention_backend.h"

#include <array>
#include <atomic>
#include <mutex>
#include <set>
#include <utility>

#include "weft/tensor/check.h"

#include "kernels/attention_choice.h"

namespace weft::attention {
namespace {

constexpr std::array<std::pair<AttentionBackend, const char*>, 4> kNames = {
    {{AttentionBackend::automatic, "automatic"},
     {AttentionBackend::cudnn, "cudnn"},
     {AttentionBackend::weft, "weft"},
     {AttentionBackend::reference, "reference"}}};

std::atomic<AttentionBackend> chosen_backend = AttentionBackend::automatic;

struct Listeners {
  std::mutex mutex;
  AttentionListener listener;
  std::set<std::pair<std::string, AttentionBackend>> told;
};

Listeners& listeners() {
  static Listeners listeners;
  return listeners;
}

}  // namespace

std::string to_string(AttentionBackend backend) {
  for (const auto& [value, name] : kNames)
    if (value == backend) return name;
  return "?";
}

AttentionBackend parse_attention_backend(std::string_view text) {
  for (const auto& [value, name] : kNames)
    if (text == name) return value;
  throw_error<ConfigError>(
      "attention backend '{}': allowed are automatic, cudnn, weft and reference", text);
}

AttentionBackend attention_backend() {
  return chosen_backend;
}

void set_attention_backend(AttentionBackend backend) {
  chosen_backend = backend;
}

void set_attention_listener(AttentionListener listener) {
  const std::lock_guard lock(listeners().mutex);
  listeners().listener = std::move(listener);
  listeners().told.clear();
}

void tell_attention_choice(const char* op, const FlashAttentionParams& params, Device device,
                           AttentionBackend backend, const std::string& reason) {
  Listeners& told = listeners();
  const std::lock_guard lock(told.mutex);
  if (!told.listener) return;
  std::string problem =
      fmt::format("{} {}, {} heads of {} over {}{}{}, on {}", op, params.dtype, params.heads,
                  params.dim, params.kv_heads, params.causal ? ", causal" : "",
                  params.window > 0 ? fmt::format(", window {}", params.window) : "", device);
  if (told.told.emplace(problem, backend).second)
    told.listener({std::move(problem), backend, reason});
}

}  // namespace weft::attention

#include "cuda/cudnn_handle.h"

#include <array>
#include <mutex>
#include <utility>
#include <vector>

#include "weft/tensor/check.h"

#include "cuda/relaxed_capture.h"

namespace weft::cudnn {
namespace {

/// Handles that nobody uses, with the stream that each was last set to.
struct Pool {
  struct Entry {
    cudnnHandle_t handle;
    void* stream;
  };
  std::mutex mutex;
  std::vector<Entry> idle;
};

Pool& pool_of(Device device) {
  // Leaked on purpose: at the end of the process the driver may be gone before any destructor.
  static auto& pools = *new std::array<Pool, cuda::kMaxDevices>;
  return pools.at(static_cast<size_t>(device.index));
}

/// The idle handle that was set to `stream`, or else any; null where there is none.
Pool::Entry take_idle(Pool& pool, void* stream) {
  const std::lock_guard lock(pool.mutex);
  if (pool.idle.empty()) return {nullptr, nullptr};
  size_t chosen = pool.idle.size() - 1;
  for (size_t i = 0; i < pool.idle.size(); ++i)
    if (pool.idle[i].stream == stream) chosen = i;
  std::swap(pool.idle[chosen], pool.idle.back());
  const Pool::Entry entry = pool.idle.back();
  pool.idle.pop_back();
  return entry;
}

cudnnHandle_t make_handle() {
  const cuda::RelaxedCapture relaxed;
  cudnnHandle_t handle = nullptr;
  WEFT_CUDNN_CHECK(cudnnCreate(&handle));
  return handle;
}

std::string last_message() {
  std::array<char, 2048> text{};
  cudnnGetLastErrorString(text.data(), text.size());
  return text.data();
}

std::string failure(cudnnStatus_t status, const char* call) {
  return fmt::format("{} failed: {} ({})", call, cudnnGetErrorString(status), last_message());
}

}  // namespace

std::string version() {
  const size_t number = cudnnGetVersion();  // 9.19.0 is 91900
  return fmt::format("cuDNN {}.{}.{}", number / 10000, number / 100 % 100, number % 100);
}

void check(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  const std::string text = failure(status, call);
  if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED) throw UnsupportedGraph(text);
  throw CudaError(text);
}

std::string refusal(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return "";
  const std::string text = failure(status, call);
  if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_EXECUTION_FAILED) throw CudaError(text);
  return text;
}

Handle::Handle(Stream stream) : stream_(stream), guard_(stream.device().index) {
  void* const native = stream.native_handle();
  const Pool::Entry entry = take_idle(pool_of(stream.device()), native);
  handle_ = entry.handle != nullptr ? entry.handle : make_handle();
  if (entry.handle != nullptr && entry.stream == native) return;
  const cudnnStatus_t status = cudnnSetStream(handle_, cuda::native(stream));
  if (status == CUDNN_STATUS_SUCCESS) return;
  cudnnDestroy(handle_);
  check(status, "cudnnSetStream");
}

Handle::~Handle() {
  Pool& pool = pool_of(stream_.device());
  const std::lock_guard lock(pool.mutex);
  pool.idle.push_back({handle_, stream_.native_handle()});
}

}  // namespace weft::cudnn

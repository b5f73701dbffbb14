#include "cuda/device_context.h"

#include <array>
#include <atomic>

#include "weft/tensor/check.h"

#include "cuda/allocator.h"
#include "cuda/backend.h"
#include "cuda/driver_trouble.h"
#include "cuda/graph.h"
#include "cuda/probe.h"

namespace weft::cuda {

std::string driver_trouble(cudaError_t status, int driver_version, int runtime_version) {
  const auto text = [](int version) {
    return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
  };
  // Any driver of the toolkit's major version runs its programs.
  const int needed = runtime_version / 1000 * 1000;
  if (driver_version == 0) {
    return fmt::format("there is no NVIDIA driver (one for CUDA {} or later is needed)",
                       text(needed));
  }
  if (driver_version < needed || status == cudaErrorInsufficientDriver) {
    return fmt::format(
        "the NVIDIA driver is too old: it is for CUDA {}, and this build needs one for CUDA {} or "
        "later",
        text(driver_version), text(needed));
  }
  if (status == cudaErrorNoDevice || status == cudaSuccess)
    return "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it";
  return fmt::format("the NVIDIA driver reports {} ({})", cudaGetErrorName(status),
                     cudaGetErrorString(status));
}

namespace {

/// What the driver said when it was first asked.
struct Driver {
  int devices = 0;
  std::string trouble;  // empty where there is none
};

const Driver& driver() {
  static const Driver driver = [] {
    Driver result;
    const cudaError_t status = cudaGetDeviceCount(&result.devices);
    if (status == cudaSuccess && result.devices > 0) return result;
    cudaGetLastError();
    result.devices = 0;
    int found = 0;
    if (cudaDriverGetVersion(&found) != cudaSuccess) found = 0;
    result.trouble = driver_trouble(status, found, CUDART_VERSION);
    return result;
  }();
  return driver;
}

/// Whether this build has code for the GPU, which only trying tells: the driver compiles portable
/// code for GPUs that are newer than the build.
std::string probe(int index) {
  const auto trouble = [](cudaError_t status) {
    cudaGetLastError();
    return fmt::format("{} ({})", cudaGetErrorName(status), cudaGetErrorString(status));
  };
  const DeviceGuard guard(index, std::nothrow);
  // Makes its context, if it is the current one without having been used as well.
  if (const cudaError_t status = cudaSetDevice(index); status != cudaSuccess)
    return "the driver refuses it: " + trouble(status);
  if (const cudaError_t status = probe_kernel(); status != cudaSuccess) {
    cudaDeviceProp properties{};
    cudaGetDeviceProperties(&properties, index);
    return fmt::format(
        "this build has no code for {} of compute capability {}.{} (WEFT_CUDA_ARCHITECTURES): {}",
        properties.name, properties.major, properties.minor, trouble(status));
  }
  note_device_in_use(index);
  return "";
}

/// Each thread's choice of stream; null stands for the main one. Without a destructor, so that
/// tensors that outlive the thread's other variables can still be freed.
thread_local std::array<void*, kMaxDevices> current_streams;

}  // namespace

int device_count() {
  return driver().devices;
}

std::string unavailable_reason(int index) {
  if (!driver().trouble.empty()) return driver().trouble;
  if (index < 0 || index >= std::min(driver().devices, kMaxDevices)) {
    return fmt::format("there {} {} GPU{}, counted from 0", driver().devices == 1 ? "is" : "are",
                       driver().devices, driver().devices == 1 ? "" : "s");
  }
  static std::array<std::once_flag, kMaxDevices> probed;
  static std::array<std::string, kMaxDevices> reasons;
  const auto at = static_cast<size_t>(index);
  std::call_once(probed[at], [&] { reasons[at] = probe(index); });
  return reasons[at];
}

bool is_any_usable() {
  if (first_device_in_use() >= 0) return true;
  for (int index = 0; index < device_count(); ++index)
    if (unavailable_reason(index).empty()) return true;
  return false;
}

DeviceInfo device_info(int index) {
  cudaDeviceProp properties{};
  WEFT_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  return {properties.name, static_cast<int64_t>(properties.totalGlobalMem)};
}

DeviceContext& device_context(Device device) {
  static std::array<std::once_flag, kMaxDevices> made;
  // Leaked on purpose: tensors in static variables may outlive any order of destruction here.
  static std::array<std::atomic<DeviceContext*>, kMaxDevices> contexts;
  WEFT_CHECK(device.is_cuda(), DeviceError, "cuda: {} is no GPU", device);
  const auto at = static_cast<size_t>(device.index);
  if (at < contexts.size()) {
    DeviceContext* const context = contexts[at].load(std::memory_order_acquire);
    if (context != nullptr) return *context;
  }
  const std::string reason = unavailable_reason(device.index);
  WEFT_CHECK(reason.empty(), DeviceError, "{} is not available: {}", device, reason);
  std::call_once(made[at], [&] { contexts[at].store(new DeviceContext(device.index)); });
  return *contexts[at].load();
}

DeviceContext::DeviceContext(int index) : index_(index) {
  const DeviceGuard guard(index);
  WEFT_CUDA_CHECK(cudaGetDeviceProperties(&properties_, index));
  WEFT_CUDA_CHECK(cudaStreamCreateWithFlags(&main_stream_, cudaStreamNonBlocking));
  allocator_ = make_cuda_allocator(device(), allocator_options_from_environment());
  void* fault = nullptr;
  WEFT_CUDA_CHECK(cudaHostAlloc(&fault, sizeof(Fault), cudaHostAllocMapped));
  host_fault_ = new (fault) Fault{};
  WEFT_CUDA_CHECK(cudaHostGetDevicePointer(&fault, host_fault_, 0));
  device_fault_ = static_cast<Fault*>(fault);
}

Stream DeviceContext::take_stream() {
  const std::lock_guard lock(mutex_);
  cudaStream_t stream = nullptr;
  if (free_streams_.empty()) {
    const DeviceGuard guard(index_);
    WEFT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  } else {
    stream = free_streams_.back();
    free_streams_.pop_back();
  }
  return Stream(device(), stream);
}

void DeviceContext::free_stream(Stream stream) noexcept {
  // Kept, since memory that was allocated on it may outlive its user.
  const std::lock_guard lock(mutex_);
  free_streams_.push_back(native(stream));
}

cublasLtHandle_t DeviceContext::cublas_lt() {
  const std::lock_guard lock(mutex_);
  if (cublas_lt_ == nullptr) {
    const DeviceGuard guard(index_);
    const cublasStatus_t status = cublasLtCreate(&cublas_lt_);
    WEFT_CHECK(status == CUBLAS_STATUS_SUCCESS, CudaError, "{}: cublasLtCreate failed with {}",
               device(), cublasLtGetStatusName(status));
  }
  return cublas_lt_;
}

Workspace DeviceContext::cublas_workspace(Stream stream) {
  // What the library's guide asks for on Hopper and later; 4 MiB serve its older kernels.
  const size_t bytes = size_t{properties_.major >= 9 ? 32u : 4u} << 20;
  const std::lock_guard lock(mutex_);
  std::unique_ptr<Storage>& storage = workspaces_[stream.native_handle()];
  if (storage == nullptr) {
    const StreamGuard guard(stream);
    storage = std::make_unique<Storage>(bytes, device());
  }
  return {storage->data(), bytes};
}

void DeviceContext::check_faults() {
  std::atomic_ref<unsigned> kind(host_fault_->kind);
  if (kind.load() == static_cast<unsigned>(FaultKind::none)) return;
  const Fault fault = *host_fault_;
  kind.store(static_cast<unsigned>(FaultKind::none));
  switch (static_cast<FaultKind>(fault.kind)) {
    case FaultKind::index:
      throw_error<IndexError>("{}: index {} out of range [0, {})", fault.op, fault.value,
                              fault.limit);
    case FaultKind::target:
      throw_error<IndexError>(
          "{}: target {} is not one of V = {} classes, nor the index that is ignored", fault.op,
          fault.value, fault.limit);
    default:
      throw_error<ConfigError>("{}: division of an integer by zero", fault.op);
  }
}

Fault* fault_slot(Device device) {
  return device_context(device).fault_slot();
}

void check_faults(Device device) {
  device_context(device).check_faults();
}

bool is_capturing(Stream stream) {
  leave_unused_device();
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  WEFT_CUDA_CHECK(cudaStreamIsCapturing(native(stream), &status));
  return status != cudaStreamCaptureStatusNone;
}

Stream current_stream(int index) {
  const Device device{DeviceType::cuda, index};
  DeviceContext& context = device_context(device);
  void* const chosen = current_streams[static_cast<size_t>(index)];
  return chosen != nullptr ? Stream(device, chosen) : context.main_stream();
}

void set_current_stream(Stream stream) {
  device_context(stream.device());
  current_streams[static_cast<size_t>(stream.device().index)] = stream.native_handle();
}

void synchronize(Stream stream) {
  refuse_wait_in_capture("stream: synchronize()");
  const DeviceGuard guard(stream.device().index);
  WEFT_CUDA_CHECK(cudaStreamSynchronize(native(stream)));
  check_faults(stream.device());
}

Stream take_stream(int index) {
  return device_context({DeviceType::cuda, index}).take_stream();
}

void free_stream(Stream stream) noexcept {
  device_context(stream.device()).free_stream(stream);
}

void* make_event(int index, bool timed) {
  const DeviceGuard guard(index);
  cudaEvent_t event = nullptr;
  WEFT_CUDA_CHECK(
      cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming));
  return event;
}

void destroy_event(void* event) noexcept {
  leave_unused_device();
  cudaEventDestroy(static_cast<cudaEvent_t>(event));
}

void record_event(void* event, Stream stream) {
  const DeviceGuard guard(stream.device().index);
  WEFT_CUDA_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(event), native(stream)));
}

void wait_for_event(void* event, Stream stream) {
  const DeviceGuard guard(stream.device().index);
  WEFT_CUDA_CHECK(cudaStreamWaitEvent(native(stream), static_cast<cudaEvent_t>(event), 0));
}

void synchronize_event(void* event) {
  refuse_wait_in_capture("event: synchronize()");
  leave_unused_device();
  WEFT_CUDA_CHECK(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
}

double milliseconds_between(void* from, void* to) {
  refuse_wait_in_capture("event: milliseconds_to()");
  leave_unused_device();
  float milliseconds = 0;
  WEFT_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from),
                                       static_cast<cudaEvent_t>(to)));
  return milliseconds;
}

Allocator& allocator(int index) {
  return device_context({DeviceType::cuda, index}).allocator();
}

}  // namespace weft::cuda

#pragma once

#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/device.h"
#include "weft/tensor/profiler.h"

/// Names the CUDA launcher of a kernel where the CUDA backend is built, and a null pointer
/// elsewhere, so that no list of stubs has to be kept.
#ifdef WEFT_HAVE_CUDA
#define WEFT_CUDA_KERNEL(function) (&function)
#else
#define WEFT_CUDA_KERNEL(function) nullptr
#endif

/// Stands where a kernel has no CUDA launcher yet, and says what that one will be called.
#define WEFT_NO_CUDA_KERNEL(function) nullptr

namespace weft {

/// A kernel's launcher on one device, as a function. Each call is a range of the profiler.
template <class Launcher>
class KernelCall;

template <class Result, class... Parameters>
class KernelCall<Result(Parameters...)> {
 public:
  KernelCall(const char* op, Result (*launcher)(Parameters...), Device device)
      : op_(op), launcher_(launcher), device_(device) {}

  Result operator()(Parameters... parameters) const {
    const profiler::Range range(profiler::RangeKind::op, op_, device_);
    return launcher_(std::forward<Parameters>(parameters)...);
  }

 private:
  const char* op_;
  Result (*launcher_)(Parameters...);
  Device device_;
};

/// One kernel of an op: its name and a launcher per device. Constants of this type stand in the
/// op's host file:
///   constexpr Kernel<void(const SoftmaxParams&, Stream)> kSoftmaxForward{
///       "softmax", &softmax_forward_cpu, WEFT_CUDA_KERNEL(softmax_forward_cuda)};
/// and are called as kSoftmaxForward(device)(params, current_stream(device)).
template <class Launcher>
struct Kernel {
  const char* op;
  Launcher* cpu;
  Launcher* cuda;

  KernelCall<Launcher> operator()(Device device) const {
    Launcher* launcher = device.is_cpu() ? cpu : cuda;
    WEFT_CHECK(launcher != nullptr, NotImplementedError,
               "{}: no kernel for {}; there is one for {}", op, device,
               device.is_cpu() ? "cuda" : "cpu");
    return {op, launcher, device};
  }
};

}  // namespace weft

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/tensor.h"

#include "cuda/backend.h"
#include "cuda/device_context.h"
#include "cuda/graph.h"
#include "cuda/pinned_memory.h"

namespace weft::cuda {
namespace {

size_t bytes_of(const Tensor& tensor) {
  return static_cast<size_t>(tensor.numel()) * size_of(tensor.dtype());
}

/// Both dense and of one type.
void upload(const Tensor& source, Tensor& destination) {
  const Stream stream = current_stream(destination.device());
  const DeviceGuard guard(destination.device().index);
  if (is_thread_capturing()) {
    WEFT_CHECK(is_pinned(source.raw_data()), CaptureError,
               "copy: {} to {} cannot be captured in a graph, whose replays would read that memory "
               "again; only page-locked memory can be copied there",
               source, destination.device());
    keep_for_graph(source.storage());
  }
  // From other than page-locked memory the call returns when it has read all of it.
  WEFT_CUDA_CHECK(cudaMemcpyAsync(destination.raw_data(), source.raw_data(), bytes_of(source),
                                  cudaMemcpyHostToDevice, native(stream)));
  if (!is_thread_capturing()) note_pinned_use(source.raw_data(), stream);
}

void download(const Tensor& source, Tensor& destination) {
  if (is_thread_capturing()) {
    const std::string copy = fmt::format("copy: {} to the CPU (to(), item(), to_vector())", source);
    refuse_wait_in_capture(copy.c_str());
  }
  const Stream stream = current_stream(source.device());
  const DeviceGuard guard(source.device().index);
  WEFT_CUDA_CHECK(cudaMemcpyAsync(destination.raw_data(), source.raw_data(), bytes_of(source),
                                  cudaMemcpyDeviceToHost, native(stream)));
  stream.synchronize();
}

/// From one GPU to another, after the work of both streams so far and before their later work.
void copy_to_peer(const Tensor& source, Tensor& destination) {
  const Stream from = current_stream(source.device());
  const Stream to = current_stream(destination.device());
  Event ready(destination.device());
  Event done(source.device());
  ready.record(to);
  ready.make_wait(from);
  {
    const DeviceGuard guard(source.device().index);
    WEFT_CUDA_CHECK(cudaMemcpyPeerAsync(destination.raw_data(), destination.device().index,
                                        source.raw_data(), source.device().index, bytes_of(source),
                                        native(from)));
  }
  done.record(from);
  done.make_wait(to);
}

void move(const Tensor& source, Tensor& destination) {
  if (source.device().is_cpu()) {
    upload(source, destination);
  } else if (destination.device().is_cpu()) {
    download(source, destination);
  } else {
    copy_to_peer(source, destination);
  }
}

}  // namespace

void copy_between_devices(const Tensor& source, Tensor& destination) {
  if (source.dtype() == destination.dtype() && source.is_contiguous() &&
      destination.is_contiguous()) {
    move(source, destination);
    return;
  }
  // Types are converted where that is faster or, between two GPUs, before fewer bytes are moved.
  const bool converts_first = source.device().is_cuda();
  const Tensor from =
      converts_first ? source.to(destination.dtype()).contiguous() : source.contiguous();
  Tensor to = destination.is_contiguous() && destination.dtype() == from.dtype()
                  ? destination
                  : empty(destination.shape(), from.dtype(), destination.device());
  move(from, to);
  if (to.storage() != destination.storage()) destination.copy_(to);
}

}  // namespace weft::cuda

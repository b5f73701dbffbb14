#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "weft/tensor/device.h"
#include "weft/tensor/error.h"
#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Work that cannot become part of a graph: something that waits for the GPU, or reads system
/// memory that may be gone later. Names the operation where it is known.
class CaptureError : public Error {
 public:
  using Error::Error;
};

/// Work on a GPU that was recorded once and is started again as a whole, at the cost of one launch.
///
///   Graph step(device);
///   step.capture([&] { loss = backward_and_update(batch); });
///   step.replay();  // the same kernels on the same addresses
///
/// A replay reads and writes the tensors that the work used, at the addresses they had: new input
/// is copied into the old tensors, and results are found in the tensors that the work made. Numbers
/// of the host that the work read, and what it decided by them, stay as they were. Tensors from
/// outside that the work used must live as long as the graph is replayed.
///
/// Do the same work once before it is captured: libraries choose and load their kernels then, and
/// caches are filled with values that the graph may share.
class Graph {
 public:
  /// Throws DeviceError where the device is not available.
  explicit Graph(Device device);
  /// Waits for the device. Tensors that the work made can still be read afterwards.
  ~Graph();
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;

  Device device() const { return device_; }

  /// Runs `work`, which records what it starts on this thread's current stream of the device, and
  /// computes nothing: results are undefined until replay(). Memory that it allocates there stays
  /// with the graph. Waits for the stream first, and replaces what was captured before.
  ///
  /// `generators` are the random streams that the work draws from, as in autograd::checkpoint(). A
  /// replay draws what the work would draw then, from their present states, and moves them on as
  /// the work would; the capture leaves them where they are. They must live as long as the graph is
  /// replayed. To draw from any other generator cannot be captured, and the mask of dropout from a
  /// state that was taken before is the same in every replay.
  ///
  /// Throws CaptureError where the work cannot be recorded, as under WEFT_ALLOCATOR=direct and
  /// WEFT_CUDA_SYNC=1, NotImplementedError on the CPU, and what `work` throws. After any error the
  /// graph is empty, its memory is given back and the stream can be used; what `work` changed on
  /// the host stays changed, and tensors that it made hold nothing.
  void capture(const std::function<void()>& work, const std::vector<Generator*>& generators = {});
  bool captured() const { return recording_ != nullptr; }
  /// Kernels, copies and fills of a replay; 0 where nothing is captured.
  int64_t nodes() const;

  /// Starts the captured work on this thread's current stream and returns at once. A replay must
  /// run after other work on the stream of the capture, whose scratch memory it shares: use that
  /// stream, or events. Throws CaptureError where nothing is captured, or where a generator has
  /// another seed than at the capture, and CudaError.
  void replay();

  /// Forgets what was captured and gives its memory back. Waits for the device.
  void release();

 private:
  class Recording;

  Device device_;
  std::unique_ptr<Recording> recording_;
};

/// Whether this thread is inside Graph::capture().
bool is_capturing();

/// Inside Graph::capture(), keeps the tensor's memory as long as what is captured: for what caches
/// hand out and may drop later. Does nothing elsewhere.
void keep_for_capture(const Tensor& tensor);

}  // namespace weft

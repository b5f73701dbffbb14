#pragma once

// Recording of graphs. Free of types of CUDA, as backend.h is.
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "weft/tensor/device.h"
#include "weft/tensor/storage.h"
#include "weft/tensor/stream.h"

namespace weft::cuda {

class GraphMemory;

/// What Graph of weft/tensor/graph.h holds once it is captured.
class RecordedGraph {
 public:
  /// Runs `work` and records it. See Graph::capture().
  RecordedGraph(Device device, const std::function<void()>& work);
  /// Waits for replays.
  ~RecordedGraph();
  RecordedGraph(const RecordedGraph&) = delete;
  RecordedGraph& operator=(const RecordedGraph&) = delete;

  /// Outside of captures.
  void replay();
  int64_t nodes() const { return nodes_; }

 private:
  friend void keep_for_graph(const std::shared_ptr<Storage>& storage);

  void record(Stream stream, const std::function<void()>& work);

  struct ExecutableDeleter {
    void operator()(void* executable) const;
  };

  Device device_;
  int64_t nodes_ = 0;
  std::unique_ptr<void, ExecutableDeleter> executable_;
  std::vector<std::shared_ptr<Storage>> kept_;  // what replays read and others may drop
  std::unique_ptr<GraphMemory> memory_;         // goes first, since it waits for replays
};

/// Whether this thread records a graph.
bool is_thread_capturing() noexcept;

/// Throws CaptureError where this thread records a graph: "`operation` waits for the GPU ...".
void refuse_wait_in_capture(const char* operation);

/// Keeps what the graph that this thread records will read, as long as the graph lives.
void keep_for_graph(const std::shared_ptr<Storage>& storage);

}  // namespace weft::cuda

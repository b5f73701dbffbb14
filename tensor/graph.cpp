#include "weft/tensor/graph.h"

#include "weft/tensor/check.h"

#ifdef WEFT_HAVE_CUDA
#include "cuda/graph.h"
#include "recorded_draws.h"
#endif

namespace weft {

#ifdef WEFT_HAVE_CUDA
class Graph::Recording {
 public:
  Recording(Device device, const std::function<void()>& work,
            const std::vector<Generator*>& generators)
      : draws_(generators, device), graph_(device, [&] { draws_.record(work); }) {}

  void replay() {
    draws_.prepare_replay();
    graph_.replay();
  }
  int64_t nodes() const { return graph_.nodes(); }

 private:
  RecordedDraws draws_;
  cuda::RecordedGraph graph_;
};
#else
class Graph::Recording {
 public:
  void replay() {}
  int64_t nodes() const { return 0; }
};
#endif

Graph::Graph(Device device) : device_(device) {
  check_available(device);
}

Graph::~Graph() = default;
Graph::Graph(Graph&& other) noexcept = default;
Graph& Graph::operator=(Graph&& other) noexcept = default;

void Graph::capture(const std::function<void()>& work, const std::vector<Generator*>& generators) {
  WEFT_CHECK(device_.is_cuda(), NotImplementedError,
             "graph: cannot be captured on {}; on a GPU only", device_);
  WEFT_CHECK(!is_capturing(), CaptureError, "graph: captured inside the capture of another one");
  release();
#ifdef WEFT_HAVE_CUDA
  recording_ = std::make_unique<Recording>(device_, work, generators);
#else
  static_cast<void>(work);
  static_cast<void>(generators);
#endif
}

int64_t Graph::nodes() const {
  return recording_ == nullptr ? 0 : recording_->nodes();
}

void Graph::replay() {
  WEFT_CHECK(recording_ != nullptr, CaptureError, "graph: replayed before anything was captured");
  WEFT_CHECK(!is_capturing(), CaptureError,
             "graph: replayed while another graph is being captured");
  recording_->replay();
}

void Graph::release() {
  recording_.reset();
}

bool is_capturing() {
#ifdef WEFT_HAVE_CUDA
  return cuda::is_thread_capturing();
#else
  return false;
#endif
}

void keep_for_capture(const Tensor& tensor) {
#ifdef WEFT_HAVE_CUDA
  if (cuda::is_thread_capturing()) cuda::keep_for_graph(tensor.storage());
#else
  static_cast<void>(tensor);
#endif
}

}  // namespace weft

#include "cuda/graph.h"

#include <algorithm>
#include <exception>
#include <map>
#include <utility>
#include <vector>

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"

#include "cuda/allocator.h"
#include "cuda/device_context.h"
#include "cuda/launch_check.h"

namespace weft::cuda {
namespace {

/// What this thread records.
thread_local RecordedGraph* recorded = nullptr;

struct GraphDeleter {
  void operator()(CUgraph_st* graph) const { cudaGraphDestroy(graph); }
};
using GraphHandle = std::unique_ptr<CUgraph_st, GraphDeleter>;

/// A capture, which ends with the scope at the latest. Allocations on the stream come from the
/// graph's memory meanwhile.
class Capture {
 public:
  Capture(Stream stream, GraphMemory& memory, RecordedGraph* graph)
      : stream_(stream), memory_(memory) {
    // Other threads may do what they like: a loader may take page-locked memory.
    WEFT_CUDA_CHECK(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal));
    memory_.begin_capture(stream);
    recorded = graph;
  }
  ~Capture() {
    if (recorded != nullptr) end();
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  /// Whether something that cannot be recorded was tried.
  bool is_broken() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(native(stream_), &status) != cudaSuccess ||
           status != cudaStreamCaptureStatusActive;
  }

  std::pair<cudaError_t, GraphHandle> end() {
    recorded = nullptr;
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(native(stream_), &graph);
    memory_.end_capture(stream_);
    cudaGetLastError();  // one that broke the capture shall not be found by the next launch
    return {status, GraphHandle(graph)};
  }

 private:
  Stream stream_;
  GraphMemory& memory_;
};

std::vector<cudaGraphNode_t> nodes_of(cudaGraph_t graph) {
  size_t count = 0;
  WEFT_CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  if (count > 0) WEFT_CUDA_CHECK(cudaGraphGetNodes(graph, nodes.data(), &count));
  return nodes;
}

/// Lets every kernel have as much shared memory as any of its nodes asks for. The limit belongs to
/// the kernel, and a launch that needs less has lowered it since an earlier one was captured.
void restore_shared_memory(const std::vector<cudaGraphNode_t>& nodes) {
  std::map<void*, size_t> most;  // bytes by kernel
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
    cudaKernelNodeParams params{};
    if (cudaGraphNodeGetType(node, &type) != cudaSuccess || type != cudaGraphNodeTypeKernel ||
        cudaGraphKernelNodeGetParams(node, &params) != cudaSuccess)
      continue;  // kernels of libraries show no parameters, and see to this themselves
    size_t& bytes = most[params.func];
    bytes = std::max<size_t>(bytes, params.sharedMemBytes);
  }
  for (const auto& [kernel, bytes] : most) {
    constexpr size_t kPlainBytes = size_t{48} << 10;  // need not be asked for
    if (bytes > kPlainBytes)
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(bytes));
  }
  cudaGetLastError();
}

}  // namespace

RecordedGraph::RecordedGraph(Device device, const std::function<void()>& work) : device_(device) {
  const DeviceGuard guard(device.index);
  const Stream stream = current_stream(device);
  WEFT_CHECK(!is_capturing(stream), CaptureError,
             "graph: the stream is part of another graph that is being captured");
  WEFT_CHECK(!waits_for_kernels(), CaptureError,
             "graph: WEFT_CUDA_SYNC=1 waits for every kernel, which no replay can");
  // What is made once for a stream and outlives the graph must not be in the graph's memory.
  DeviceContext& context = device_context(device);
  context.cublas_lt();
  context.cublas_workspace(stream);
  // Memory that is free now can go to the graph; during the capture it could not.
  stream.synchronize();
  context.allocator().empty_cache();
  memory_ = std::make_unique<GraphMemory>(device);
  record(stream, work);
}

RecordedGraph::~RecordedGraph() = default;

void RecordedGraph::ExecutableDeleter::operator()(void* executable) const {
  leave_unused_device();
  cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable));
}

void RecordedGraph::record(Stream stream, const std::function<void()>& work) {
  Capture capture(stream, *memory_, this);
  try {
    work();
  } catch (const CaptureError&) {
    throw;
  } catch (const std::exception& error) {
    const bool failed = dynamic_cast<const CudaError*>(&error) != nullptr || capture.is_broken();
    if (!failed) throw;  // it has nothing to do with graphs
    throw_error<CaptureError>("graph: cannot be captured on {}: {}", device_, error.what());
  }
  const auto [status, graph] = capture.end();
  WEFT_CHECK(status == cudaSuccess && graph != nullptr, CaptureError,
             "graph: cannot be captured on {}: {} ({})", device_, cudaGetErrorName(status),
             cudaGetErrorString(status));
  const std::vector<cudaGraphNode_t> nodes = nodes_of(graph.get());
  nodes_ = std::ssize(nodes);
  restore_shared_memory(nodes);
  cudaGraphExec_t executable = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&executable, graph.get(), 0);
  if (made != cudaSuccess) cudaGetLastError();
  WEFT_CHECK(made == cudaSuccess, CaptureError, "graph: {} nodes cannot be prepared on {}: {} ({})",
             nodes_, device_, cudaGetErrorName(made), cudaGetErrorString(made));
  executable_.reset(executable);
  WEFT_CUDA_CHECK(cudaGraphUpload(executable, native(stream)));
}

void RecordedGraph::replay() {
  const DeviceGuard guard(device_.index);
  const Stream stream = current_stream(device_);
  WEFT_CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable_.get()), native(stream)));
}

bool is_thread_capturing() noexcept {
  return recorded != nullptr;
}

void refuse_wait_in_capture(const char* operation) {
  WEFT_CHECK(recorded == nullptr, CaptureError,
             "{}: waits for the GPU, which cannot be captured in a graph", operation);
}

void keep_for_graph(const std::shared_ptr<Storage>& storage) {
  recorded->kept_.push_back(storage);
}

}  // namespace weft::cuda

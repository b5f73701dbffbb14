#pragma once

// Operation graphs of cuDNN through its backend API: build a graph of operations over tensors,
// compile it to a plan, run the plan on pointers. For sources of the CUDA backend only.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <cudnn_graph.h>

#include "weft/tensor/dtype.h"

#include "cuda/cudnn_handle.h"

namespace weft::cudnn {

/// One backend descriptor: set its attributes, then finalize it.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type);

  Descriptor& set(cudnnBackendAttributeName_t name, int64_t value);
  Descriptor& set(cudnnBackendAttributeName_t name, std::span<const int64_t> values);
  Descriptor& set(cudnnBackendAttributeName_t name, bool value);
  Descriptor& set(cudnnBackendAttributeName_t name, double value);
  Descriptor& set(cudnnBackendAttributeName_t name, void* pointer);
  Descriptor& set(cudnnBackendAttributeName_t name, std::span<void* const> pointers);
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnHandle_t handle);
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnDataType_t type);
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnPointwiseMode_t mode);
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnReduceTensorOp_t op);
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendHeurMode_t mode);
  Descriptor& set(cudnnBackendAttributeName_t name, const Descriptor& value);
  Descriptor& set(cudnnBackendAttributeName_t name, std::span<const Descriptor> values);
  Descriptor& finalize();

  int64_t get_int(cudnnBackendAttributeName_t name) const;
  std::string get_text(cudnnBackendAttributeName_t name) const;
  /// Descriptors that this one holds, at most `limit`, of the given type.
  std::vector<Descriptor> get_list(cudnnBackendAttributeName_t name,
                                   cudnnBackendDescriptorType_t type, int64_t limit) const;

  cudnnBackendDescriptor_t handle() const { return handle_.get(); }

 private:
  Descriptor& set_raw(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                      int64_t count, const void* values);

  struct Destroy {
    void operator()(void* descriptor) const { cudnnBackendDestroyDescriptor(descriptor); }
  };
  std::unique_ptr<void, Destroy> handle_;
};

/// A tensor of a graph, by its number.
using TensorId = int64_t;

struct Binding {
  TensorId tensor;
  const void* data;
};

/// A compiled graph. Whoever captures a run in a CUDA graph keeps the plan as long as that graph,
/// since the plan owns the code of its kernels.
class Plan {
 public:
  size_t workspace_bytes() const { return workspace_bytes_; }
  /// The engine and its knobs, in cuDNN's JSON text.
  std::string description() const;
  /// Puts the work on the handle's stream. `bindings` names every tensor that is neither virtual
  /// nor a scalar; `workspace` is device memory of workspace_bytes().
  void run(cudnnHandle_t handle, std::initializer_list<Binding> bindings, void* workspace) const;

 private:
  friend class Graph;
  struct Scalar {
    TensorId tensor;
    std::vector<std::byte> value;
  };
  explicit Plan(Descriptor descriptor);

  Descriptor descriptor_;
  std::vector<Scalar> scalars_;
  size_t workspace_bytes_ = 0;
};

cudnnDataType_t data_type(DType dtype);

/// Operations in the order of their data flow. Sums and pointwise arithmetic are done in f32.
class Graph {
 public:
  /// A tensor in memory; strides in elements.
  TensorId tensor(cudnnDataType_t type, std::vector<int64_t> dims, std::vector<int64_t> strides);
  /// A row-major tensor in memory.
  TensorId tensor(cudnnDataType_t type, std::vector<int64_t> dims);
  /// A value between operations that need not exist in memory; row-major unless strides are given.
  TensorId between(cudnnDataType_t type, std::vector<int64_t> dims,
                   std::vector<int64_t> strides = {});
  TensorId scalar(float value);
  TensorId scalar(int32_t value);

  /// c = a b over the last two axes; the others broadcast.
  void matmul(TensorId a, TensorId b, TensorId c);
  /// y = mode(x), mode(x, b) or, for a selection, t ? x : b; b and t broadcast.
  void pointwise(cudnnPointwiseMode_t mode, TensorId x, TensorId y);
  void pointwise(cudnnPointwiseMode_t mode, TensorId x, TensorId b, TensorId y);
  void select(TensorId condition, TensorId if_true, TensorId if_false, TensorId y);
  /// y = index along `axis`, of x's shape.
  void index(TensorId x, int64_t axis, TensorId y);
  /// Sums, or takes another reduction, over the axes where y has length 1 or divides x's.
  void reduce(cudnnReduceTensorOp_t op, TensorId x, TensorId y);
  /// y = x with y's shape and strides.
  void reshape(TensorId x, TensorId y);

  const std::vector<int64_t>& dims(TensorId tensor) const { return info(tensor).dims; }

  /// The first plan for the handle's device that cuDNN's heuristics propose and that can be built,
  /// after `skip` proposals. Throws UnsupportedGraph.
  Plan compile(cudnnHandle_t handle, int64_t skip = 0);

 private:
  struct Info {
    Descriptor descriptor;
    cudnnDataType_t type;
    std::vector<int64_t> dims;
  };
  const Info& info(TensorId tensor) const { return tensors_.at(static_cast<size_t>(tensor)); }
  const Descriptor& descriptor(TensorId tensor) const { return info(tensor).descriptor; }
  TensorId add_tensor(cudnnDataType_t type, std::vector<int64_t> dims, std::vector<int64_t> strides,
                      bool is_virtual, bool is_scalar);
  TensorId add_scalar(cudnnDataType_t type, const void* value, size_t bytes);
  void add_pointwise(const Descriptor& mode, TensorId x, const TensorId* b, const TensorId* t,
                     TensorId y);

  std::vector<Info> tensors_;
  std::vector<Descriptor> operations_;
  std::vector<Plan::Scalar> scalars_;
};

}  // namespace weft::cudnn

#include "cuda/cudnn_graph.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "weft/tensor/check.h"

namespace weft::cudnn {
namespace {

constexpr int64_t kAlignment = 16;  // of every pointer, in bytes
constexpr int64_t kMaxProposals = 16;

std::vector<int64_t> row_major(std::span<const int64_t> dims) {
  std::vector<int64_t> strides(dims.size(), 1);
  for (size_t axis = dims.size(); axis-- > 1;)
    strides[axis - 1] = strides[axis] * std::max<int64_t>(dims[axis], 1);
  return strides;
}

cudnnDataType_t arithmetic_type(cudnnDataType_t result) {
  return result == CUDNN_DATA_INT32 || result == CUDNN_DATA_BOOLEAN ? result : CUDNN_DATA_FLOAT;
}

Descriptor pointwise_mode(cudnnPointwiseMode_t mode, cudnnDataType_t result) {
  Descriptor descriptor(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  descriptor.set(CUDNN_ATTR_POINTWISE_MODE, mode)
      .set(CUDNN_ATTR_POINTWISE_MATH_PREC, arithmetic_type(result));
  return descriptor;
}

/// Engines with their knobs that cuDNN proposes for a graph, the best first.
std::vector<Descriptor> proposals(const Descriptor& graph, cudnnBackendHeurMode_t mode) {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)
      .set(CUDNN_ATTR_ENGINEHEUR_MODE, mode)
      .finalize();
  return heuristics.get_list(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
                             kMaxProposals);
}

Descriptor build_plan(const Descriptor& engine, cudnnHandle_t handle) {
  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine)
      .set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)
      .finalize();
  return plan;
}

}  // namespace

cudnnDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return CUDNN_DATA_FLOAT;
    case DType::f64:
      return CUDNN_DATA_DOUBLE;
    case DType::bf16:
      return CUDNN_DATA_BFLOAT16;
    case DType::f16:
      return CUDNN_DATA_HALF;
    default:
      throw_error<DTypeError>("cuDNN: no tensors of type {}", dtype);
  }
}

Descriptor::Descriptor(cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t descriptor = nullptr;
  check(cudnnBackendCreateDescriptor(type, &descriptor), "cudnnBackendCreateDescriptor");
  handle_.reset(descriptor);
}

Descriptor& Descriptor::set_raw(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                int64_t count, const void* values) {
  const cudnnStatus_t status = cudnnBackendSetAttribute(handle(), name, type, count, values);
  if (status != CUDNN_STATUS_SUCCESS)
    check(status, fmt::format("cudnnBackendSetAttribute({})", static_cast<int>(name)).c_str());
  return *this;
}

Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, int64_t value) {
  return set_raw(name, CUDNN_TYPE_INT64, 1, &value);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, std::span<const int64_t> values) {
  return set_raw(name, CUDNN_TYPE_INT64, std::ssize(values), values.data());
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, bool value) {
  return set_raw(name, CUDNN_TYPE_BOOLEAN, 1, &value);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, double value) {
  return set_raw(name, CUDNN_TYPE_DOUBLE, 1, &value);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, void* pointer) {
  return set_raw(name, CUDNN_TYPE_VOID_PTR, 1, &pointer);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, std::span<void* const> pointers) {
  return set_raw(name, CUDNN_TYPE_VOID_PTR, std::ssize(pointers), pointers.data());
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, cudnnHandle_t handle) {
  return set_raw(name, CUDNN_TYPE_HANDLE, 1, &handle);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, cudnnDataType_t type) {
  return set_raw(name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, cudnnPointwiseMode_t mode) {
  return set_raw(name, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, cudnnReduceTensorOp_t op) {
  return set_raw(name, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &op);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendHeurMode_t mode) {
  return set_raw(name, CUDNN_TYPE_HEUR_MODE, 1, &mode);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, const Descriptor& value) {
  const cudnnBackendDescriptor_t descriptor = value.handle();
  return set_raw(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &descriptor);
}
Descriptor& Descriptor::set(cudnnBackendAttributeName_t name, std::span<const Descriptor> values) {
  std::vector<cudnnBackendDescriptor_t> descriptors;
  for (const Descriptor& value : values) descriptors.push_back(value.handle());
  return set_raw(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, std::ssize(descriptors), descriptors.data());
}

Descriptor& Descriptor::finalize() {
  check(cudnnBackendFinalize(handle()), "cudnnBackendFinalize");
  return *this;
}

int64_t Descriptor::get_int(cudnnBackendAttributeName_t name) const {
  int64_t value = 0, count = 0;
  check(cudnnBackendGetAttribute(handle(), name, CUDNN_TYPE_INT64, 1, &count, &value),
        "cudnnBackendGetAttribute");
  return value;
}

std::string Descriptor::get_text(cudnnBackendAttributeName_t name) const {
  int64_t size = 0;
  check(cudnnBackendGetAttribute(handle(), name, CUDNN_TYPE_CHAR, 0, &size, nullptr),
        "cudnnBackendGetAttribute");
  std::string text(static_cast<size_t>(size), '\0');
  check(cudnnBackendGetAttribute(handle(), name, CUDNN_TYPE_CHAR, size, &size, text.data()),
        "cudnnBackendGetAttribute");
  text.resize(std::strlen(text.c_str()));
  return text;
}

std::vector<Descriptor> Descriptor::get_list(cudnnBackendAttributeName_t name,
                                             cudnnBackendDescriptorType_t type,
                                             int64_t limit) const {
  std::vector<Descriptor> list;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (int64_t i = 0; i < limit; ++i) handles.push_back(list.emplace_back(type).handle());
  int64_t count = 0;
  check(cudnnBackendGetAttribute(handle(), name, CUDNN_TYPE_BACKEND_DESCRIPTOR, limit, &count,
                                 handles.data()),
        "cudnnBackendGetAttribute");
  list.erase(list.begin() + std::min(count, limit), list.end());
  return list;
}

Plan::Plan(Descriptor descriptor) : descriptor_(std::move(descriptor)) {
  workspace_bytes_ =
      static_cast<size_t>(descriptor_.get_int(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE));
}

std::string Plan::description() const {
  return descriptor_.get_text(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION);
}

void Plan::run(cudnnHandle_t handle, std::initializer_list<Binding> bindings,
               void* workspace) const {
  std::vector<int64_t> tensors;
  std::vector<void*> pointers;
  for (const Binding& binding : bindings) {
    tensors.push_back(binding.tensor);
    pointers.push_back(const_cast<void*>(binding.data));
  }
  for (const Scalar& scalar : scalars_) {
    tensors.push_back(scalar.tensor);
    pointers.push_back(const_cast<std::byte*>(scalar.value.data()));
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, tensors)
      .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, std::span<void* const>(pointers))
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, workspace)
      .finalize();
  check(cudnnBackendExecute(handle, descriptor_.handle(), pack.handle()), "cudnnBackendExecute");
}

TensorId Graph::add_tensor(cudnnDataType_t type, std::vector<int64_t> dims,
                           std::vector<int64_t> strides, bool is_virtual, bool is_scalar) {
  const TensorId id = std::ssize(tensors_);
  Descriptor descriptor(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  descriptor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id)
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, type)
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, dims)
      .set(CUDNN_ATTR_TENSOR_STRIDES, strides)
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment)
      .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual)
      .set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, is_scalar)
      .finalize();
  tensors_.push_back({std::move(descriptor), type, std::move(dims)});
  return id;
}

TensorId Graph::tensor(cudnnDataType_t type, std::vector<int64_t> dims,
                       std::vector<int64_t> strides) {
  return add_tensor(type, std::move(dims), std::move(strides), false, false);
}

TensorId Graph::tensor(cudnnDataType_t type, std::vector<int64_t> dims) {
  std::vector<int64_t> strides = row_major(dims);
  return add_tensor(type, std::move(dims), std::move(strides), false, false);
}

TensorId Graph::between(cudnnDataType_t type, std::vector<int64_t> dims,
                        std::vector<int64_t> strides) {
  if (strides.empty()) strides = row_major(dims);
  return add_tensor(type, std::move(dims), std::move(strides), true, false);
}

TensorId Graph::add_scalar(cudnnDataType_t type, const void* value, size_t bytes) {
  const std::vector<int64_t> ones(4, 1);
  const TensorId id = add_tensor(type, ones, ones, false, true);
  const auto* first = static_cast<const std::byte*>(value);
  scalars_.push_back({id, {first, first + bytes}});
  return id;
}

TensorId Graph::scalar(float value) {
  return add_scalar(CUDNN_DATA_FLOAT, &value, sizeof value);
}

TensorId Graph::scalar(int32_t value) {
  return add_scalar(CUDNN_DATA_INT32, &value, sizeof value);
}

void Graph::matmul(TensorId a, TensorId b, TensorId c) {
  Descriptor product(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  product.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT).finalize();
  Descriptor operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, descriptor(a))
      .set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, descriptor(b))
      .set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, descriptor(c))
      .set(CUDNN_ATTR_OPERATION_MATMUL_DESC, product)
      .finalize();
  operations_.push_back(std::move(operation));
}

void Graph::add_pointwise(const Descriptor& mode, TensorId x, const TensorId* b, const TensorId* t,
                          TensorId y) {
  Descriptor operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, mode)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, descriptor(x))
      .set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, descriptor(y));
  if (b != nullptr) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, descriptor(*b));
  if (t != nullptr) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, descriptor(*t));
  operation.finalize();
  operations_.push_back(std::move(operation));
}

void Graph::pointwise(cudnnPointwiseMode_t mode, TensorId x, TensorId y) {
  Descriptor descriptor = pointwise_mode(mode, info(y).type);
  add_pointwise(descriptor.finalize(), x, nullptr, nullptr, y);
}

void Graph::pointwise(cudnnPointwiseMode_t mode, TensorId x, TensorId b, TensorId y) {
  Descriptor descriptor = pointwise_mode(mode, info(y).type);
  add_pointwise(descriptor.finalize(), x, &b, nullptr, y);
}

void Graph::select(TensorId condition, TensorId if_true, TensorId if_false, TensorId y) {
  Descriptor descriptor = pointwise_mode(CUDNN_POINTWISE_BINARY_SELECT, info(y).type);
  add_pointwise(descriptor.finalize(), if_true, &if_false, &condition, y);
}

void Graph::index(TensorId x, int64_t axis, TensorId y) {
  Descriptor descriptor = pointwise_mode(CUDNN_POINTWISE_GEN_INDEX, info(y).type);
  descriptor.set(CUDNN_ATTR_POINTWISE_AXIS, axis).finalize();
  add_pointwise(descriptor, x, nullptr, nullptr, y);
}

void Graph::reduce(cudnnReduceTensorOp_t op, TensorId x, TensorId y) {
  Descriptor reduction(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  reduction.set(CUDNN_ATTR_REDUCTION_OPERATOR, op)
      .set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT)
      .finalize();
  Descriptor operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, descriptor(x))
      .set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, descriptor(y))
      .set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction)
      .finalize();
  operations_.push_back(std::move(operation));
}

void Graph::reshape(TensorId x, TensorId y) {
  Descriptor operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, descriptor(x))
      .set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, descriptor(y))
      .finalize();
  operations_.push_back(std::move(operation));
}

Plan Graph::compile(cudnnHandle_t handle, int64_t skip) {
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations_)
      .set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle)
      .finalize();

  std::string reason;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    try {
      for (const Descriptor& engine : proposals(graph, mode)) {
        if (skip-- > 0) continue;
        try {
          Plan plan(build_plan(engine, handle));
          plan.scalars_ = scalars_;
          return plan;
        } catch (const Error& error) {
          if (reason.empty()) reason = error.what();
        }
      }
    } catch (const Error& error) {
      if (reason.empty()) reason = error.what();
    }
  }
  throw_error<UnsupportedGraph>("{}: no plan for this graph: {}", version(),
                                reason.empty() ? "no engine takes it" : reason);
}

}  // namespace weft::cudnn

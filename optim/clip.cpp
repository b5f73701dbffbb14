#include "weft/optim/clip.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "kernels/grad_norm.h"
#include "kernels/op_list.h"

namespace weft::optim {
namespace {

constexpr Kernel<void(std::span<const Tensor>, Tensor&, Stream)> kNorm{
    "grad_norm", &grad_norm_cpu, WEFT_CUDA_KERNEL(grad_norm_cuda)};
constexpr Kernel<void(const Tensor&, const Tensor&, double, Tensor&, Stream)> kClipScale{
    "clip_scale", &clip_scale_cpu, WEFT_CUDA_KERNEL(clip_scale_cuda)};
constexpr Kernel<void(std::span<Tensor>, double, Stream)> kScale{"clip_grad_norm", &scale_cpu,
                                                                 WEFT_CUDA_KERNEL(scale_cuda)};
constexpr Kernel<int64_t(const Tensor&, Stream)> kFindNonFinite{
    "find_non_finite_grad", &find_non_finite_cpu, WEFT_CUDA_KERNEL(find_non_finite_cuda)};

/// The gradients, dense, with those of one device side by side.
std::vector<Tensor> dense_grads(const NamedParameters& parameters) {
  std::vector<Tensor> grads;
  grads.reserve(parameters.size());
  for (const autograd::NamedParameter& named : parameters)
    if (const Tensor& grad = named.parameter.grad(); grad.defined())
      grads.push_back(grad.contiguous());
  std::stable_sort(grads.begin(), grads.end(), [](const Tensor& a, const Tensor& b) {
    const Device left = a.device();
    const Device right = b.device();
    return left.type != right.type ? left.type < right.type : left.index < right.index;
  });
  return grads;
}

/// Calls body(span, device) for the gradients of each device.
template <class Body>
void for_each_device(std::vector<Tensor>& grads, Body&& body) {
  for (auto begin = grads.begin(); begin != grads.end();) {
    const Device device = begin->device();
    const auto end =
        std::find_if(begin, grads.end(), [&](const Tensor& g) { return g.device() != device; });
    body(std::span<Tensor>(begin, end), device);
    begin = end;
  }
}

std::string position(const Shape& shape, int64_t index) {
  Shape at = shape;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    at[axis] = index % shape[axis];
    index /= shape[axis];
  }
  return to_string(at);
}

/// "the gradient of 'w' is nan at [0, 3]", or that only the sum of squares overflowed.
std::string explain(const NamedParameters& parameters) {
  const std::optional<NonFiniteGrad> found = find_non_finite_grad(parameters);
  if (!found) return "all gradients are finite, but the sum of their squares overflows";
  const auto named =
      std::find_if(parameters.begin(), parameters.end(),
                   [&](const autograd::NamedParameter& n) { return n.name == found->name; });
  return fmt::format("the gradient of '{}' is {} at {}", found->name, found->value,
                     position(named->parameter.grad().shape(), found->index));
}

void check_max_norm(double max_norm) {
  WEFT_CHECK(max_norm > 0, ConfigError, "clip_grad_norm: max_norm must be above 0, got {}",
             max_norm);
}

void check_number(const char* what, const Tensor& number) {
  WEFT_CHECK(number.defined() && number.rank() == 0, ShapeError,
             "clip_scale: {} must be of rank 0, got {}", what, number);
  WEFT_CHECK(number.dtype() == DType::f32 || number.dtype() == DType::f64, DTypeError,
             "clip_scale: {} must be f32 or f64, got {}", what, number);
}

Tensor norm_of(std::span<const Tensor> tensors, Device device) {
  Tensor norm = empty({}, DType::f64, device);
  kNorm(device)(tensors, norm, current_stream(device));
  return norm;
}

}  // namespace

Tensor grad_norm_tensor(const NamedParameters& parameters) {
  std::vector<Tensor> grads = dense_grads(parameters);
  std::vector<Tensor> norms;
  for_each_device(grads, [&](std::span<Tensor> of_device, Device device) {
    norms.push_back(norm_of(of_device, device));
  });
  if (norms.empty())
    return zeros({}, DType::f64, parameters.empty() ? kCpu : parameters.front().parameter.device());
  if (norms.size() == 1) return norms.front();
  const Device device = norms.front().device();
  for (Tensor& norm : norms) norm = norm.to(device);
  return norm_of(norms, device);
}

double grad_norm(const NamedParameters& parameters) {
  return grad_norm_tensor(parameters).item<double>();
}

Tensor clip_scale_tensor(const Tensor& norm, double max_norm, const Tensor& unscale) {
  check_max_norm(max_norm);
  check_number("norm", norm);
  if (unscale.defined()) check_number("unscale", unscale);
  const Device device = norm.device();
  Tensor scale = empty({}, DType::f64, device);
  kClipScale(device)(norm, unscale.defined() ? unscale.to(device) : unscale, max_norm, scale,
                     current_stream(device));
  return scale;
}

double clip_scale(double norm, double max_norm) {
  check_max_norm(max_norm);
  WEFT_CHECK(std::isfinite(norm), AutogradError,
             "clip_scale: the gradient norm is {}; find_non_finite_grad() names the parameter",
             norm);
  WEFT_CHECK(norm >= 0, ConfigError, "clip_scale: a norm cannot be negative, got {}", norm);
  return norm > max_norm ? max_norm / norm : 1.0;
}

double clip_grad_norm(const NamedParameters& parameters, double max_norm) {
  check_max_norm(max_norm);
  const double norm = grad_norm(parameters);
  WEFT_CHECK(std::isfinite(norm), AutogradError, "clip_grad_norm: the norm is {}: {}", norm,
             explain(parameters));
  const double scale = clip_scale(norm, max_norm);
  if (scale == 1) return norm;
  for (autograd::NamedParameter named : parameters) {  // a copied handle is the same variable
    Tensor& grad = named.parameter.mutable_grad();
    if (grad.defined()) grad = grad.contiguous();
  }
  std::vector<Tensor> grads = dense_grads(parameters);
  for_each_device(grads, [&](std::span<Tensor> of_device, Device device) {
    kScale(device)(of_device, scale, current_stream(device));
    for (const Tensor& grad : of_device) grad.storage()->bump_version();
  });
  return norm;
}

std::optional<NonFiniteGrad> find_non_finite_grad(const NamedParameters& parameters) {
  for (const autograd::NamedParameter& named : parameters) {
    if (!named.parameter.grad().defined()) continue;
    const Tensor grad = named.parameter.grad().contiguous();
    const Device device = grad.device();
    const int64_t index = kFindNonFinite(device)(grad, current_stream(device));
    if (index >= 0)
      return NonFiniteGrad{named.name, index, grad.view({-1}).select(0, index).item<double>()};
  }
  return std::nullopt;
}

void check_finite_grads(const NamedParameters& parameters, int64_t step) {
  WEFT_CHECK(!find_non_finite_grad(parameters), AutogradError, "step {}: {}", step,
             explain(parameters));
}

void list_clip_ops(OpTable& table) {
  table.add(kNorm, kFloatingTypes);
  table.add(kClipScale, {DType::f64, DType::f32});
  table.add(kScale, kFloatingTypes);
  table.add(kFindNonFinite, kFloatingTypes);
}

}  // namespace weft::optim

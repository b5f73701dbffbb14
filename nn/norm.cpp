#include "weft/nn/norm.h"

#include "weft/autograd/functions/layer_norm.h"
#include "weft/autograd/functions/rms_norm.h"
#include "weft/tensor/check.h"

namespace weft::nn {
namespace {

Tensor ones_of(const char* layer, int64_t features) {
  WEFT_CHECK(features >= 1, ConfigError, "{}: features must be at least 1, got {}", layer,
             features);
  return ones({features});
}

void check_eps(const char* layer, double eps) {
  WEFT_CHECK(eps >= 0, ConfigError, "{}: eps must not be negative, got {}", layer, eps);
}

}  // namespace

RMSNorm::RMSNorm(int64_t features, double eps)
    : Layer("RMSNorm"),
      weight(register_parameter("weight", ones_of("RMSNorm", features))),
      eps_(eps) {
  check_eps("RMSNorm", eps);
}

Variable RMSNorm::forward(const Variable& x) {
  return autograd::rms_norm(x, weight, eps_);
}

RMSNorm::WithResidual RMSNorm::forward_with_residual(const Variable& x, const Variable& residual,
                                                     bool recompute_normed) {
  auto [sum, normed] = autograd::rms_norm_residual(x, residual, weight, eps_, recompute_normed);
  return {sum, normed};
}

std::string RMSNorm::describe() const {
  return fmt::format("features={}, eps={}", weight.size(0), eps_);
}

LayerNorm::LayerNorm(int64_t features, double eps)
    : Layer("LayerNorm"),
      weight(register_parameter("weight", ones_of("LayerNorm", features))),
      bias(register_parameter("bias", zeros({features}))),
      eps_(eps) {
  check_eps("LayerNorm", eps);
}

Variable LayerNorm::forward(const Variable& x) {
  return autograd::layer_norm(x, weight, bias, eps_);
}

std::string LayerNorm::describe() const {
  return fmt::format("features={}, eps={}", weight.size(0), eps_);
}

}  // namespace weft::nn

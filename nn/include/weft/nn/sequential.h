#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "weft/nn/module.h"

namespace weft::nn {

/// Wraps a function without parameters, such as autograd::relu, as a layer.
class Lambda final : public Layer {
 public:
  Lambda(std::string name, std::function<Variable(const Variable&)> function)
      : Layer(std::move(name)), function_(std::move(function)) {}
  Variable forward(const Variable& x) override { return function_(x); }

 private:
  std::function<Variable(const Variable&)> function_;
};

/// Layers applied one after another; children are named "0", "1", ...
class Sequential final : public Layer {
 public:
  Sequential() : Layer("Sequential") {}

  /// Appends a layer and returns it: net.add<Linear>(2, 16, generator).
  template <class L, class... Args>
  L& add(Args&&... args) {
    L& layer = register_module<L>(std::to_string(layers_.size()), std::forward<Args>(args)...);
    layers_.push_back(&layer);
    return layer;
  }

  Variable forward(const Variable& x) override {
    Variable y = x;
    for (Layer* layer : layers_) y = layer->forward(y);
    return y;
  }

 private:
  std::vector<Layer*> layers_;
};

}  // namespace weft::nn

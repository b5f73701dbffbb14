#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/mlp.h"
#include "weft/autograd/functions/unary.h"
#include "weft/tensor/cudnn_choice.h"
#include "weft/tensor/ops/activation.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/batch_norm.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/linear_activation.h"
#include "weft/tensor/ops/pool.h"
#include "weft/tensor/ops/unary.h"

#include "cuda_ops_benchmark.h"

namespace weft::bench {

/// A layer of 1024 to 4096 features with and without its bias. These are bound by arithmetic, so
/// that only the differences of their times say something.
void add_linear(Benchmark& benchmark, DType dtype) {
  const Shape shape{32768, 1024, 4096};
  const auto x = [&] { return random({shape[0], shape[1]}, dtype, 1); };
  const auto dy = [&] { return random({shape[0], shape[2]}, dtype, 2); };
  const auto weight = [&] { return random({shape[2], shape[1]}, DType::f32, 3); };
  benchmark.add("linear_without_bias", [&]() -> Case {
    return {shape, bytes_of({x(), dy()}), [x = x(), w = weight()] { linear(x, w); }};
  });
  benchmark.add("linear_with_bias", [&]() -> Case {
    const Tensor bias = random({shape[2]}, DType::f32, 4);
    return {shape, bytes_of({x(), dy()}), [x = x(), w = weight(), bias] { linear(x, w, bias); }};
  });
  benchmark.add("linear_gradient_of_weight", [&]() -> Case {
    return {shape, bytes_of({x(), dy()}),
            [x = x(), dy = dy()] { linear_backward_weight(dy, x, DType::f32); }};
  });
  benchmark.add("linear_gradients_of_weight_and_bias", [&]() -> Case {
    return {shape, bytes_of({x(), dy()}),
            [x = x(), dy = dy()] { linear_backward_parameters(dy, x, DType::f32); }};
  });
  benchmark.add("linear_gradients_of_weight_then_bias", [&]() -> Case {
    return {shape, bytes_of({x(), dy()}), [x = x(), dy = dy()] {
              linear_backward_weight(dy, x, DType::f32);
              linear_backward_bias(dy, DType::f32);
            }};
  });
}

/// The hidden layer of an MLP of 1024 and 4096 features, with the activation in the products, or
/// after them as the pass that it would be: `_then_` and `_by_parts`. Whether the products take it
/// is decided by timing, see weft/tensor/ops/linear_activation.h.
void add_hidden_layers(Benchmark& benchmark, DType dtype) {
  const int64_t rows = 32768, features = 1024, hidden = 4096;
  const Shape shape{rows, features, hidden};
  const auto x = [=] { return random({rows, features}, dtype, 1); };
  const auto up = [=] { return random({hidden, features}, DType::f32, 2); };
  const auto up_bias = [=] { return random({hidden}, DType::f32, 3); };
  const auto dy = [=] { return random({rows, features}, dtype, 4); };
  const auto down = [=] { return random({features, hidden}, DType::f32, 5); };
  const int64_t wide = rows * hidden * static_cast<int64_t>(size_of(dtype));
  const auto apply = [](HiddenActivation form, const Tensor& sums) {
    return form == HiddenActivation::relu ? relu(sums) : gelu(sums, Gelu::tanh);
  };
  for (const HiddenActivation form : {HiddenActivation::gelu_tanh, HiddenActivation::relu}) {
    const std::string name = std::string("hidden_") + std::string(to_string(form));
    for (const bool for_backward : {false, true}) {
      benchmark.add(name + (for_backward ? "_for_backward" : ""), [&]() -> Case {
        return {shape, bytes_of({x()}) + (for_backward ? 2 : 1) * wide,
                [=, x = x(), w = up(), b = up_bias()] {
                  linear_activation(x, w, b, form, for_backward);
                }};
      });
    }
    benchmark.add(name + "_by_parts", [&]() -> Case {
      return {shape, bytes_of({x()}) + 2 * wide,
              [=, x = x(), w = up(), b = up_bias()] { apply(form, linear(x, w, b)); }};
    });
    for (const bool want_dbias : {false, true}) {
      const std::string what = want_dbias ? "_backward_with_bias" : "_backward";
      benchmark.add(name + what, [&]() -> Case {
        const HiddenFeatures made = linear_activation(x(), up(), up_bias(), form, true);
        return {shape, bytes_of({dy()}) + 2 * wide, [=, dy = dy(), w = down()] {
                  linear_activation_backward(dy, w, made, form, want_dbias);
                }};
      });
      benchmark.add(name + what + "_by_parts", [&]() -> Case {
        const Tensor sums = linear(x(), up(), up_bias());
        return {shape, bytes_of({dy()}) + 2 * wide, [=, dy = dy(), w = down()] {
                  const Tensor dh = linear_backward_input(dy, w);
                  const Tensor dsums = form == HiddenActivation::relu
                                           ? unary_backward(UnaryFunction::relu, sums, dh)
                                           : gelu_backward(dh, sums, Gelu::tanh);
                  if (want_dbias) linear_backward_bias(dsums);
                }};
      });
    }
  }
}

/// Forward and backward of that MLP, with weights and gradients of f32: as one function, by layers,
/// and by layers with the exact gelu.
void add_mlps(Benchmark& benchmark, DType dtype) {
  using autograd::Variable;
  const Shape shape{32768, 1024, 4096};
  const auto add = [&](const std::string& name, const auto& function) {
    benchmark.add(name, [&]() -> Case {
      const auto leaf = [](const Shape& of, uint64_t seed) {
        return Variable(mul(random(of, DType::f32, seed), 0.02), /*requires_grad=*/true);
      };
      const autograd::MlpParameters p{leaf({shape[2], shape[1]}, 1), leaf({shape[2]}, 2),
                                      leaf({shape[1], shape[2]}, 3), leaf({shape[1]}, 4)};
      const Variable x(random({shape[0], shape[1]}, dtype, 5), true);
      const Tensor dy = random({shape[0], shape[1]}, dtype, 6);
      const int64_t wide = shape[0] * shape[2] * static_cast<int64_t>(size_of(dtype));
      return {shape, 4 * bytes_of({dy}) + 2 * wide, [=] {
                function(x, p).backward(dy);
                for (Variable leaf : {x, p.up, p.up_bias, p.down, p.down_bias}) leaf.zero_grad();
              }};
    });
  };
  for (const HiddenActivation form : {HiddenActivation::gelu_tanh, HiddenActivation::relu}) {
    add("mlp_" + std::string(to_string(form)),
        [=](const Variable& x, const auto& p) { return autograd::mlp(x, p, form); });
  }
  const auto by_layers = [](const std::function<Variable(const Variable&)>& activation) {
    return [=](const Variable& x, const autograd::MlpParameters& p) {
      return autograd::linear(activation(autograd::linear(x, p.up, p.up_bias)), p.down,
                              p.down_bias);
    };
  };
  add("mlp_gelu_tanh_by_layers",
      by_layers([](const Variable& x) { return autograd::gelu(x, Gelu::tanh); }));
  add("mlp_relu_by_layers", by_layers([](const Variable& x) { return autograd::relu(x); }));
  add("mlp_gelu_by_layers", by_layers([](const Variable& x) { return autograd::gelu(x); }));
}

/// Layers of images, by cuDNN and by Weft's kernels.
void add_layers(Benchmark& benchmark, DType dtype) {
  const Shape shape{64, 64, 112, 112};
  const Pool2dOptions pooling{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}};
  for (const bool by_cudnn : {true, false}) {
    const auto add = [&](const std::string& name, const std::function<Case()>& make) {
      benchmark.add(name + (by_cudnn ? "_cudnn" : "_weft"), [&] {
        set_cudnn_enabled(by_cudnn);
        return make();
      });
    };
    const auto x = [&] { return random(shape, dtype, 1); };
    const auto y = [&] { return random({64, 64, 56, 56}, dtype, 2); };
    const auto channel = [&] { return random({64}, DType::f32, 3); };
    add("max_pool2d", [&]() -> Case {
      return {shape, bytes_of({x(), y()}), [=, x = x()] { max_pool2d(x, pooling); }};
    });
    add("avg_pool2d", [&]() -> Case {
      return {shape, bytes_of({x(), y()}), [=, x = x()] { avg_pool2d(x, pooling); }};
    });
    add("avg_pool2d_backward", [&]() -> Case {
      return {shape, bytes_of({x(), y()}),
              [=, dy = y()] { avg_pool2d_backward(dy, shape, pooling); }};
    });
    add("batch_norm_train", [&]() -> Case {
      const Tensor gain = channel();
      return {shape, 3 * bytes_of({x()}), [=, x = x()] { batch_norm_train(x, gain, gain); }};
    });
    add("batch_norm_eval", [&]() -> Case {
      const Tensor gain = channel(), ones = full({64}, 1, DType::f32, kGpu);
      return {shape, 2 * bytes_of({x()}), [=, x = x()] {
                batch_norm_eval(x, gain, gain, {gain, ones});
              }};
    });
    add("batch_norm_backward", [&]() -> Case {
      const Tensor gain = channel();
      return {shape, 5 * bytes_of({x()}),
              [=, x = x()] { batch_norm_backward(x, x, gain, gain, gain); }};
    });
  }
  set_cudnn_enabled(true);
}

}  // namespace weft::bench

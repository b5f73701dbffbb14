#include "weft/tensor/cudnn_choice.h"
#include "weft/tensor/ops/batch_norm.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/pool.h"

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

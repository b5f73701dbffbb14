// Who computes convolution, pooling and batch normalisation; that the results are right is tested
// in conv_test.cpp.
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "weft/tensor/check.h"
#include "weft/tensor/cudnn_choice.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/batch_norm.h"
#include "weft/tensor/ops/conv.h"
#include "weft/tensor/ops/pool.h"

#include "devices.h"

namespace weft {
namespace {

using test::expect_close;
using test::expect_same;
using test::kGpu;
using test::random_tensor;

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

class CudnnLayers : public test::CudaTest {
 protected:
  void SetUp() override {
    test::CudaTest::SetUp();
    set_cudnn_listener([this](const CudnnChoice& choice) { choices_.push_back(choice); });
  }
  void TearDown() override {
    set_cudnn_listener({});
    set_cudnn_enabled(true);
  }

  /// What the listener was told, by problem; it is told each once.
  std::map<std::string, CudnnChoice> take_choices() {
    std::map<std::string, CudnnChoice> by_problem;
    for (CudnnChoice& choice : std::exchange(choices_, {})) {
      const std::string problem = choice.problem;
      EXPECT_TRUE(by_problem.emplace(problem, std::move(choice)).second)
          << problem << " is told twice";
    }
    return by_problem;
  }

 private:
  std::vector<CudnnChoice> choices_;
};

/// Tensors of a small network's layers, and what the layers give.
struct Layers {
  Tensor x, weight, gain, bias;
  RunningStatistics running;

  explicit Layers(DType dtype)
      : x(random_tensor({4, 3, 16, 18}, dtype, 1).to(kGpu)),
        weight(random_tensor({8, 3, 3, 3}, dtype, 2).to(kGpu)),
        gain(random_tensor({8}, wide(dtype), 3).to(kGpu)),
        bias(random_tensor({8}, wide(dtype), 4).to(kGpu)),
        running{zeros({8}, wide(dtype), kGpu), ones({8}, wide(dtype), kGpu)} {}

  static DType wide(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

  /// All ops forward and backward; the results.
  std::vector<Tensor> run() const {
    const Pool2dOptions pooling{.kernel = {3, 2}, .stride = {2, 2}, .padding = {1, 0}};
    const Tensor y = conv2d(x, weight, {}, {.padding = {1, 1}});
    const BatchNormResult normal = batch_norm_train(y, gain, bias, running);
    const Tensor evaluated = batch_norm_eval(y, gain, bias, running);
    const Tensor largest = max_pool2d(normal.y, pooling);
    const Tensor mean = avg_pool2d(normal.y, pooling);
    const Tensor dnormal = avg_pool2d_backward(mean, normal.y.shape(), pooling);
    const BatchNormGrads grads = batch_norm_backward(dnormal, y, gain, normal.mean, normal.rstd);
    return {y,
            normal.y,
            evaluated,
            largest,
            mean,
            dnormal,
            grads.dx,
            grads.dgain,
            grads.dbias,
            running.mean.clone(),
            running.variance.clone(),
            conv2d_backward_input(grads.dx, weight, x.shape(), {.padding = {1, 1}}),
            conv2d_backward_weight(grads.dx, x, weight.shape(), {.padding = {1, 1}})};
  }
};

TEST_F(CudnnLayers, AreCudnnsAndToldOnce) {
  for (const DType dtype : kFloating) {
    const Layers layers(dtype);
    layers.run();
    layers.run();
    const auto told = take_choices();
    for (const char* op : {"conv2d", "conv2d_backward_input", "batch_norm_train", "batch_norm_eval",
                           "batch_norm_backward", "avg_pool2d", "avg_pool2d_backward"}) {
      const auto found = told.find(fmt::format("{} {} on {}", op, dtype, kGpu));
      ASSERT_NE(found, told.end()) << op << " of " << to_string(dtype);
      const CudnnChoice& choice = found->second;
      EXPECT_FALSE(choice.reason.empty()) << choice.problem;
      if (choice.by_cudnn) continue;
      // cuDNN may have no kernel for the other types.
      EXPECT_FALSE(dtype == DType::f32 || dtype == DType::f16)
          << choice.problem << ": " << choice.reason;
      std::cout << choice.problem << ": Weft (" << choice.reason << ")\n";
    }
    const bool is_wide = Layers::wide(dtype) == dtype;  // others have the weight's gradient in f32
    EXPECT_EQ(told.size(), is_wide ? 8u : 7u);
  }
}

TEST_F(CudnnLayers, AreWeftsWhereCudnnIsSwitchedOff) {
  const Layers layers(DType::f32);
  const std::vector<Tensor> by_cudnn = Layers(DType::f32).run();
  take_choices();
  set_cudnn_enabled(false);
  const std::vector<Tensor> by_weft = layers.run();
  const auto told = take_choices();
  EXPECT_EQ(told.size(), 8u);
  for (const auto& [problem, choice] : told) {
    EXPECT_FALSE(choice.by_cudnn) << problem;
    EXPECT_EQ(choice.reason, "cuDNN is switched off") << problem;
  }
  for (size_t i = 0; i < by_weft.size(); ++i) {
    SCOPED_TRACE(i);
    expect_close(by_cudnn[i], by_weft[i].to(kCpu), 1e-3, 1e-3);
  }
}

TEST_F(CudnnLayers, FallBackToWeftsKernels) {
  const Layers layers(DType::f32);
  const Tensor x = random_tensor({4, 8, 5}, DType::f32, 5).to(kGpu);
  batch_norm_backward(x, x, layers.gain, layers.bias, layers.gain, /*constant_statistics=*/true);
  Tensor wide_mean = zeros({16}, DType::f32, kGpu), wide_variance = ones({16}, DType::f32, kGpu);
  const RunningStatistics with_gaps{wide_mean.slice(0, 0, 16, 2), wide_variance.slice(0, 0, 16, 2)};
  const RunningStatistics dense{zeros({8}, DType::f32, kGpu), ones({8}, DType::f32, kGpu)};
  batch_norm_train(x, layers.gain, layers.bias, with_gaps);
  const auto told = take_choices();
  ASSERT_EQ(told.size(), 2u);
  for (const auto& [problem, choice] : told) {
    EXPECT_FALSE(choice.by_cudnn) << problem;
    EXPECT_FALSE(choice.reason.empty()) << problem;
  }
  batch_norm_train(x, layers.gain, layers.bias, dense);
  expect_close(with_gaps.mean, dense.mean.to(kCpu), 1e-5, 1e-6, "running mean");
  expect_close(with_gaps.variance, dense.variance.to(kCpu), 1e-5, 1e-6, "running variance");
}

TEST_F(CudnnLayers, RepeatToTheBit) {
  for (const DType dtype : kFloating) {
    SCOPED_TRACE(to_string(dtype));
    const std::vector<Tensor> first = Layers(dtype).run();
    for (int run = 0; run < 3; ++run) {
      const std::vector<Tensor> again = Layers(dtype).run();
      for (size_t i = 0; i < first.size(); ++i) {
        SCOPED_TRACE(i);
        expect_same(again[i], first[i].to(kCpu), "repeated");
      }
    }
  }
}

TEST_F(CudnnLayers, AreCapturedInAGraph) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(dtype));
    Layers layers(dtype);
    layers.run();
    std::vector<Tensor> results;
    Graph graph(kGpu);
    graph.capture([&] { results = layers.run(); });
    const Tensor next = random_tensor({4, 3, 16, 18}, dtype, 9).to(kGpu);
    layers.x.copy_(next);
    layers.running.mean.zero_();
    layers.running.variance.fill_(1);
    graph.replay();
    Layers expected(dtype);
    expected.x.copy_(next);
    const std::vector<Tensor> eager = expected.run();
    for (size_t i = 0; i < eager.size(); ++i) {
      SCOPED_TRACE(i);
      expect_same(results[i], eager[i].to(kCpu), "repeated");
    }
  }
}

}  // namespace
}  // namespace weft

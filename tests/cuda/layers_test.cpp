// Every layer of nn/ on the GPU: values, gradients and buffers as on the CPU. In bf16, with f32
// parameters, errors may be at most twice those of the CPU, which rounds each result once.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/unary.h"
#include "weft/autograd/functions/view.h"
#include "weft/nn/batch_norm.h"
#include "weft/nn/conv.h"
#include "weft/nn/dropout.h"
#include "weft/nn/embedding.h"
#include "weft/nn/linear.h"
#include "weft/nn/loss.h"
#include "weft/nn/mlp.h"
#include "weft/nn/norm.h"
#include "weft/nn/pool.h"
#include "weft/nn/sequential.h"
#include "weft/tensor/ops/random.h"

#include "attention_cuda_test_data.h"

namespace weft::nn {
namespace {

using attention::testing::kGpu;
using attention::testing::random_tensor;
using attention::testing::relative_error;
using attention::testing::same_bits_on_gpu;

using MakeLayer = std::function<std::unique_ptr<Layer>(Generator& generator)>;

struct LayerCase {
  std::string name;
  Shape input;
  MakeLayer make;
  bool training = true;
};

void PrintTo(const LayerCase& layer, std::ostream* out) {
  *out << layer.name;
}

template <class L, class... Arguments>
MakeLayer maker(const Arguments&... arguments) {
  return [=](Generator& /*generator*/) { return std::make_unique<L>(arguments...); };
}

/// Of layers whose weights are drawn, after these sizes.
template <class L, class Options>
MakeLayer drawn(int64_t in, int64_t out, const Options& options) {
  return [=](Generator& generator) { return std::make_unique<L>(in, out, generator, options); };
}

/// A norm whose sum is read as well.
class ResidualNorm final : public Layer {
 public:
  explicit ResidualNorm(int64_t features, bool recompute)
      : Layer("ResidualNorm"),
        recompute_(recompute),
        norm_(register_module<RMSNorm>("norm", features)) {}
  Variable forward(const Variable& x) override {
    const auto both =
        norm_.forward_with_residual(x, autograd::neg(autograd::square(x)), recompute_);
    return autograd::add(both.sum, both.normed);
  }

 private:
  bool recompute_;
  RMSNorm& norm_;
};

/// Images [N, 3, 8, 10] to [N, 5].
std::unique_ptr<Layer> small_convnet(Generator& generator) {
  auto net = std::make_unique<Sequential>();
  // A bias in front of the normalisation has the gradient zero.
  net->add<Conv2d>(3, 8, generator,
                   Conv2dLayerOptions{.padding = {1, 1}, .bias = false, .kaiming_init = true});
  net->add<BatchNorm>(8);
  net->add<Lambda>("relu", [](const Variable& x) { return autograd::relu(x); });
  net->add<MaxPool2d>(Pool2dOptions{.kernel = {2, 2}});
  net->add<Lambda>("flatten", [](const Variable& x) {
    return autograd::reshape(x, {x.data().size(0), -1});
  });
  net->add<Linear>(8 * 4 * 5, 5, generator);
  return net;
}

std::vector<LayerCase> all_layers() {
  const Conv2dLayerOptions ragged{
      .kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}, .groups = 2};
  const MlpInit large{.std = 0.3, .output_std = 0.3};
  return {
      {"Linear", {3, 21, 48}, drawn<Linear>(48, 40, LinearOptions{})},
      {"LinearWithoutBias", {63, 45}, drawn<Linear>(45, 37, LinearOptions{.bias = false})},
      {"RMSNorm", {5, 7, 96}, maker<RMSNorm>(int64_t{96})},
      {"RMSNormOfASum", {35, 96}, maker<ResidualNorm>(int64_t{96}, false)},
      {"RMSNormOfASumComputedAgain", {35, 96}, maker<ResidualNorm>(int64_t{96}, true)},
      {"LayerNorm", {35, 96}, maker<LayerNorm>(int64_t{96})},
      {"SwigluMlp", {3, 20, 48}, drawn<SwigluMlp>(48, 80, large)},
      {"SwigluMlpComputedAgain",
       {3, 20, 48},
       [=](Generator& generator) {
         return std::make_unique<SwigluMlp>(48, 80, generator, large,
                                            /*recompute_activation=*/true);
       }},
      {"GeluMlp", {3, 20, 48}, drawn<GeluMlp>(48, 80, large)},
      {"GeluMlpByTanh",
       {3, 20, 48},
       [=](Generator& generator) {
         return std::make_unique<GeluMlp>(48, 80, generator, large, Gelu::tanh);
       }},
      {"ReluMlp", {3, 20, 48}, drawn<ReluMlp>(48, 128, large)},
      {"Conv1d", {2, 6, 33}, drawn<Conv1d>(6, 10, Conv1dLayerOptions{.stride = 2, .padding = 1})},
      {"Conv2d", {3, 8, 12, 10}, drawn<Conv2d>(8, 16, Conv2dLayerOptions{.padding = {1, 1}})},
      {"Conv2dInGroups", {2, 4, 9, 11}, drawn<Conv2d>(4, 6, ragged)},
      {"BatchNorm", {6, 9, 7, 5}, maker<BatchNorm>(int64_t{9})},
      {"BatchNormOfRows",
       {40, 12},
       maker<BatchNorm>(int64_t{12}, BatchNormOptions{.momentum = std::nullopt, .affine = false})},
      {"BatchNormEvaluates", {6, 9, 35}, maker<BatchNorm>(int64_t{9}), /*training=*/false},
      {"MaxPool1d", {2, 3, 31}, maker<MaxPool1d>(Pool1dOptions{.kernel = 3, .stride = 2})},
      {"MaxPool2d", {2, 3, 11, 8}, maker<MaxPool2d>(Pool2dOptions{.kernel = {3, 2}})},
      {"AvgPool1d", {2, 3, 31}, maker<AvgPool1d>(Pool1dOptions{.kernel = 3, .padding = 1})},
      {"AvgPool2d", {2, 3, 11, 8}, maker<AvgPool2d>(Pool2dOptions{.kernel = {3, 2}})},
      {"Convnet", {4, 3, 8, 10}, &small_convnet},
  };
}

class LayerOnGpu : public ::testing::TestWithParam<LayerCase> {
 protected:
  void SetUp() override {
    if (!is_available(kGpu)) GTEST_SKIP() << unavailable_reason(kGpu);
  }

  /// A layer of the case with numbers of its own in all parameters, also those that begin as 0
  /// or 1.
  static std::unique_ptr<Layer> make_layer(DType dtype, Device device) {
    Generator generator(3);
    std::unique_ptr<Layer> layer = GetParam().make(generator);
    uint64_t seed = 40;
    for (const NamedParameter& named : layer->named_parameters()) {
      if (named.parameter.rank() != 1) continue;
      Variable parameter = named.parameter;
      parameter.mutable_data().copy_(random_tensor(parameter.shape(), DType::f32, ++seed));
    }
    layer->train(GetParam().training);
    layer->to(dtype);
    layer->to(device);
    return layer;
  }

  struct Result {
    std::string name;
    Tensor tensor;
  };
  /// The output, the gradients of the input and of all parameters, and what the layer keeps.
  static std::vector<Result> results_of(Layer& layer, const Tensor& x, const Tensor& dy) {
    const Variable input(x, /*requires_grad=*/true);
    const Variable y = layer(input);
    y.backward(dy);
    std::vector<Result> results{{"y", y.data()}, {"dx", input.grad()}};
    for (const NamedParameter& named : layer.named_parameters())
      results.push_back({"the gradient of " + named.name, named.parameter.grad()});
    for (const NamedTensor& kept : layer.state_dict()) results.push_back({kept.name, kept.tensor});
    return results;
  }

  static Shape output_shape() {
    return make_layer(DType::f32, kCpu)
        ->forward(Variable(random_tensor(GetParam().input, DType::f32, 1)))
        .shape();
  }
};

INSTANTIATE_TEST_SUITE_P(All, LayerOnGpu, ::testing::ValuesIn(all_layers()),
                         [](const auto& info) { return info.param.name; });

TEST_P(LayerOnGpu, TrainsAsOnTheCpu) {
  const Shape shape = output_shape();
  for (const DType dtype : {DType::f64, DType::f32}) {
    SCOPED_TRACE(to_string(dtype));
    const auto layer = make_layer(dtype, kCpu), on = make_layer(dtype, kGpu);
    const Tensor x = random_tensor(GetParam().input, dtype, 1), dy = random_tensor(shape, dtype, 2);
    const std::vector<Result> expected = results_of(*layer, x, dy);
    const std::vector<Result> got = results_of(*on, x.to(kGpu), dy.to(kGpu));
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].tensor.device(), kGpu) << got[i].name;
      EXPECT_EQ(got[i].tensor.dtype(), expected[i].tensor.dtype()) << got[i].name;
      EXPECT_LE(relative_error(got[i].tensor, expected[i].tensor),
                dtype == DType::f64 ? 1e-10 : 1e-4)
          << got[i].name;
    }
  }
}

TEST_P(LayerOnGpu, ErrsInBf16AtMostTwiceAsMuchAsTheCpu) {
  if (GetParam().name == "Convnet") GTEST_SKIP() << "rounding changes which elements are largest";
  const auto exact = make_layer(DType::f64, kCpu), rounded = make_layer(DType::f32, kCpu);
  const auto on = make_layer(DType::f32, kGpu);
  const Tensor x = random_tensor(GetParam().input, DType::bf16, 1);
  const Tensor dy = random_tensor(output_shape(), DType::bf16, 2);
  const std::vector<Result> expected = results_of(*exact, x.to(DType::f64), dy.to(DType::f64));
  const std::vector<Result> on_cpu = results_of(*rounded, x, dy);
  const std::vector<Result> got = results_of(*on, x.to(kGpu), dy.to(kGpu));
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].tensor.dtype(), on_cpu[i].tensor.dtype()) << got[i].name;
    const double naive = relative_error(on_cpu[i].tensor, expected[i].tensor);
    EXPECT_LE(naive, 0.05) << got[i].name;
    EXPECT_LE(relative_error(got[i].tensor, expected[i].tensor), 2 * naive + 1e-4) << got[i].name;
  }
}

class LayersOnGpu : public attention::testing::OnGpu {};

TEST_F(LayersOnGpu, EmbeddingsLookUpAndLearnAsOnTheCpu) {
  Generator draws(5);
  const Tensor ids = randint(0, 50, {3, 40}, draws, DType::i32);
  const Tensor dy = random_tensor({3, 40, 24}, DType::bf16, 2);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(dtype));
    Generator generator(3), again(3);
    Embedding table(50, 24, generator), on(50, 24, again);
    on.to(kGpu);
    const Variable y = table.forward(ids, dtype), z = on.forward(ids.to(kGpu), dtype);
    EXPECT_TRUE(same_bits_on_gpu(z.data(), y.data()));
    y.backward(dy.to(dtype));
    z.backward(dy.to(dtype).to(kGpu));
    EXPECT_EQ(on.weight.grad().dtype(), DType::f32);
    EXPECT_LE(relative_error(on.weight.grad(), table.weight.grad()), 1e-6);
  }
}

TEST_F(LayersOnGpu, DropoutDropsWhatItDropsOnTheCpu) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(dtype));
    Generator generator(3), again(3);
    Dropout layer(0.3, generator), on(0.3, again);
    const Tensor x = random_tensor({7, 33}, dtype, 1), dy = random_tensor({7, 33}, dtype, 2);
    const Variable input(x, true), input_on(x.to(kGpu), true);
    const Variable y = layer(input), z = on(input_on);
    EXPECT_TRUE(same_bits_on_gpu(z.data(), y.data()));
    y.backward(dy);
    z.backward(dy.to(kGpu));
    EXPECT_TRUE(same_bits_on_gpu(input_on.grad(), input.grad()));
    on.eval();
    EXPECT_TRUE(same_bits_on_gpu(on(input_on).data(), x));
  }
}

TEST_F(LayersOnGpu, LossesAgreeWithTheCpu) {
  using Loss = std::function<Variable(const Variable& x)>;
  const Tensor target = random_tensor({20, 9}, DType::f32, 2);
  Generator draws(5);
  Tensor classes = randint(0, 9, {20}, draws, DType::i64);
  classes.slice(0, 3, 5).fill_(-100);
  const auto losses_on = [&](Device device) {
    return std::vector<Loss>{
        [=](const Variable& x) { return mse_loss(x, Variable(target.to(device))); },
        [=](const Variable& x) {
          return bce_with_logits_loss(x, autograd::sigmoid(Variable(target.to(device))));
        },
        [=](const Variable& x) { return cross_entropy_loss(x, classes.to(device)); }};
  };
  const Tensor x = random_tensor({20, 9}, DType::f32, 1);
  const std::vector<Loss> losses = losses_on(kCpu), on_gpu = losses_on(kGpu);
  for (size_t i = 0; i < losses.size(); ++i) {
    SCOPED_TRACE(i);
    const Variable input(x, true), input_on(x.to(kGpu), true);
    const Variable loss = losses[i](input), loss_on = on_gpu[i](input_on);
    const double expected = loss.data().item<double>();
    EXPECT_NEAR(loss_on.data().item<double>(), expected, 1e-5 * expected);
    loss.backward();
    loss_on.backward();
    EXPECT_LE(relative_error(input_on.grad(), input.grad()), 1e-5);
  }
}

}  // namespace
}  // namespace weft::nn

// A small network learns to tell two interleaved spirals apart.
#include <cmath>
#include <iostream>
#include <numbers>

#include "weft/autograd/functions/unary.h"
#include "weft/nn/linear.h"
#include "weft/nn/loss.h"
#include "weft/nn/sequential.h"
#include "weft/optim/adamw.h"

using weft::Tensor;
using weft::autograd::Variable;

namespace {

struct Points {
  Tensor positions;  // [N, 2]
  Tensor labels;     // [N]
};

/// `per_arm` points on each of two arms, with a little noise.
Points make_spirals(int per_arm, weft::Generator& generator) {
  std::vector<float> positions;
  std::vector<int64_t> labels;
  for (int arm = 0; arm < 2; ++arm) {
    for (int i = 0; i < per_arm; ++i) {
      const auto noise = weft::philox4x32(generator.seed(), generator.reserve(1).offset);
      const double t = static_cast<double>(i) / per_arm;
      const double angle =
          3 * std::numbers::pi * t + std::numbers::pi * arm + 0.1 * (noise[0] * 0x1p-32 - 0.5);
      positions.push_back(static_cast<float>(t * std::cos(angle)));
      positions.push_back(static_cast<float>(t * std::sin(angle)));
      labels.push_back(arm);
    }
  }
  const auto count = static_cast<int64_t>(labels.size());
  return {weft::from_vector(positions, {count, 2}), weft::from_vector(labels, {count})};
}

double accuracy(weft::nn::Sequential& net, const Points& points) {
  const weft::autograd::NoGradGuard no_grad;
  const std::vector<float> logits =
      net.forward(Variable(points.positions)).data().to_vector<float>();  // [N, 2]
  const std::vector<int64_t> labels = points.labels.to_vector<int64_t>();
  int right = 0;
  for (size_t i = 0; i < labels.size(); ++i)
    right += (logits[2 * i + 1] > logits[2 * i]) == (labels[i] == 1);
  return static_cast<double>(right) / static_cast<double>(labels.size());
}

}  // namespace

int main() {
  weft::Generator generator(1);
  const Points train = make_spirals(200, generator);
  const Points test = make_spirals(200, generator);

  weft::nn::Sequential net;
  const auto tanh = [](const Variable& x) { return weft::autograd::tanh(x); };
  net.add<weft::nn::Linear>(2, 32, generator);
  net.add<weft::nn::Lambda>("Tanh", tanh);
  net.add<weft::nn::Linear>(32, 32, generator);
  net.add<weft::nn::Lambda>("Tanh", tanh);
  net.add<weft::nn::Linear>(32, 2, generator);
  std::cout << net.to_string();

  weft::optim::AdamW optimizer(weft::optim::default_groups(net.named_parameters()));
  for (int step = 0; step <= 600; ++step) {
    const Variable loss =
        weft::nn::cross_entropy_loss(net.forward(Variable(train.positions)), train.labels);
    if (step % 100 == 0) {
      std::cout << "step " << step << "  loss " << loss.data().item<double>()
                << "  accuracy on new points " << accuracy(net, test) << "\n";
    }
    optimizer.zero_grad();
    loss.backward();
    optimizer.step(/*lr=*/0.01);
  }
  return accuracy(net, test) > 0.95 ? 0 : 1;
}

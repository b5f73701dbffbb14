// A convolutional network learns to read digits, drawn from a small font at random places and sizes
// under noise. No image is seen twice; the accuracy is that on new ones.
#include <array>
#include <cmath>
#include <iostream>
#include <string_view>
#include <utility>

#include "weft/autograd/functions/unary.h"
#include "weft/autograd/functions/view.h"
#include "weft/nn/batch_norm.h"
#include "weft/nn/conv.h"
#include "weft/nn/linear.h"
#include "weft/nn/loss.h"
#include "weft/nn/pool.h"
#include "weft/nn/sequential.h"
#include "weft/optim/adamw.h"
#include "weft/optim/schedule.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/ops/reduce.h"

using weft::autograd::Variable;
namespace nn = weft::nn;

namespace {

constexpr int64_t kSize = 16;  // images have kSize x kSize pixels

constexpr std::array<std::string_view, 7> kFont = {
    " ###    #    ###   ###     #  #####  ###  #####  ###   ### ",
    "#   #  ##   #   # #   #   ##  #     #         # #   # #   #",
    "#   #   #       #     #  # #  ####  #        #  #   # #   #",
    "#   #   #      #    ##  #  #      # ####     #   ###   ####",
    "#   #   #     #       # #####     # #   #   #   #   #     #",
    "#   #   #    #    #   #    #  #   # #   #   #   #   #     #",
    " ###   ###  #####  ###     #   ###   ###    #    ###   ### "};

/// Ink of a digit between the dots of the font (bilinear), the first of which is at (0, 0).
float ink(int64_t digit, float row, float column) {
  const auto dot = [digit](int64_t i, int64_t j) {
    if (i < 0 || i >= 7 || j < 0 || j >= 5) return 0.0f;
    return kFont[static_cast<size_t>(i)][static_cast<size_t>(6 * digit + j)] == '#' ? 1.0f : 0.0f;
  };
  const float i = std::floor(row), j = std::floor(column);
  const float down = row - i, right = column - j;
  const auto top = static_cast<int64_t>(i), left = static_cast<int64_t>(j);
  return (1 - down) * ((1 - right) * dot(top, left) + right * dot(top, left + 1)) +
         down * ((1 - right) * dot(top + 1, left) + right * dot(top + 1, left + 1));
}

struct Digits {
  weft::Tensor images;  // [N, 1, kSize, kSize]
  weft::Tensor labels;  // [N]
};

Digits draw_digits(int64_t count, weft::Generator& generator) {
  Digits digits{weft::normal({count, 1, kSize, kSize}, generator),
                weft::randint(0, 10, {count}, generator)};
  float* pixel = digits.images.data<float>();  // holds the noise so far
  const auto labels = digits.labels.to_vector<int64_t>();
  const auto random = weft::uniform({count, 3}, generator).to_vector<float>();
  for (size_t n = 0; n < labels.size(); ++n) {
    const float scale = 1.2f + 0.8f * random[3 * n];  // pixels from dot to dot
    const float top = 0.5f + random[3 * n + 1] * (kSize - 2 - 6 * scale);
    const float left = 0.5f + random[3 * n + 2] * (kSize - 2 - 4 * scale);
    for (int64_t row = 0; row < kSize; ++row)
      for (int64_t column = 0; column < kSize; ++column, ++pixel)
        *pixel = 0.25f * *pixel + ink(labels[n], (static_cast<float>(row) - top) / scale,
                                      (static_cast<float>(column) - left) / scale);
  }
  return digits;
}

void print_image(const weft::Tensor& image) {
  const auto pixels = image.to_vector<float>();
  for (size_t i = 0; i < pixels.size(); ++i) {
    std::cout << (pixels[i] > 0.75f ? "##" : pixels[i] > 0.4f ? "::" : "  ");
    if ((i + 1) % kSize == 0) std::cout << "\n";
  }
}

int64_t count_right(nn::Layer& net, const Digits& digits) {
  const weft::autograd::NoGradGuard no_grad;
  const nn::EvalModeGuard eval(net);  // batch norm by its running statistics
  const auto guesses =
      weft::argmax(net(Variable(digits.images)).data(), /*axis=*/1).to_vector<int64_t>();
  const auto labels = digits.labels.to_vector<int64_t>();
  int64_t right = 0;
  for (size_t i = 0; i < labels.size(); ++i) right += guesses[i] == labels[i];
  return right;
}

}  // namespace

int main() {
  weft::Generator generator(1);
  nn::Sequential net;
  const auto relu = [](const Variable& x) { return weft::autograd::relu(x); };
  for (const auto& [in, out] : {std::pair(1, 16), std::pair(16, 32)}) {
    net.add<nn::Conv2d>(in, out, generator,
                        nn::Conv2dLayerOptions{.padding = {1, 1}, .bias = false});
    net.add<nn::BatchNorm>(out);
    net.add<nn::Lambda>("ReLU", relu);
    net.add<nn::MaxPool2d>();  // halves height and width
  }
  net.add<nn::Lambda>("Flatten",
                      [](const Variable& x) { return weft::autograd::flatten(x, /*first=*/1); });
  net.add<nn::Linear>(32 * (kSize / 4) * (kSize / 4), 10, generator);
  std::cout << net.to_string() << net.num_parameters() << " parameters\n\n";

  weft::Generator test_generator(2);
  const Digits test = draw_digits(1000, test_generator);
  print_image(test.images.select(0, 0));
  std::cout << "this is a " << test.labels.select(0, 0).item<int64_t>() << "\n\n";

  weft::optim::AdamW optimizer(weft::optim::default_groups(net.named_parameters()));
  constexpr int64_t kSteps = 300;
  const weft::optim::Schedule schedule({.lr = 1e-2, .warmup_steps = 20, .max_steps = kSteps});
  for (int64_t step = 0; step < kSteps; ++step) {
    const Digits batch = draw_digits(64, generator);
    const Variable loss = nn::cross_entropy_loss(net(Variable(batch.images)), batch.labels);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step(schedule.lr(step));
    if (step % 50 == 0)
      std::cout << "step " << step << "  loss " << loss.data().item<double>() << "\n";
  }
  const int64_t right = count_right(net, test);
  std::cout << right << " of 1000 new digits are read rightly\n";
  return right > 950 ? 0 : 1;
}

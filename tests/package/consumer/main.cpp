// A user's program, out of the installed library alone: an op of its own, then a small decoder that
// learns a text by heart.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "weft/attention/registry.h"
#include "weft/autograd/node.h"
#include "weft/autograd/variable.h"
#include "weft/io/tokenizer.h"
#include "weft/nn/decoder.h"
#include "weft/optim/adamw.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/tensor.h"

namespace {

using weft::Tensor;
using weft::autograd::SavedTensor;
using weft::autograd::Variable;

// y = w x + b; x is [N], w and b are [1].
Variable line(const Tensor& x, const Variable& w, const Variable& b) {
  const Tensor y = weft::add(weft::mul(x, w.data()), b.data());
  return weft::autograd::record(
      "line", y, {w, b}, [saved = SavedTensor(x)](const Tensor& dy) -> std::vector<Tensor> {
        return {weft::autograd::reduce_to_shape(weft::mul(dy, saved.get()), {1}),
                weft::autograd::reduce_to_shape(dy, {1})};
      });
}

bool fits_a_line() {
  const Tensor x = weft::from_vector(std::vector<float>{-2, -1, 0, 1, 2}, {5});
  const Tensor target = weft::add(weft::mul(x, 3.0), 0.5);
  Variable w(weft::zeros({1}), true);
  Variable b(weft::zeros({1}), true);
  for (int step = 0; step < 100; ++step) {
    const Variable y = line(x, w, b);
    y.backward(weft::mul(weft::sub(y.data(), target), 2.0 / 5));  // gradient of the mean square
    for (Variable* p : {&w, &b}) {
      weft::add_(p->mutable_data(), p->grad(), -0.1);
      p->zero_grad();
    }
  }
  const float slope = w.data().item<float>();
  const float offset = b.data().item<float>();
  std::printf("line: w = %g, b = %g\n", slope, offset);
  return std::abs(slope - 3) < 1e-3F && std::abs(offset - 0.5F) < 1e-3F;
}

bool learns_a_text() {
  const std::string text = "over and under, over and under, ";
  const auto tokenizer = weft::io::make_tokenizer("bytes");
  const std::vector<int32_t> ids = tokenizer->encode(text);
  const auto length = static_cast<int64_t>(ids.size()) - 1;
  const Tensor inputs =
      weft::from_vector(std::vector<int32_t>(ids.begin(), ids.end() - 1), {1, length});
  const Tensor targets =
      weft::from_vector(std::vector<int32_t>(ids.begin() + 1, ids.end()), {1, length});

  weft::Generator generator(1);
  const weft::nn::DecoderConfig config{
      .vocab_size = tokenizer->vocab_size(), .n_layers = 2, .d_model = 32, .d_ff = 64};
  const weft::attention::AttentionConfig attention{
      .shape = {.d_model = 32, .n_heads = 4, .n_layers = 2}, .schedule = "full"};
  weft::nn::DecoderLM model(config, weft::attention::make_mixer_factory(attention, generator),
                            generator);
  weft::optim::AdamW optimizer(weft::optim::default_groups(model.named_parameters()));
  float first = 0;
  float last = 0;
  for (int step = 0; step < 60; ++step) {
    const Variable loss = model.loss(inputs, targets);
    last = loss.data().item<float>();
    if (step == 0) first = last;
    loss.backward();
    optimizer.step(1e-2);
    optimizer.zero_grad();
  }
  std::printf("decoder: loss %g, then %g\n", first, last);
  return first > 4 && last < 0.5F;
}

}  // namespace

int main() {
  return fits_a_line() && learns_a_text() ? 0 : 1;
}

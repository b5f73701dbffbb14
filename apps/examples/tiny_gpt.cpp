// A language model from scratch: characters, a decoder with full attention, a training loop, and
// text at the end.
//   tiny_gpt [TEXT-FILE] [STEPS]
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>

#include "weft/attention/registry.h"
#include "weft/io/loader.h"
#include "weft/io/tokenizer.h"
#include "weft/nn/decoder.h"
#include "weft/nn/generation.h"
#include "weft/optim/adamw.h"
#include "weft/optim/clip.h"
#include "weft/optim/schedule.h"

namespace {

/// The text of a file, or a nursery rhyme that is easily learned by heart.
std::string read_text(const char* path) {
  if (path != nullptr) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
      std::cerr << "cannot read " << path << "\n";
      std::exit(1);
    }
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  const std::string rhyme =
      "Hickory, dickory, dock,\nThe mouse ran up the clock.\nThe clock struck one,\nThe mouse ran "
      "down,\n"
      "Hickory, dickory, dock.\n\n";
  std::string text;
  while (text.size() < 4000) text += rhyme;
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string text = read_text(argc > 1 ? argv[1] : nullptr);
  const int64_t steps = argc > 2 ? std::stoll(argv[2]) : 150;

  // Text becomes token ids, and a loader cuts random windows out of them.
  const auto tokenizer = weft::io::make_tokenizer("char", [&](const auto& take) { take(text); });
  auto tokens = std::make_shared<weft::io::MemoryTokens>("text", tokenizer->vocab_size());
  tokens->append(tokenizer->encode(text));
  weft::io::Loader loader(tokens, {.batch_size = 8, .seq_len = 64, .seed = 1});

  // A decoder holds any mechanism; here full attention with 4 heads.
  weft::Generator generator(1);
  const weft::nn::DecoderConfig config{
      .vocab_size = tokenizer->vocab_size(), .n_layers = 2, .d_model = 64, .d_ff = 128};
  const weft::attention::AttentionConfig attention{
      .shape = {.d_model = config.d_model, .n_heads = 4, .n_layers = config.n_layers}};
  weft::nn::DecoderLM model(config, weft::attention::make_mixer_factory(attention, generator),
                            generator);
  std::cout << model.num_parameters() << " parameters, " << tokenizer->vocab_size()
            << " characters\n";

  weft::optim::AdamW optimizer(weft::optim::default_groups(model.named_parameters()));
  const weft::optim::Schedule schedule({.lr = 3e-3,
                                        .min_lr = 3e-4,
                                        .warmup_steps = std::min<int64_t>(10, steps),
                                        .max_steps = steps});
  double last_loss = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const weft::io::Batch batch = loader.next();
    optimizer.zero_grad();
    const weft::nn::Variable loss = model.loss(batch.inputs, batch.targets);
    loss.backward();
    const double norm = weft::optim::grad_norm(optimizer.parameters());
    optimizer.step(schedule.lr(step), weft::optim::clip_scale(norm, 1.0));
    last_loss = loss.data().item<double>();
    if (step % 25 == 0 || step + 1 == steps)
      std::cout << "step " << step << "  loss " << last_loss << "\n";
  }

  const std::string prompt = text.substr(0, 8);
  std::vector<int64_t> ids;
  for (const int32_t id : tokenizer->encode(prompt)) ids.push_back(id);
  std::cout << "\n" << prompt;
  weft::io::StreamDecoder decoder(tokenizer);
  weft::nn::generate(model, ids, {.max_new_tokens = 120, .sampling = {.temperature = 0.5}},
                     generator, [&](int64_t id) {
                       std::cout << decoder.push(static_cast<int32_t>(id)) << std::flush;
                       return true;
                     });
  std::cout << "\n";
  return last_loss < 0.5 || argc > 1 ? 0 : 1;
}

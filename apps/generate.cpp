#include <chrono>
#include <fstream>
#include <iostream>
#include <sstream>

#include <fmt/format.h>

#include "weft/io/tokenizer.h"
#include "weft/nn/generation.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/parallel.h"

#include "commands.h"
#include "common/attention_log.h"
#include "common/exit_code.h"
#include "common/machine.h"
#include "common/run.h"
#include "common/signals.h"

namespace weft::apps {

int generate(const std::vector<std::string>& arguments) {
  std::string run_path;
  std::string prompt = "\n";
  std::string prompt_file;
  nn::GenerationOptions settings;
  settings.sampling.temperature = 0.8;
  uint64_t seed = 0;
  int64_t threads = 0;
  std::string device_name = "auto";
  std::string attention_backend = "automatic";
  Console::Settings messages;
  Options options("generate", "Continues a prompt, token by token.",
                  "weft generate --run runs/a --prompt \"In the beginning\" --max-new-tokens 200 "
                  "--temperature 0.8 --seed 1");
  options.add("run", &run_path, "run folder or checkpoint").required().not_in_config();
  options.add("prompt", &prompt, "text to continue").not_in_config();
  options.add("prompt-file", &prompt_file, "file with the text to continue").not_in_config();
  options.add("max-new-tokens", &settings.max_new_tokens, "tokens to write", {0, 1 << 24})
      .not_in_config();
  options
      .add("temperature", &settings.sampling.temperature, "0 takes the most likely token", {0, 100})
      .not_in_config();
  options
      .add("top-k", &settings.sampling.top_k, "draw from the k most likely tokens; 0 from all",
           {0, 1 << 24})
      .not_in_config();
  options
      .add("top-p", &settings.sampling.top_p,
           "draw from the most likely tokens up to this probability", {1e-9, 1})
      .not_in_config();
  options.add("seed", &seed, "of the draws; the same seed gives the same text").not_in_config();
  options.add("cache", &settings.use_cache, "keep keys and values; off computes every prefix anew")
      .not_in_config();
  add_device_options(options, &device_name, &attention_backend, /*in_config=*/false);
  options.add("threads", &threads, "threads; 0 means OMP_NUM_THREADS, else all cores", {0, 4096})
      .not_in_config();
  messages.add_to(options);
  if (!options.parse(arguments)) return kDone;
  if (options.given("prompt") && options.given("prompt-file")) {
    throw UsageError("--prompt and --prompt-file exclude each other");
  }
  const StopSignals signals;
  if (threads > 0) set_num_threads(static_cast<int>(threads));
  if (!prompt_file.empty()) {
    std::ifstream file(prompt_file, std::ios::binary);
    std::stringstream text;
    if (!(text << file.rdbuf()))
      throw UsageError(fmt::format("--prompt-file: cannot read '{}', or it is empty", prompt_file));
    prompt = text.str();
  }

  const Device device = resolve_device(device_name);
  Console console(messages);
  const AttentionLog attention(attention_backend, console, AttentionLog::Wanted::when_verbose);
  const LoadedRun run = load_run(run_path, device, console);
  for (const auto& [name, parameter] : run.model->named_parameters()) {
    if (all_finite(parameter.data())) continue;
    console.error(fmt::format("parameter {} of {} is not finite", name, run.checkpoint.string()));
    return kCheckFailed;
  }
  settings.vocab_size = run.tokenizer->vocab_size();
  std::vector<int64_t> ids;
  for (const int32_t id : run.tokenizer->encode(prompt)) ids.push_back(id);
  if (ids.empty())
    throw UsageError("--prompt is empty; the model needs at least one token to continue");

  StopSignals::note_first();
  io::StreamDecoder decoder(run.tokenizer);
  Generator generator(seed);
  if (options.given("prompt") || !prompt_file.empty()) std::cout << prompt << std::flush;
  const auto start = std::chrono::steady_clock::now();
  const auto tokens = nn::generate(*run.model, ids, settings, generator, [&](int64_t token) {
    std::cout << decoder.push(static_cast<int32_t>(token)) << std::flush;
    return std::cout.good() && StopSignals::requested() == 0;
  });
  std::cout << decoder.finish() << "\n" << std::flush;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  console.info(fmt::format("{} tokens in {:.2f} s, {:.0f} tok/s", tokens.size(), seconds,
                           static_cast<double>(tokens.size()) / seconds));
  const int signal = StopSignals::requested();
  if (signal != 0) return kSignalBase + signal;
  if (!std::cout.good()) {
    console.error("generate: stdout cannot be written");
    return kFailed;
  }
  return kDone;
}

}  // namespace weft::apps

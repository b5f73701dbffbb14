#include "common/bench_options.h"

#include <iostream>

#include <nlohmann/json.hpp>

#include "weft/tensor/device_info.h"
#include "weft/tensor/parallel.h"

#include "common/machine.h"
#include "common/rows.h"
#include "common/train_config.h"
#include "common/version.h"

namespace weft::apps {

void MeasurementOptions::add_to(Options& options) {
  options.add("threads", &threads, "threads; 0 means OMP_NUM_THREADS, else all cores", {0, 4096});
  add_device_options(options, &device, &attention_backend, /*in_config=*/true);
  options.add("format", &format, "of the result on stdout", {"text", "csv", "json"});
  messages.add_to(options);
}

Device MeasurementOptions::start() const {
  if (threads > 0) set_num_threads(static_cast<int>(threads));
  return resolve_device(device);
}

void MeasurementOptions::print(const nlohmann::ordered_json& result,
                               const std::string& text) const {
  if (format == "json") {
    std::cout << to_json_text(result);
  } else if (format == "csv") {
    std::cout << to_csv(result);
  } else {
    std::cout << text;
  }
}

void BenchModelOptions::add_to(Options& options) {
  model.add_to(options);
  options.group("Measurement");
  options.add("vocab-size", &vocab_size, "number of tokens; 0 means 256", {0, 1 << 24});
}

bool BenchModelOptions::parse(Options& options, const std::vector<std::string>& arguments) {
  TrainConfig train_config;
  Options train_options("train", "", "");
  train_config.add_to(train_options);
  options.accept_config_of(train_options);
  if (!options.parse(arguments)) return false;
  if (vocab_size == 0) vocab_size = 256;
  return true;
}

std::unique_ptr<nn::DecoderLM> BenchModelOptions::make_model(Device device) const {
  return model.make_model(vocab_size, /*seed=*/0, device);
}

nlohmann::ordered_json BenchModelOptions::facts(const nn::DecoderLM& decoder, Device device) const {
  return {
      {"params", decoder.num_parameters()},
      {"device", to_string(device)},
      {"device_name", device_info(device).name},
      {"attention", model.schedule()},
      {"dtype", to_string(decoder.config().compute_dtype)},
      {"n_layers", model.n_layers},
      {"d_model", model.d_model},
      {"n_heads", model.n_heads},
      {"d_ff", decoder.config().d_ff},
      {"vocab_size", vocab_size},
      {"threads", num_threads()},
      {"weft", version()},
  };
}

}  // namespace weft::apps

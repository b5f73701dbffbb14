#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "weft/nn/decoder.h"

#include "common/console.h"
#include "common/model_options.h"
#include "common/options.h"

namespace weft::apps {

/// Where a part of `weft bench` measures, and in which form it prints what it measured.
struct MeasurementOptions {
  int64_t threads = 0;
  std::string device = "auto";
  std::string attention_backend = "automatic";
  std::string format = "text";
  Console::Settings messages;

  void add_to(Options& options);
  /// The device, once as many threads are set as wanted. Throws as resolve_device().
  Device start() const;
  /// Prints an object, or an array of objects with the same keys, to stdout as --format says;
  /// `text` is what readers get.
  void print(const nlohmann::ordered_json& result, const std::string& text) const;
};

/// A decoder of random weights that reads random tokens.
struct BenchModelOptions {
  ModelOptions model;
  int64_t vocab_size = 256;

  /// Ends in the group of the measurement's own options.
  void add_to(Options& options);
  /// As Options::parse(); the file of --config may be that of a training.
  bool parse(Options& options, const std::vector<std::string>& arguments);
  std::unique_ptr<nn::DecoderLM> make_model(Device device) const;
  /// What a result says of the model and of the machine and program that ran it.
  nlohmann::ordered_json facts(const nn::DecoderLM& decoder, Device device) const;
};

}  // namespace weft::apps

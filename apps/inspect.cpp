#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "weft/attention/op_table.h"
#include "weft/io/checkpoint.h"
#include "weft/io/token_dataset.h"
#include "weft/optim/op_table.h"
#include "weft/tensor/error.h"
#include "weft/tensor/op_table.h"

#include "commands.h"
#include "common/console.h"
#include "common/exit_code.h"
#include "common/options.h"

namespace weft::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json inspect_checkpoint(const fs::path& path) {
  const io::CheckpointReader reader(path);
  Json result = {{"kind", "checkpoint"},
                 {"path", path.string()},
                 {"producer", reader.producer()},
                 {"bytes", static_cast<int64_t>(fs::file_size(path))},
                 {"intact", true}};
  if (reader.has("steps_done")) result["step"] = reader.get_int("steps_done");
  std::map<std::string, int64_t> parts;
  int64_t parameters = 0;
  Json tensors = Json::array();
  for (const io::CheckpointEntry& entry : reader.entries()) {
    if (entry.kind != io::CheckpointEntry::Kind::tensor) continue;
    const bool is_weight = entry.name.starts_with("weights.");
    if (is_weight) {
      parameters += entry.shape.numel();
      const auto has = [&entry](const char* part) {
        return entry.name.find(part) != std::string::npos;
      };
      parts[has("embed_tokens") ? "embedding"
            : has("self_attn")  ? "attention"
            : has(".mlp.")      ? "mlp"
            : has("norm")       ? "norm"
                                : "head"] += entry.shape.numel();
    }
    tensors.push_back({{"name", entry.name},
                       {"dtype", std::string(to_string(entry.dtype))},
                       {"shape", std::vector<int64_t>(entry.shape.begin(), entry.shape.end())},
                       {"bytes", entry.bytes},
                       {"xxh64", fmt::format("{:016x}", entry.hash)}});
  }
  result["parameters"] = parameters;
  result["parts"] = parts;
  result["tensors"] = tensors;
  if (reader.has("config")) result["config"] = reader.text("config");
  return result;
}

Json inspect_dataset(const fs::path& path) {
  const io::TokenDataset dataset(path);
  return {{"kind", "dataset"},
          {"path", path.string()},
          {"bytes", static_cast<int64_t>(fs::file_size(path))},
          {"tokenizer", dataset.tokenizer()->name()},
          {"tokenizer_hash", dataset.tokenizer()->hash()},
          {"vocab_size", dataset.vocab_size()},
          {"train_tokens", dataset.train()->size()},
          {"valid_tokens", dataset.valid()->size()}};
}

/// A run folder: its newest checkpoint, and which others there are.
Json inspect_run(const fs::path& path) {
  const fs::path checkpoint = io::find_checkpoint(path);
  Json result = inspect_checkpoint(checkpoint);
  result["kind"] = "run";
  result["checkpoints"] = io::CheckpointFolder(checkpoint.parent_path()).steps();
  return result;
}

Json inspect_path(const fs::path& path) {
  if (!fs::exists(path)) throw IoError(fmt::format("inspect: '{}' does not exist", path.string()));
  if (fs::is_directory(path)) return inspect_run(path);
  if (!io::is_hdf5_file(path)) {
    throw IoError(
        fmt::format("inspect: '{}' is neither a run folder nor an HDF5 file", path.string()));
  }
  try {
    return inspect_dataset(path);
  } catch (const IoError& not_a_dataset) {
    try {
      return inspect_checkpoint(path);
    } catch (const IoError& not_a_checkpoint) {
      throw IoError(
          fmt::format("inspect: '{}' is no usable file: as a dataset: {}; as a checkpoint: {}",
                      path.string(), not_a_dataset.what(), not_a_checkpoint.what()));
    }
  }
}

void print_text(const Json& result) {
  for (const auto& [key, value] : result.items()) {
    if (key == "tensors") {
      std::cout << "tensors\n";
      for (const Json& tensor : value) {
        std::cout << fmt::format(
            "  {:<64} {:<5} {:<16} {:>12} {}\n", tensor["name"].get<std::string>(),
            tensor["dtype"].get<std::string>(), tensor["shape"].dump(),
            tensor["bytes"].get<int64_t>(), tensor["xxh64"].get<std::string>());
      }
    } else if (key == "config") {
      std::cout << "config\n" << value.get<std::string>();
    } else {
      std::cout << fmt::format("{:<16}{}\n", key,
                               value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

/// The op tables of the libraries, by folder.
const std::vector<std::pair<std::string, const OpTable*>>& op_tables() {
  static const std::vector<std::pair<std::string, const OpTable*>> tables = {
      {"tensor", &op_table()},
      {"attention", &attention::op_table()},
      {"optim", &optim::op_table()},
  };
  return tables;
}

std::vector<std::string> type_names(DTypeSet dtypes) {
  std::vector<std::string> names;
  for (const DType dtype : kEveryDType) {
    if (dtypes.contains(dtype)) names.emplace_back(to_string(dtype));
  }
  return names;
}

Json ops_as_json() {
  Json ops = Json::array();
  for (const auto& [folder, table] : op_tables()) {
    for (const OpInfo& op : table->ops()) {
      ops.push_back({{"name", op.name},
                     {"folder", folder},
                     {"kernel", op.kernel},
                     {"cpu", type_names(op.dtypes_on(DeviceType::cpu))},
                     {"cuda", type_names(op.dtypes_on(DeviceType::cuda))}});
    }
  }
  return ops;
}

/// One line an op and device.
void print_ops() {
  const auto row = [](const std::string& name, const char* device, const auto& cell_of) {
    std::cout << fmt::format("{:<25}{:<6}", name, device);
    for (const DType dtype : kEveryDType) std::cout << fmt::format(" {:>4}", cell_of(dtype));
    std::cout << "\n";
  };
  row("op", "device", [](DType dtype) { return to_string(dtype); });
  for (const auto& [folder, table] : op_tables()) {
    std::cout << folder << "\n";
    for (const OpInfo& op : table->ops()) {
      for (const DeviceType device : {DeviceType::cpu, DeviceType::cuda}) {
        if (!(device == DeviceType::cpu ? op.on_cpu : op.on_cuda)) continue;
        row(fmt::format("  {}", op.name), device == DeviceType::cpu ? "cpu" : "cuda",
            [types = op.dtypes_on(device)](DType dtype) {
              return types.contains(dtype) ? "yes" : "-";
            });
      }
    }
  }
}

}  // namespace

int inspect(const std::vector<std::string>& arguments) {
  bool ops = false;
  std::string format = "text";
  Options options("inspect",
                  "Shows what a checkpoint, dataset or run folder holds, and verifies it; or what "
                  "the ops of this build take.",
                  "weft inspect runs/a", "PATH");
  options.add("ops", &ops, "instead of PATH: every op, with its types on each device")
      .not_in_config();
  options.add("format", &format, "of the result on stdout", {"text", "json"}).not_in_config();
  if (!options.parse(arguments)) return kDone;
  if (ops) {
    if (!options.positional().empty())
      throw UsageError("inspect: --ops and a path exclude each other");
    if (format == "json") {
      std::cout << ops_as_json().dump(2) << "\n";
    } else {
      print_ops();
    }
    return kDone;
  }
  if (options.positional().size() != 1)
    throw UsageError("inspect: needs one path, or --ops; weft inspect --help");
  const Json result = inspect_path(options.positional().front());
  if (format == "json") {
    std::cout << result.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
  } else {
    print_text(result);
  }
  return kDone;
}

}  // namespace weft::apps

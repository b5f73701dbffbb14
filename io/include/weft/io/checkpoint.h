#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

namespace weft::io {

/// One named value of a checkpoint.
struct CheckpointEntry {
  enum class Kind : uint8_t { tensor, text, integer, real };

  std::string name;  ///< "model.layers.0.mlp.up_proj.weight"
  Kind kind = Kind::tensor;
  DType dtype = DType::f32;  ///< of a tensor
  Shape shape;               ///< of a tensor
  int64_t bytes = 0;
  uint64_t hash = 0;  ///< xxHash64 of the elements
};

/// Writes a checkpoint: one sealed HDF5 file (see Hdf5Writer) of named tensors, texts and numbers,
/// that appears when it is complete. Dotted names become nested groups: "model.norm.weight" is the
/// dataset /model/norm/weight. Every entry has the attributes `dtype` and `xxh64`; the dataset
/// /table lists all entries. Names have parts of letters, digits, '_' and '-', joined by dots.
///
/// Throws ConfigError on a bad name or one given twice, IoError when the file cannot be written.
class CheckpointWriter {
 public:
  explicit CheckpointWriter(const std::filesystem::path& target);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Any shape, type, layout and device.
  void add(const std::string& name, const Tensor& tensor);
  void add_text(const std::string& name, std::string_view text);
  void add_int(const std::string& name, int64_t value);
  void add_double(const std::string& name, double value);
  /// Two entries: NAME.seed and NAME.offset.
  void add_generator(const std::string& name, const GeneratorState& state);

  void commit();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Reads a checkpoint. The constructor verifies the file to the last byte, every entry against the
/// table, and the table against what the file has, before anything is given out. Throws IoError
/// with the reason on a missing, truncated, damaged or foreign file, or one of another format
/// version.
class CheckpointReader {
 public:
  explicit CheckpointReader(const std::filesystem::path& path);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;
  CheckpointReader& operator=(CheckpointReader&&) noexcept;

  const std::filesystem::path& path() const;
  /// "weft 0.1.0": the program that wrote it.
  const std::string& producer() const;
  /// In the order of writing.
  const std::vector<CheckpointEntry>& entries() const;
  bool has(const std::string& name) const;

  // Each throws IoError where there is no such entry, or one of another kind.
  Tensor tensor(const std::string& name) const;
  /// Reads into a tensor of the same shape and type, on any device.
  void read_into(const std::string& name, Tensor& tensor) const;
  std::string text(const std::string& name) const;
  int64_t get_int(const std::string& name) const;
  double get_double(const std::string& name) const;
  GeneratorState generator(const std::string& name) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// The checkpoints of a run: step-00001000.h5, ..., and `latest`, a link to the last one saved (a
/// file with its name where the file system has no links). One process at a time may save.
class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::filesystem::path folder) : folder_(std::move(folder)) {}

  const std::filesystem::path& path() const { return folder_; }
  std::filesystem::path path_of(int64_t step) const;
  /// Steps of the complete checkpoints, ascending. Empty where the folder is missing.
  std::vector<int64_t> steps() const;

  /// Saves what `fill` adds as the checkpoint of `step`, makes it `latest`, then removes the oldest
  /// until `keep` are left (-1: all; the one just saved always stays). Checkpoints of later steps,
  /// left by a run that was resumed from before them, get the prefix "superseded-". The folder is
  /// made where missing. Throws IoError, ConfigError; older checkpoints are then untouched.
  void save(int64_t step, int64_t keep, const std::function<void(CheckpointWriter&)>& fill) const;

  struct Loaded {
    CheckpointReader reader;
    int64_t step = 0;
    std::vector<std::string> notices;  ///< newer ones that could not be used, and why
  };
  /// The newest checkpoint that is intact; nothing where there is none at all. Throws IoError when
  /// there are some and every one is damaged.
  std::optional<Loaded> newest() const;

  /// Removes what interrupted saves left behind. For the one process that saves.
  void remove_leftovers() const;

 private:
  std::filesystem::path folder_;
};

/// The checkpoint file that a path stands for: a file, a `latest` (a link, a file with the name, or
/// a checkpoint itself), a checkpoint folder or a run folder (the newest in it, by name; not
/// verified). Throws IoError where there is none.
std::filesystem::path find_checkpoint(const std::filesystem::path& path);

}  // namespace weft::io

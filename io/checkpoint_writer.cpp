#include <array>
#include <bit>
#include <set>

#include "weft/io/checkpoint.h"
#include "weft/tensor/check.h"

#include "checkpoint_format.h"
#include "hash.h"

namespace weft::io {

class CheckpointWriter::Impl {
 public:
  explicit Impl(const std::filesystem::path& target) : file_(target) {}

  /// `entry` has all but bytes and hash.
  void add(CheckpointEntry entry, const void* data) {
    WEFT_CHECK(is_entry_name(entry.name), ConfigError,
               "checkpoint: '{}' cannot be the name of an entry", entry.name);
    WEFT_CHECK(names_.insert(entry.name).second, ConfigError, "checkpoint: '{}' is added twice",
               entry.name);
    const ElementType stored = stored_element(entry);
    entry.bytes = entry.shape.numel() * static_cast<int64_t>(size_of(stored));
    entry.hash = hash_bytes(data, static_cast<size_t>(entry.bytes));
    const std::string path = entry_path(entry.name);
    file_.write(path, stored, {entry.shape.begin(), entry.shape.end()}, data);
    file_.set_attribute(path, "dtype", dtype_attribute(entry));
    file_.set_attribute(path, "xxh64", to_hex(entry.hash));
    table_ += table_line(entry);
  }

  void commit() {
    file_.write_text(kTablePath, table_);
    file_.set_attribute("/", "format", kCheckpointFormat);
    file_.set_attribute("/", "format_version", kCheckpointVersion);
    file_.set_attribute("/", "producer", "weft " WEFT_VERSION);
    file_.set_attribute("/", "table_xxh64", to_hex(hash_bytes(table_)));
    file_.commit();
  }

 private:
  Hdf5Writer file_;
  std::set<std::string> names_;
  std::string table_;
};

CheckpointWriter::CheckpointWriter(const std::filesystem::path& target)
    : impl_(std::make_unique<Impl>(target)) {}
CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::add(const std::string& name, const Tensor& tensor) {
  WEFT_CHECK(tensor.defined(), ShapeError, "checkpoint: tensor '{}' is undefined", name);
  const Tensor dense = tensor.to(kCpu).contiguous();
  impl_->add({.name = name,
              .kind = CheckpointEntry::Kind::tensor,
              .dtype = tensor.dtype(),
              .shape = tensor.shape()},
             dense.raw_data());
}

void CheckpointWriter::add_text(const std::string& name, std::string_view text) {
  impl_->add({.name = name,
              .kind = CheckpointEntry::Kind::text,
              .dtype = DType::u8,
              .shape = {static_cast<int64_t>(text.size())}},
             text.data());
}

void CheckpointWriter::add_int(const std::string& name, int64_t value) {
  impl_->add(
      {.name = name, .kind = CheckpointEntry::Kind::integer, .dtype = DType::i64, .shape = {}},
      &value);
}

void CheckpointWriter::add_double(const std::string& name, double value) {
  impl_->add({.name = name, .kind = CheckpointEntry::Kind::real, .dtype = DType::f64, .shape = {}},
             &value);
}

void CheckpointWriter::add_generator(const std::string& name, const GeneratorState& state) {
  add_int(name + ".seed", std::bit_cast<int64_t>(state.seed));
  add_int(name + ".offset", std::bit_cast<int64_t>(state.offset));
}

void CheckpointWriter::commit() {
  impl_->commit();
}

}  // namespace weft::io

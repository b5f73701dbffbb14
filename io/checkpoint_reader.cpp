#include <algorithm>
#include <bit>
#include <map>

#include "weft/io/checkpoint.h"
#include "weft/tensor/check.h"

#include "checkpoint_format.h"
#include "hash.h"

namespace weft::io {

using Kind = CheckpointEntry::Kind;

class CheckpointReader::Impl {
 public:
  explicit Impl(const std::filesystem::path& path) : file_(path) {
    const std::string origin = path.string();
    const auto format = file_.is_sealed() ? file_.text_attribute("/", "format") : std::nullopt;
    WEFT_CHECK(format == kCheckpointFormat, IoError,
               "cannot read '{}': it is not a Weft checkpoint", origin);
    const auto version = file_.int_attribute("/", "format_version");
    WEFT_CHECK(version == kCheckpointVersion, IoError,
               "cannot read '{}': checkpoint format {}, this program reads format {}", origin,
               version.value_or(0), kCheckpointVersion);
    producer_ = file_.text_attribute("/", "producer").value_or("unknown");
    const std::string table = file_.read_text(kTablePath);
    WEFT_CHECK(file_.text_attribute("/", "table_xxh64") == to_hex(hash_bytes(table)), IoError,
               "cannot read '{}': the checksum of its table is wrong", origin);
    entries_ = parse_table(table, origin);
    for (size_t i = 0; i < entries_.size(); ++i) {
      WEFT_CHECK(index_.emplace(entries_[i].name, i).second, IoError,
                 "cannot read '{}': its table lists '{}' twice", origin, entries_[i].name);
    }
    const size_t datasets = count_datasets("/", 0);
    WEFT_CHECK(datasets == entries_.size() + 1, IoError,
               "cannot read '{}': it has {} datasets besides the table, which lists {}", origin,
               datasets - 1, entries_.size());
    std::vector<char> buffer;
    for (const CheckpointEntry& entry : entries_) {
      verify_form(entry);
      buffer.resize(static_cast<size_t>(entry.bytes));
      read(entry, buffer.data());
    }
  }

  const Hdf5Reader& file() const { return file_; }
  const std::string& producer() const { return producer_; }
  const std::vector<CheckpointEntry>& entries() const { return entries_; }
  bool has(const std::string& name) const { return index_.contains(name); }

  const CheckpointEntry& entry(const std::string& name, Kind kind) const {
    const auto found = index_.find(name);
    WEFT_CHECK(found != index_.end(), IoError, "checkpoint '{}' has no '{}'", file_.path().string(),
               name);
    const CheckpointEntry& entry = entries_[found->second];
    WEFT_CHECK(entry.kind == kind, IoError, "checkpoint '{}': '{}' is {}, not {}",
               file_.path().string(), name, kind_text(entry.kind), kind_text(kind));
    return entry;
  }

  void read(const CheckpointEntry& entry, void* data) const {
    file_.read(entry_path(entry.name), stored_element(entry), data, entry.shape.numel());
    const uint64_t hash = hash_bytes(data, static_cast<size_t>(entry.bytes));
    WEFT_CHECK(hash == entry.hash, IoError, "cannot read '{}': the checksum of '{}' is wrong",
               file_.path().string(), entry.name);
    if (entry.dtype == DType::boolean) {
      const auto* first = static_cast<const unsigned char*>(data);
      WEFT_CHECK(std::all_of(first, first + entry.bytes, [](unsigned char c) { return c <= 1; }),
                 IoError, "cannot read '{}': '{}' has values that are neither true nor false",
                 file_.path().string(), entry.name);
    }
  }

 private:
  static std::string_view kind_text(Kind kind) {
    switch (kind) {
      case Kind::tensor:
        return "a tensor";
      case Kind::text:
        return "a text";
      case Kind::integer:
        return "a whole number";
      case Kind::real:
        break;
    }
    return "a number";
  }

  size_t count_datasets(const std::string& group, int depth) const {
    constexpr int kDeepest = 64;  // a group may contain itself
    WEFT_CHECK(depth < kDeepest, IoError, "cannot read '{}': its groups are nested too deeply",
               file_.path().string());
    size_t count = 0;
    for (const std::string& name : file_.children(group)) {
      std::string child = group;
      if (depth > 0) child += '/';
      child += name;
      count += file_.is_group(child) ? count_datasets(child, depth + 1) : 1;
    }
    return count;
  }

  void verify_form(const CheckpointEntry& entry) const {
    const std::string path = entry_path(entry.name);
    const DatasetInfo info = file_.info(path);
    const bool same =
        info.type == stored_element(entry) &&
        std::equal(info.shape.begin(), info.shape.end(), entry.shape.begin(), entry.shape.end()) &&
        file_.text_attribute(path, "dtype") == dtype_attribute(entry) &&
        file_.text_attribute(path, "xxh64") == to_hex(entry.hash);
    WEFT_CHECK(same, IoError, "cannot read '{}': '{}' is not what its table says",
               file_.path().string(), entry.name);
  }

  Hdf5Reader file_;
  std::string producer_;
  std::vector<CheckpointEntry> entries_;
  std::map<std::string, size_t> index_;
};

CheckpointReader::CheckpointReader(const std::filesystem::path& path)
    : impl_(std::make_unique<Impl>(path)) {}
CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;

const std::filesystem::path& CheckpointReader::path() const {
  return impl_->file().path();
}
const std::string& CheckpointReader::producer() const {
  return impl_->producer();
}
const std::vector<CheckpointEntry>& CheckpointReader::entries() const {
  return impl_->entries();
}
bool CheckpointReader::has(const std::string& name) const {
  return impl_->has(name);
}

Tensor CheckpointReader::tensor(const std::string& name) const {
  const CheckpointEntry& entry = impl_->entry(name, Kind::tensor);
  Tensor tensor = empty(entry.shape, entry.dtype);
  impl_->read(entry, tensor.raw_data());
  return tensor;
}

void CheckpointReader::read_into(const std::string& name, Tensor& tensor) const {
  const CheckpointEntry& entry = impl_->entry(name, Kind::tensor);
  WEFT_CHECK(tensor.defined() && tensor.shape() == entry.shape && tensor.dtype() == entry.dtype,
             IoError, "checkpoint '{}': '{}' is {} {}, expected {}", path().string(), name,
             entry.shape, entry.dtype, tensor);
  tensor.copy_(this->tensor(name));
}

std::string CheckpointReader::text(const std::string& name) const {
  const CheckpointEntry& entry = impl_->entry(name, Kind::text);
  std::string text(static_cast<size_t>(entry.bytes), '\0');
  impl_->read(entry, text.data());
  return text;
}

int64_t CheckpointReader::get_int(const std::string& name) const {
  int64_t value = 0;
  impl_->read(impl_->entry(name, Kind::integer), &value);
  return value;
}

double CheckpointReader::get_double(const std::string& name) const {
  double value = 0;
  impl_->read(impl_->entry(name, Kind::real), &value);
  return value;
}

GeneratorState CheckpointReader::generator(const std::string& name) const {
  return {std::bit_cast<uint64_t>(get_int(name + ".seed")),
          std::bit_cast<uint64_t>(get_int(name + ".offset"))};
}

}  // namespace weft::io

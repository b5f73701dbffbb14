#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "weft/io/hdf5.h"

#include "file_descriptor.h"
#include "hdf5_handles.h"
#include "hdf5_types.h"
#include "seal.h"

namespace weft::io {
namespace {

constexpr size_t kMostChildren = 1 << 20;
constexpr size_t kLongestAttribute = size_t{1} << 20;
constexpr int64_t kLargestChunkBytes = int64_t{1} << 28;
constexpr int kMostAxes = 32;            // as HDF5
constexpr uint64_t kMostDeflate = 1100;  // deflate makes data at most 1032 times smaller

}  // namespace

class Hdf5Reader::Impl {
 public:
  explicit Impl(const std::filesystem::path& path)
      : path_(path), descriptor_(open_for_reading(path)), driver_(descriptor_.get(), false) {
    WEFT_CHECK(driver_.end_of_file() > 0, IoError, "cannot read '{}': it is empty", path.string());
    seal_ = verify_seal(descriptor_.get(), path);
    WEFT_CHECK(has_hdf5_signature(descriptor_.get()), IoError,
               "cannot read '{}': it is not an HDF5 file", path.string());
    const H5Session session;
    const H5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    check(set_driver(access.get(), &driver_), "");
    file_ = H5Handle(H5Fopen(path.string().c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
    check(file_.get(), "");
  }

  ~Impl() {
    const H5Session session;
    file_.reset();
  }

  const std::filesystem::path& path() const { return path_; }
  const std::optional<uint64_t>& seal() const { return seal_; }

  bool has(const std::string& object) const {
    const H5Session session;
    return exists(object);
  }

  bool is_group(const std::string& object) const {
    const H5Session session;
    return exists(object) && H5Iget_type(open(object).get()) == H5I_GROUP;
  }

  std::vector<std::string> children(const std::string& group) const {
    const H5Session session;
    const H5Handle opened = open(group);
    WEFT_CHECK(H5Iget_type(opened.get()) == H5I_GROUP, IoError,
               "cannot read '{}': '{}' is not a group", path_.string(), group);
    Names names;
    const herr_t result =
        H5Literate(opened.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, add_name, &names);
    WEFT_CHECK(!names.too_many, IoError, "cannot read '{}': group '{}' has too many entries",
               path_.string(), group);
    check(result, group);
    return std::move(names.list);
  }

  DatasetInfo info(const std::string& dataset) const {
    const H5Session session;
    return describe(dataset, open_dataset(dataset).get());
  }

  void read(const std::string& dataset, ElementType type, void* data, int64_t count) const {
    const H5Session session;
    const H5Handle opened = open_dataset(dataset);
    const DatasetInfo info = describe(dataset, opened.get());
    check_type(dataset, info, type);
    WEFT_CHECK(info.numel == count, IoError, "cannot read '{}': '{}' has {} elements, expected {}",
               path_.string(), dataset, info.numel, count);
    if (count == 0) return;
    check(H5Dread(opened.get(), stored_type(type).get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, data),
          dataset);
  }

  void read_slice(const std::string& dataset, ElementType type, int64_t start, int64_t count,
                  void* data) const {
    const H5Session session;
    const H5Handle opened = open_dataset(dataset);
    const DatasetInfo info = describe(dataset, opened.get());
    check_type(dataset, info, type);
    WEFT_CHECK(info.shape.size() == 1, IoError, "cannot read '{}': '{}' has {} axes, expected 1",
               path_.string(), dataset, info.shape.size());
    WEFT_CHECK(start >= 0 && count >= 0 && count <= info.numel && start <= info.numel - count,
               IndexError, "'{}': {} elements from {} on asked for, '{}' has {}", path_.string(),
               count, start, dataset, info.numel);
    if (count == 0) return;
    const auto first = static_cast<hsize_t>(start);
    const auto size = static_cast<hsize_t>(count);
    const H5Handle file_space(H5Dget_space(opened.get()), H5Sclose);
    const H5Handle memory_space(H5Screate_simple(1, &size, nullptr), H5Sclose);
    check(H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, &first, nullptr, &size, nullptr),
          dataset);
    check(H5Dread(opened.get(), stored_type(type).get(), memory_space.get(), file_space.get(),
                  H5P_DEFAULT, data),
          dataset);
  }

  std::optional<std::string> text_attribute(const std::string& object,
                                            const std::string& name) const {
    const H5Session session;
    const H5Handle attribute = open_attribute(object, name);
    if (attribute.get() < 0) return std::nullopt;
    const std::string what = object + "@" + name;
    const H5Handle type(H5Aget_type(attribute.get()), H5Tclose);
    WEFT_CHECK(H5Tget_class(type.get()) == H5T_STRING, IoError,
               "cannot read '{}': attribute '{}' is not text", path_.string(), what);
    return H5Tis_variable_str(type.get()) > 0
               ? read_variable_text(attribute.get(), type.get(), what)
               : read_fixed_text(attribute.get(), type.get(), what);
  }

  std::optional<int64_t> int_attribute(const std::string& object, const std::string& name) const {
    const H5Session session;
    int64_t value = 0;
    if (!read_number(object, name, H5T_INTEGER, H5T_NATIVE_INT64, &value)) return std::nullopt;
    return value;
  }

  std::optional<double> double_attribute(const std::string& object, const std::string& name) const {
    const H5Session session;
    double value = 0;
    if (!read_number(object, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, &value)) return std::nullopt;
    return value;
  }

 private:
  struct Names {
    std::vector<std::string> list;
    bool too_many = false;
  };

  static herr_t add_name(hid_t /*group*/, const char* name, const H5L_info_t* /*info*/,
                         void* data) {
    auto* names = static_cast<Names*>(data);
    names->too_many = names->list.size() >= kMostChildren;
    if (names->too_many) return -1;
    names->list.emplace_back(name);
    return 0;
  }

  /// Calls visit(prefix) for "/a", "/a/b", ... of "/a/b/..." until it returns false.
  template <class Visit>
  static bool each_prefix(const std::string& object, Visit&& visit) {
    size_t end = object.find_first_not_of('/');
    while (end != std::string::npos && end < object.size()) {
      end = std::min(object.find('/', end), object.size());
      if (!visit(object.substr(0, end))) return false;
      end = object.find_first_not_of('/', end);
    }
    return true;
  }

  bool exists(const std::string& object) const {
    return each_prefix(object, [this](const std::string& prefix) {
      return H5Lexists(file_.get(), prefix.c_str(), H5P_DEFAULT) > 0;
    });
  }

  /// Follows plain links only: a file must not lead into another one.
  H5Handle open(const std::string& object) const {
    each_prefix(object, [&](const std::string& prefix) {
      WEFT_CHECK(H5Lexists(file_.get(), prefix.c_str(), H5P_DEFAULT) > 0, IoError,
                 "cannot read '{}': it has no '{}'", path_.string(), prefix);
      H5L_info_t link{};
      check(H5Lget_info(file_.get(), prefix.c_str(), &link, H5P_DEFAULT), prefix);
      WEFT_CHECK(link.type == H5L_TYPE_HARD, IoError,
                 "cannot read '{}': '{}' is a soft or external link", path_.string(), prefix);
      return true;
    });
    H5Handle opened(H5Oopen(file_.get(), object.c_str(), H5P_DEFAULT), H5Oclose);
    check(opened.get(), object);
    return opened;
  }

  H5Handle open_dataset(const std::string& dataset) const {
    H5Handle opened = open(dataset);
    WEFT_CHECK(H5Iget_type(opened.get()) == H5I_DATASET, IoError,
               "cannot read '{}': '{}' is not a dataset", path_.string(), dataset);
    return opened;
  }

  /// All that is known of a dataset without reading it; refuses what could do harm.
  DatasetInfo describe(const std::string& dataset, hid_t opened) const {
    DatasetInfo info;
    const H5Handle space(H5Dget_space(opened), H5Sclose);
    check(space.get(), dataset);
    const H5S_class_t kind = H5Sget_simple_extent_type(space.get());
    WEFT_CHECK(kind == H5S_SIMPLE || kind == H5S_SCALAR, IoError,
               "cannot read '{}': '{}' has no elements", path_.string(), dataset);
    std::array<hsize_t, kMostAxes> sizes{};
    const int rank = H5Sget_simple_extent_dims(space.get(), sizes.data(), nullptr);
    check(rank, dataset);
    for (int axis = 0; axis < rank; ++axis) {
      const hsize_t size = sizes[static_cast<size_t>(axis)];
      WEFT_CHECK(size <= static_cast<hsize_t>(std::numeric_limits<int64_t>::max()) &&
                     !__builtin_mul_overflow(info.numel, static_cast<int64_t>(size), &info.numel),
                 IoError, "cannot read '{}': the size of '{}' is impossible", path_.string(),
                 dataset);
      info.shape.push_back(static_cast<int64_t>(size));
    }
    const H5Handle type(H5Dget_type(opened), H5Tclose);
    check(type.get(), dataset);
    info.type = classify(type.get());
    check_storage(dataset, opened, info);
    return info;
  }

  void check_storage(const std::string& dataset, hid_t opened, DatasetInfo& info) const {
    const H5Handle properties(H5Dget_create_plist(opened), H5Pclose);
    check(properties.get(), dataset);
    const H5D_layout_t layout = H5Pget_layout(properties.get());
    WEFT_CHECK(layout == H5D_COMPACT || layout == H5D_CONTIGUOUS || layout == H5D_CHUNKED, IoError,
               "cannot read '{}': '{}' keeps its elements elsewhere", path_.string(), dataset);
    WEFT_CHECK(H5Pget_external_count(properties.get()) == 0, IoError,
               "cannot read '{}': '{}' keeps its elements in another file", path_.string(),
               dataset);
    uint64_t most_deflate = 1;
    if (layout == H5D_CHUNKED) {
      check_filters(dataset, properties.get(), most_deflate);
      std::array<hsize_t, kMostAxes> chunk{};
      const int rank = H5Pget_chunk(properties.get(), kMostAxes, chunk.data());
      check(rank, dataset);
      int64_t bytes =
          static_cast<int64_t>(H5Tget_size(H5Handle(H5Dget_type(opened), H5Tclose).get()));
      for (int axis = 0; axis < rank; ++axis) {
        const bool fits = !__builtin_mul_overflow(
            bytes, static_cast<int64_t>(chunk[static_cast<size_t>(axis)]), &bytes);
        WEFT_CHECK(fits && bytes > 0 && bytes <= kLargestChunkBytes, IoError,
                   "cannot read '{}': the chunks of '{}' are too large", path_.string(), dataset);
      }
      info.chunk = static_cast<int64_t>(chunk[0]);
    }
    info.stored_bytes = H5Dget_storage_size(opened);
    if (info.type == ElementType::other) return;
    // What is claimed must be able to come out of what is stored, and that must fit in the file.
    uint64_t bytes = 0;
    const bool possible =
        !__builtin_mul_overflow(static_cast<uint64_t>(info.numel), size_of(info.type), &bytes) &&
        info.stored_bytes <= driver_.end_of_file() && bytes / most_deflate <= info.stored_bytes;
    WEFT_CHECK(possible, IoError,
               "cannot read '{}': '{}' claims {} elements, but {} bytes are stored", path_.string(),
               dataset, info.numel, info.stored_bytes);
  }

  void check_filters(const std::string& dataset, hid_t properties, uint64_t& most_deflate) const {
    const int filters = H5Pget_nfilters(properties);
    check(filters, dataset);
    for (int i = 0; i < filters; ++i) {
      unsigned flags = 0;
      unsigned configuration = 0;
      size_t values = 0;
      const H5Z_filter_t filter = H5Pget_filter2(properties, static_cast<unsigned>(i), &flags,
                                                 &values, nullptr, 0, nullptr, &configuration);
      check(filter, dataset);
      WEFT_CHECK(filter == H5Z_FILTER_DEFLATE || filter == H5Z_FILTER_SHUFFLE ||
                     filter == H5Z_FILTER_FLETCHER32,
                 IoError,
                 "cannot read '{}': '{}' uses HDF5 filter {}; known are deflate, shuffle and "
                 "fletcher32",
                 path_.string(), dataset, static_cast<int>(filter));
      if (filter == H5Z_FILTER_DEFLATE) most_deflate *= kMostDeflate;
    }
  }

  void check_type(const std::string& dataset, const DatasetInfo& info, ElementType type) const {
    WEFT_CHECK(info.type == type, IoError, "cannot read '{}': '{}' holds {}, expected {}",
               path_.string(), dataset, to_string(info.type), to_string(type));
  }

  /// An invalid handle where there is no such attribute.
  H5Handle open_attribute(const std::string& object, const std::string& name) const {
    const H5Handle owner = open(object);
    const htri_t there = H5Aexists(owner.get(), name.c_str());
    check(there, object);
    if (there == 0) return {};
    H5Handle attribute(H5Aopen(owner.get(), name.c_str(), H5P_DEFAULT), H5Aclose);
    const std::string what = object + "@" + name;
    check(attribute.get(), what);
    const H5Handle space(H5Aget_space(attribute.get()), H5Sclose);
    WEFT_CHECK(H5Sget_simple_extent_npoints(space.get()) == 1, IoError,
               "cannot read '{}': attribute '{}' is not a single value", path_.string(), what);
    return attribute;
  }

  bool read_number(const std::string& object, const std::string& name, H5T_class_t kind,
                   hid_t memory_type, void* value) const {
    const H5Handle attribute = open_attribute(object, name);
    if (attribute.get() < 0) return false;
    const std::string what = object + "@" + name;
    const H5Handle type(H5Aget_type(attribute.get()), H5Tclose);
    WEFT_CHECK(H5Tget_class(type.get()) == kind, IoError,
               "cannot read '{}': attribute '{}' is not {}", path_.string(), what,
               kind == H5T_INTEGER ? "a whole number" : "a number");
    check(H5Aread(attribute.get(), memory_type, value), what);
    return true;
  }

  std::string read_fixed_text(hid_t attribute, hid_t type, const std::string& what) const {
    const size_t size = H5Tget_size(type);
    WEFT_CHECK(size <= kLongestAttribute, IoError, "cannot read '{}': attribute '{}' is too long",
               path_.string(), what);
    std::string text(size, '\0');
    check(H5Aread(attribute, type, text.data()), what);
    text.resize(std::min(text.size(), std::strlen(text.c_str())));
    return text;
  }

  /// As h5py writes text.
  std::string read_variable_text(hid_t attribute, hid_t stored, const std::string& what) const {
    const H5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.get(), H5T_VARIABLE);
    H5Tset_cset(type.get(), H5Tget_cset(stored));
    char* value = nullptr;
    check(H5Aread(attribute, type.get(), &value), what);
    std::string text =
        value == nullptr ? "" : std::string(value, strnlen(value, kLongestAttribute));
    H5free_memory(value);
    return text;
  }

  void check(int64_t result, const std::string& object) const {
    if (result >= 0) return;
    const std::string reason =
        driver_.error_number() != 0 ? error_text(driver_.error_number()) : h5_error_text();
    throw_error<IoError>("cannot read '{}'{}{}: {}", path_.string(),
                         object.empty() ? "" : ", object ", object, reason);
  }

  std::filesystem::path path_;
  FileDescriptor descriptor_;
  mutable DriverFile driver_;
  std::optional<uint64_t> seal_;
  H5Handle file_;
};

Hdf5Reader::Hdf5Reader(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {}
Hdf5Reader::~Hdf5Reader() = default;
Hdf5Reader::Hdf5Reader(Hdf5Reader&&) noexcept = default;
Hdf5Reader& Hdf5Reader::operator=(Hdf5Reader&&) noexcept = default;

const std::filesystem::path& Hdf5Reader::path() const {
  return impl_->path();
}
bool Hdf5Reader::is_sealed() const {
  return impl_->seal().has_value();
}
uint64_t Hdf5Reader::content_hash() const {
  return impl_->seal().value_or(0);
}
bool Hdf5Reader::has(const std::string& object) const {
  return impl_->has(object);
}
bool Hdf5Reader::is_group(const std::string& object) const {
  return impl_->is_group(object);
}
std::vector<std::string> Hdf5Reader::children(const std::string& group) const {
  return impl_->children(group);
}
DatasetInfo Hdf5Reader::info(const std::string& dataset) const {
  return impl_->info(dataset);
}
void Hdf5Reader::read(const std::string& dataset, ElementType type, void* data,
                      int64_t count) const {
  impl_->read(dataset, type, data, count);
}
void Hdf5Reader::read_slice(const std::string& dataset, ElementType type, int64_t start,
                            int64_t count, void* data) const {
  impl_->read_slice(dataset, type, start, count, data);
}
std::string Hdf5Reader::read_text(const std::string& dataset, int64_t limit) const {
  const int64_t bytes = info(dataset).numel;
  WEFT_CHECK(bytes <= limit, IoError, "cannot read '{}': '{}' has {} bytes, at most {} are taken",
             path().string(), dataset, bytes, limit);
  std::string text(static_cast<size_t>(bytes), '\0');
  read(dataset, ElementType::u8, text.data(), bytes);
  return text;
}
std::optional<std::string> Hdf5Reader::text_attribute(const std::string& object,
                                                      const std::string& name) const {
  return impl_->text_attribute(object, name);
}
std::optional<int64_t> Hdf5Reader::int_attribute(const std::string& object,
                                                 const std::string& name) const {
  return impl_->int_attribute(object, name);
}
std::optional<double> Hdf5Reader::double_attribute(const std::string& object,
                                                   const std::string& name) const {
  return impl_->double_attribute(object, name);
}

}  // namespace weft::io

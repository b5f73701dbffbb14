#include <cerrno>
#include <limits>
#include <map>
#include <set>

#include <unistd.h>

#include "weft/io/atomic_file.h"
#include "weft/io/hdf5.h"

#include "file_descriptor.h"
#include "hdf5_handles.h"
#include "hdf5_types.h"
#include "seal.h"

namespace weft::io {

class Hdf5Writer::Impl {
 public:
  explicit Impl(const std::filesystem::path& target)
      : target_(target), atomic_(target), driver_(atomic_.descriptor(), /*writable=*/true) {
    const H5Session session;
    const H5Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    const H5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    check(H5Pset_userblock(creation.get(), kSealBytes));
    check(H5Pset_obj_track_times(creation.get(), false));  // of the root group
    // Formats that every HDF5 since 1.8 reads, with checksums on the structure.
    check(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_LATEST));
    check(set_driver(access.get(), &driver_));
    const std::string name = atomic_.temporary().string();
    file_ =
        H5Handle(H5Fcreate(name.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
    check(file_.get());
    group_properties_ = H5Handle(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
    check(H5Pset_obj_track_times(group_properties_.get(), false));  // equal content, equal bytes
  }

  ~Impl() { close(); }

  void create_group(const std::string& group) {
    const H5Session session;
    make_parents(group);
    make_group(group);
  }

  void write(const std::string& dataset, ElementType type, std::span<const int64_t> shape,
             const void* data) {
    const H5Session session;
    make_parents(dataset);
    const H5Handle space = make_space(shape);
    check(space.get(), dataset);
    const H5Handle file_type = stored_type(type);
    const H5Handle properties = dataset_properties();
    const H5Handle made(H5Dcreate2(file_.get(), dataset.c_str(), file_type.get(), space.get(),
                                   H5P_DEFAULT, properties.get(), H5P_DEFAULT),
                        H5Dclose);
    check(made.get(), dataset);
    if (H5Sget_simple_extent_npoints(space.get()) == 0) return;
    check(H5Dwrite(made.get(), file_type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, data), dataset);
  }

  void create_stream(const std::string& dataset, ElementType type, int64_t chunk) {
    WEFT_CHECK(chunk >= 1 && chunk <= kLargestChunk, ConfigError,
               "HDF5 dataset '{}': chunks must have 1 to {} elements, got {}", dataset,
               kLargestChunk, chunk);
    const H5Session session;
    make_parents(dataset);
    const hsize_t none = 0;
    const hsize_t unlimited = H5S_UNLIMITED;
    const hsize_t chunk_size = static_cast<hsize_t>(chunk);
    const H5Handle space(H5Screate_simple(1, &none, &unlimited), H5Sclose);
    const H5Handle properties = dataset_properties();
    check(H5Pset_chunk(properties.get(), 1, &chunk_size), dataset);
    check(H5Pset_shuffle(properties.get()), dataset);
    check(H5Pset_deflate(properties.get(), kDeflateLevel), dataset);
    check(H5Pset_fletcher32(properties.get()), dataset);
    Stream stream;
    stream.type = type;
    stream.chunk_bytes = static_cast<size_t>(chunk) * size_of(type);
    stream.dataset = H5Handle(H5Dcreate2(file_.get(), dataset.c_str(), stored_type(type).get(),
                                         space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT),
                              H5Dclose);
    check(stream.dataset.get(), dataset);
    streams_.insert_or_assign(dataset, std::move(stream));
  }

  void append(const std::string& dataset, const void* data, int64_t count) {
    const H5Session session;
    const auto found = streams_.find(dataset);
    WEFT_CHECK(found != streams_.end() && count >= 0, ConfigError,
               "HDF5 dataset '{}': cannot append {} elements to it", dataset, count);
    Stream& stream = found->second;
    const auto* next = static_cast<const char*>(data);
    size_t left = static_cast<size_t>(count) * size_of(stream.type);
    while (left > 0) {
      const size_t piece = std::min(left, stream.chunk_bytes - stream.waiting.size());
      stream.waiting.insert(stream.waiting.end(), next, next + piece);
      next += piece;
      left -= piece;
      if (stream.waiting.size() == stream.chunk_bytes) flush(dataset, stream);
    }
  }

  void set_attribute(const std::string& object, const std::string& name, std::string_view value) {
    WEFT_CHECK(value.size() <= kLongestAttribute, ConfigError,
               "HDF5 attribute '{}' of '{}': {} bytes, at most {} fit", name, object, value.size(),
               kLongestAttribute);
    const H5Session session;
    const H5Handle type = text_type(value.size());
    const std::string text(value.empty() ? std::string_view("\0", 1) : value);
    put_attribute(object, name, type.get(), text.data());
  }
  void set_attribute(const std::string& object, const std::string& name, int64_t value) {
    const H5Session session;
    put_attribute(object, name, H5T_STD_I64LE, &value);
  }
  void set_attribute(const std::string& object, const std::string& name, double value) {
    const H5Session session;
    put_attribute(object, name, H5T_IEEE_F64LE, &value);
  }

  void commit() {
    {
      const H5Session session;
      for (auto& [name, stream] : streams_) flush(name, stream);
    }
    close();
    check_disk();
    if (const int error = write_seal(atomic_.descriptor()))
      throw_error<IoError>("cannot write '{}': {}", target_.string(), error_text(error));
    atomic_.commit();
  }

 private:
  struct Stream {
    H5Handle dataset;
    ElementType type = ElementType::other;
    size_t chunk_bytes = 0;
    int64_t length = 0;         // elements in the file
    std::vector<char> waiting;  // less than a chunk
  };

  static constexpr int64_t kLargestChunk = int64_t{1} << 24;
  static constexpr size_t kLongestAttribute = 32768;  // of the 64 KiB that the format allows
  static constexpr unsigned kDeflateLevel = 4;

  static H5Handle make_space(std::span<const int64_t> shape) {
    if (shape.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
    const std::vector<hsize_t> sizes(shape.begin(), shape.end());
    return {H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr), H5Sclose};
  }

  /// Makes the groups above `name`: those that the library makes by itself hold the time of day.
  void make_parents(const std::string& name) {
    for (size_t end = name.find('/', 1); end != std::string::npos; end = name.find('/', end + 1)) {
      const std::string group = name.substr(0, end);
      if (!groups_.contains(group)) make_group(group);
    }
  }

  void make_group(const std::string& group) {
    const H5Handle made(
        H5Gcreate2(file_.get(), group.c_str(), H5P_DEFAULT, group_properties_.get(), H5P_DEFAULT),
        H5Gclose);
    check(made.get(), group);
    groups_.insert(group);
  }

  static H5Handle dataset_properties() {
    H5Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_obj_track_times(properties.get(), false);  // equal content, equal bytes
    return properties;
  }

  void flush(const std::string& dataset, Stream& stream) {
    if (stream.waiting.empty()) return;
    const auto count = static_cast<hsize_t>(stream.waiting.size() / size_of(stream.type));
    const auto start = static_cast<hsize_t>(stream.length);
    const hsize_t length = start + count;
    check(H5Dset_extent(stream.dataset.get(), &length), dataset);
    const H5Handle file_space(H5Dget_space(stream.dataset.get()), H5Sclose);
    const H5Handle memory_space(H5Screate_simple(1, &count, nullptr), H5Sclose);
    check(H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, &start, nullptr, &count, nullptr),
          dataset);
    check(H5Dwrite(stream.dataset.get(), stored_type(stream.type).get(), memory_space.get(),
                   file_space.get(), H5P_DEFAULT, stream.waiting.data()),
          dataset);
    stream.length = static_cast<int64_t>(length);
    stream.waiting.clear();
  }

  void put_attribute(const std::string& object, const std::string& name, hid_t type,
                     const void* value) {
    const std::string what = object + "@" + name;
    const H5Handle owner(H5Oopen(file_.get(), object.c_str(), H5P_DEFAULT), H5Oclose);
    check(owner.get(), what);
    const H5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    const H5Handle made(
        H5Acreate2(owner.get(), name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
        H5Aclose);
    check(made.get(), what);
    check(H5Awrite(made.get(), type, value), what);
  }

  void check(int64_t result, const std::string& object = {}) const {
    check_disk();
    WEFT_CHECK(result >= 0, IoError, "cannot write '{}'{}{}: {}", target_.string(),
               object.empty() ? "" : ", object ", object, h5_error_text());
  }
  void check_disk() const {
    WEFT_CHECK(driver_.error_number() == 0, IoError, "cannot write '{}': {}", target_.string(),
               error_text(driver_.error_number()));
  }

  void close() {
    const H5Session session;
    streams_.clear();
    group_properties_.reset();
    file_.reset();
  }

  // In the order of making: each needs those before it.
  std::filesystem::path target_;
  AtomicFile atomic_;
  DriverFile driver_;
  H5Handle file_;
  H5Handle group_properties_;
  std::set<std::string> groups_;
  std::map<std::string, Stream> streams_;
};

Hdf5Writer::Hdf5Writer(const std::filesystem::path& target)
    : impl_(std::make_unique<Impl>(target)) {}
Hdf5Writer::~Hdf5Writer() = default;

void Hdf5Writer::create_group(const std::string& group) {
  impl_->create_group(group);
}
void Hdf5Writer::write(const std::string& dataset, ElementType type, std::span<const int64_t> shape,
                       const void* data) {
  impl_->write(dataset, type, shape, data);
}
void Hdf5Writer::write_text(const std::string& dataset, std::string_view text) {
  const auto length = static_cast<int64_t>(text.size());
  impl_->write(dataset, ElementType::u8, {&length, 1}, text.data());
}
void Hdf5Writer::create_stream(const std::string& dataset, ElementType type,
                               int64_t chunk_elements) {
  impl_->create_stream(dataset, type, chunk_elements);
}
void Hdf5Writer::append(const std::string& dataset, const void* data, int64_t count) {
  impl_->append(dataset, data, count);
}
void Hdf5Writer::set_attribute(const std::string& object, const std::string& name,
                               std::string_view value) {
  impl_->set_attribute(object, name, value);
}
void Hdf5Writer::set_attribute(const std::string& object, const std::string& name, int64_t value) {
  impl_->set_attribute(object, name, value);
}
void Hdf5Writer::set_attribute(const std::string& object, const std::string& name, double value) {
  impl_->set_attribute(object, name, value);
}
void Hdf5Writer::commit() {
  impl_->commit();
}

}  // namespace weft::io

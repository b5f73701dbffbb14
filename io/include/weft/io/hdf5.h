#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft::io {

/// Number formats of HDF5 datasets that Weft reads and writes.
enum class ElementType : uint8_t { u8, i8, u16, i16, u32, i32, u64, i64, f16, f32, f64, other };

/// "u16", "other", ...
std::string_view to_string(ElementType type);
size_t size_of(ElementType type);

/// Writes one HDF5 file, atomically (see AtomicFile), with a seal in front: 512 bytes that hold
/// length and xxHash64 of the rest, which HDF5 programs skip. Equal content gives equal bytes.
///
/// Objects are named by paths ("/train/tokens"); groups on the way are made. Every function throws
/// IoError naming the file and the reason; the old file is then still there.
class Hdf5Writer {
 public:
  explicit Hdf5Writer(const std::filesystem::path& target);
  ~Hdf5Writer();
  Hdf5Writer(const Hdf5Writer&) = delete;
  Hdf5Writer& operator=(const Hdf5Writer&) = delete;

  void create_group(const std::string& group);
  /// A dense row-major array of this shape; rank 0 is a scalar.
  void write(const std::string& dataset, ElementType type, std::span<const int64_t> shape,
             const void* data);
  /// Text of any length as a dataset of u8.
  void write_text(const std::string& dataset, std::string_view text);

  /// A 1-D dataset that grows, in compressed chunks (shuffle, deflate) with a checksum each.
  void create_stream(const std::string& dataset, ElementType type, int64_t chunk_elements);
  /// Appends to a dataset of create_stream(). Memory stays bounded by one chunk.
  void append(const std::string& dataset, const void* data, int64_t count);

  void set_attribute(const std::string& object, const std::string& name, std::string_view value);
  void set_attribute(const std::string& object, const std::string& name, int64_t value);
  void set_attribute(const std::string& object, const std::string& name, double value);

  /// Completes the file and puts it in its place.
  void commit();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

struct DatasetInfo {
  ElementType type = ElementType::other;
  std::vector<int64_t> shape;
  int64_t numel = 1;
  int64_t chunk = 0;          ///< elements of one chunk along the first axis; 0: not chunked
  uint64_t stored_bytes = 0;  ///< on disk
};

/// Reads an HDF5 file that may be damaged or hostile: sizes are checked against the file before
/// memory is taken; links out of the file, unknown filters, external and virtual storage are
/// refused. A sealed file is verified as a whole before the HDF5 library sees it. Every function
/// throws IoError naming the file and the reason.
class Hdf5Reader {
 public:
  explicit Hdf5Reader(const std::filesystem::path& path);
  ~Hdf5Reader();
  Hdf5Reader(Hdf5Reader&&) noexcept;
  Hdf5Reader& operator=(Hdf5Reader&&) noexcept;

  const std::filesystem::path& path() const;
  /// Whether an intact seal stands in front. Without one the HDF5 library itself may crash on a
  /// damaged structure: try_in_child() protects from that.
  bool is_sealed() const;
  /// xxHash64 of the sealed content; 0 without a seal.
  uint64_t content_hash() const;

  bool has(const std::string& object) const;
  bool is_group(const std::string& object) const;
  /// Names of what lies in a group, in order.
  std::vector<std::string> children(const std::string& group) const;

  DatasetInfo info(const std::string& dataset) const;
  /// Reads all `count` elements, which must be all there are, as `type`, which must be the one
  /// stored.
  void read(const std::string& dataset, ElementType type, void* data, int64_t count) const;
  /// Elements start ... start+count-1 of a 1-D dataset.
  void read_slice(const std::string& dataset, ElementType type, int64_t start, int64_t count,
                  void* data) const;
  std::string read_text(const std::string& dataset, int64_t limit = int64_t{1} << 28) const;

  /// Nothing where there is no such attribute; IoError where it has another type.
  std::optional<std::string> text_attribute(const std::string& object,
                                            const std::string& name) const;
  std::optional<int64_t> int_attribute(const std::string& object, const std::string& name) const;
  std::optional<double> double_attribute(const std::string& object, const std::string& name) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weft::io

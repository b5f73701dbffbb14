#include "hdf5_driver.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>

#include <unistd.h>

#include "file_descriptor.h"
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

namespace weft::io {

DriverFile::DriverFile(int descriptor, bool writable)
    : descriptor_(descriptor), writable_(writable) {
  const off_t end = ::lseek(descriptor, 0, SEEK_END);
  if (end < 0) {
    error_number_ = errno;
  } else {
    end_ = static_cast<uint64_t>(end);
  }
}

bool DriverFile::read(uint64_t address, void* data, size_t bytes) {
  // What lies beyond the end reads as zero, as in the library's own driver.
  std::memset(data, 0, bytes);
  const int64_t got = read_at(descriptor_, data, bytes, static_cast<int64_t>(address));
  if (got < 0) {
    if (error_number_ == 0) error_number_ = static_cast<int>(-got);
    return false;
  }
  for (const auto& [start, content] : unwritten_) {
    const uint64_t from = std::max(start, address);
    const uint64_t to = std::min(start + content.size(), address + bytes);
    if (from < to)
      std::memcpy(static_cast<char*>(data) + (from - address), content.data() + (from - start),
                  to - from);
  }
  return true;
}

bool DriverFile::write(uint64_t address, const void* data, size_t bytes, bool is_metadata) {
  if (!writable_) return false;
  if (error_number_ == 0)
    error_number_ = write_fully(descriptor_, data, bytes, static_cast<int64_t>(address));
  if (error_number_ != 0 && is_metadata) keep(address, data, bytes);
  end_ = std::max(end_, address + bytes);
  return true;
}

void DriverFile::keep(uint64_t address, const void* data, size_t bytes) {
  const auto* first = static_cast<const char*>(data);
  // Older pieces that overlap must not show through.
  for (auto& [start, content] : unwritten_) {
    const uint64_t from = std::max(start, address);
    const uint64_t to = std::min(start + content.size(), address + bytes);
    if (from < to)
      std::copy_n(first + (from - address), to - from, content.data() + (from - start));
  }
  std::vector<char>& content = unwritten_[address];
  if (content.size() < bytes) content.assign(first, first + bytes);
}

bool DriverFile::truncate(uint64_t size) {
  if (!writable_) return true;
  if (error_number_ == 0 && size != end_ &&
      ::ftruncate(descriptor_, static_cast<off_t>(size)) != 0) {
    error_number_ = errno;
  }
  end_ = size;
  return true;
}

namespace {

constexpr haddr_t kLargestAddress = std::numeric_limits<int64_t>::max();

/// What the library copies with the access properties.
struct AccessInfo {
  DriverFile* file;
};

/// The library's view of an open file; its public part comes first.
struct OpenFile {
  H5FD_t library_part{};
  DriverFile* file = nullptr;
  haddr_t end_of_allocation = 0;
};

OpenFile* open_file(H5FD_t* file) {
  return reinterpret_cast<OpenFile*>(file);
}
const OpenFile* open_file(const H5FD_t* file) {
  return reinterpret_cast<const OpenFile*>(file);
}

bool is_bad_range(haddr_t address, size_t size) {
  return address == HADDR_UNDEF || address > kLargestAddress || size > kLargestAddress - address;
}

H5FD_t* driver_open(const char* /*name*/, unsigned flags, hid_t access, haddr_t /*largest*/) {
  const auto* info = static_cast<const AccessInfo*>(H5Pget_driver_info(access));
  if (info == nullptr) return nullptr;
  const bool writes = (flags & (H5F_ACC_RDWR | H5F_ACC_TRUNC | H5F_ACC_CREAT)) != 0;
  if (writes && !info->file->writable()) return nullptr;
  auto file = std::make_unique<OpenFile>();
  file->file = info->file;
  return &file.release()->library_part;
}

herr_t driver_close(H5FD_t* file) {
  delete open_file(file);
  return 0;
}

int driver_compare(const H5FD_t* a, const H5FD_t* b) {
  const DriverFile* first = open_file(a)->file;
  const DriverFile* second = open_file(b)->file;
  if (first == second) return 0;
  return std::less<>()(first, second) ? -1 : 1;
}

herr_t driver_query(const H5FD_t* /*file*/, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

haddr_t driver_get_end_of_allocation(const H5FD_t* file, H5FD_mem_t /*type*/) {
  return open_file(file)->end_of_allocation;
}

herr_t driver_set_end_of_allocation(H5FD_t* file, H5FD_mem_t /*type*/, haddr_t address) {
  open_file(file)->end_of_allocation = address;
  return 0;
}

haddr_t driver_get_end_of_file(const H5FD_t* file, H5FD_mem_t /*type*/) {
  return open_file(file)->file->end_of_file();
}

herr_t driver_read(H5FD_t* file, H5FD_mem_t /*type*/, hid_t /*transfer*/, haddr_t address,
                   size_t size, void* data) {
  if (is_bad_range(address, size)) return -1;
  return open_file(file)->file->read(address, data, size) ? 0 : -1;
}

herr_t driver_write(H5FD_t* file, H5FD_mem_t type, hid_t /*transfer*/, haddr_t address, size_t size,
                    const void* data) {
  if (is_bad_range(address, size)) return -1;
  try {
    return open_file(file)->file->write(address, data, size, type != H5FD_MEM_DRAW) ? 0 : -1;
  } catch (const std::exception&) {  // no memory left; none may pass through C
    return -1;
  }
}

herr_t driver_truncate(H5FD_t* file, hid_t /*transfer*/, hbool_t /*closing*/) {
  OpenFile* open = open_file(file);
  return open->file->truncate(open->end_of_allocation) ? 0 : -1;
}

hid_t register_driver() {
  static H5FD_class_t driver = [] {
    H5FD_class_t made{};
#if H5_VERSION_GE(1, 13, 0)
    made.version = H5FD_CLASS_VERSION;
    made.value = static_cast<H5FD_class_value_t>(512 + 0x77);  // below 512 is the library's
#endif
    made.name = "weft";
    made.maxaddr = kLargestAddress;
    made.fc_degree = H5F_CLOSE_STRONG;
    made.fapl_size = sizeof(AccessInfo);
    made.open = driver_open;
    made.close = driver_close;
    made.cmp = driver_compare;
    made.query = driver_query;
    made.get_eoa = driver_get_end_of_allocation;
    made.set_eoa = driver_set_end_of_allocation;
    made.get_eof = driver_get_end_of_file;
    made.read = driver_read;
    made.write = driver_write;
    made.truncate = driver_truncate;
    std::fill(std::begin(made.fl_map), std::end(made.fl_map), H5FD_MEM_SUPER);
    made.fl_map[H5FD_MEM_DEFAULT] = H5FD_MEM_SUPER;
    made.fl_map[H5FD_MEM_DRAW] = H5FD_MEM_DRAW;
    made.fl_map[H5FD_MEM_GHEAP] = H5FD_MEM_DRAW;
    return made;
  }();
  return H5FDregister(&driver);
}

}  // namespace

herr_t set_driver(hid_t access_properties, DriverFile* file) {
  static const hid_t driver = register_driver();
  if (driver < 0) return -1;
  const AccessInfo info{file};
  return H5Pset_driver(access_properties, driver, &info);
}

}  // namespace weft::io

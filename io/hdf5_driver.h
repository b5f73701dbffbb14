#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <hdf5.h>

namespace weft::io {

/// An open file below the HDF5 library, behind a driver of our own, because the library's own one
/// ends the process by a segmentation fault when the disk is full while a file is closed
/// (seen with 1.10.8). This one never reports a failed write to the library: it remembers the first
/// error, keeps metadata that could not be written in memory so that the library reads back what it
/// wrote, and lets it finish in peace. Whoever writes asks error_number() and throws the file away.
class DriverFile {
 public:
  /// `descriptor` is borrowed.
  DriverFile(int descriptor, bool writable);
  DriverFile(const DriverFile&) = delete;
  DriverFile& operator=(const DriverFile&) = delete;

  /// errno of the first failed read or write; 0: all is well.
  int error_number() const { return error_number_; }

  // Called by the driver. Addresses count from the start of the file.
  bool read(uint64_t address, void* data, size_t bytes);
  bool write(uint64_t address, const void* data, size_t bytes, bool is_metadata);
  bool truncate(uint64_t size);
  uint64_t end_of_file() const { return end_; }
  bool writable() const { return writable_; }

 private:
  void keep(uint64_t address, const void* data, size_t bytes);

  int descriptor_;
  bool writable_;
  uint64_t end_ = 0;
  int error_number_ = 0;
  std::map<uint64_t, std::vector<char>> unwritten_;  // metadata after the first error, by address
};

/// Makes a file access property list use our driver on `file`, which must outlive the H5 file.
/// Negative on failure, as in the HDF5 API.
herr_t set_driver(hid_t access_properties, DriverFile* file);

}  // namespace weft::io

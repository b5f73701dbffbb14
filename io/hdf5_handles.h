#pragma once

#include <filesystem>
#include <mutex>
#include <string>
#include <utility>

#include <hdf5.h>

#include "weft/tensor/check.h"

#include "hdf5_driver.h"

namespace weft::io {

/// Owns an HDF5 id. Closing never throws.
class H5Handle {
 public:
  using Close = herr_t (*)(hid_t);

  H5Handle() = default;
  H5Handle(hid_t id, Close close) : id_(id), close_(close) {}
  ~H5Handle() { reset(); }
  H5Handle(H5Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  H5Handle& operator=(H5Handle&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, H5I_INVALID_HID);
      close_ = other.close_;
    }
    return *this;
  }

  hid_t get() const { return id_; }
  void reset() {
    if (id_ >= 0) close_(id_);
    id_ = H5I_INVALID_HID;
  }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close close_ = nullptr;
};

/// Held during every use of the HDF5 library: serialises our calls, as the library need not be
/// built for threads, and keeps it from printing its errors.
class H5Session {
 public:
  H5Session() : lock_(mutex()) {
    H5Eget_auto2(H5E_DEFAULT, &print_, &print_data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5Eclear2(H5E_DEFAULT);
  }
  ~H5Session() { H5Eset_auto2(H5E_DEFAULT, print_, print_data_); }
  H5Session(const H5Session&) = delete;
  H5Session& operator=(const H5Session&) = delete;

  static std::mutex& mutex();

 private:
  std::lock_guard<std::mutex> lock_;
  H5E_auto2_t print_ = nullptr;
  void* print_data_ = nullptr;
};

/// What the library's error stack says, innermost first: "truncated file: ...; unable to open".
std::string h5_error_text();

}  // namespace weft::io

#pragma once

// Building error texts. For sources only: public headers do not include it, so that consumers do
// not need {fmt}.
#include <string>
#include <utility>

#include <fmt/format.h>

#include "weft/tensor/device.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/error.h"
#include "weft/tensor/shape.h"
#include "weft/tensor/tensor.h"

template <>
struct fmt::formatter<weft::Shape> : fmt::formatter<std::string> {
  template <class Context>
  auto format(const weft::Shape& shape, Context& context) const {
    return fmt::formatter<std::string>::format(weft::to_string(shape), context);
  }
};
template <>
struct fmt::formatter<weft::DType> : fmt::formatter<std::string> {
  template <class Context>
  auto format(weft::DType dtype, Context& context) const {
    return fmt::formatter<std::string>::format(std::string(weft::to_string(dtype)), context);
  }
};
template <>
struct fmt::formatter<weft::Device> : fmt::formatter<std::string> {
  template <class Context>
  auto format(weft::Device device, Context& context) const {
    return fmt::formatter<std::string>::format(weft::to_string(device), context);
  }
};
/// A tensor in an error text: "[2, 128] f32 cpu".
template <>
struct fmt::formatter<weft::Tensor> : fmt::formatter<std::string> {
  template <class Context>
  auto format(const weft::Tensor& tensor, Context& context) const {
    return fmt::formatter<std::string>::format(weft::describe(tensor), context);
  }
};

namespace weft {

template <class Exception, class... Args>
[[noreturn]] void throw_error(fmt::format_string<Args...> format, Args&&... args) {
  throw Exception(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace weft

/// Throws `Exception` with the formatted text unless `condition` holds:
///   WEFT_CHECK(x.rank() == 2, ShapeError, "linear: input must have rank 2, got {}", x);
#define WEFT_CHECK(condition, Exception, ...)      \
  do {                                             \
    if (!(condition)) [[unlikely]]                 \
      ::weft::throw_error<Exception>(__VA_ARGS__); \
  } while (false)

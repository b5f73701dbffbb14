#include "weft/tensor/dtype.h"

#include "weft/tensor/check.h"
#include "weft/tensor/dispatch.h"

namespace weft {
namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  size_t bytes;
};

constexpr DTypeInfo kDTypes[] = {
    {DType::f64, "f64", 8}, {DType::f32, "f32", 4},      {DType::bf16, "bf16", 2},
    {DType::f16, "f16", 2}, {DType::i64, "i64", 8},      {DType::i32, "i32", 4},
    {DType::u8, "u8", 1},   {DType::boolean, "bool", 1},
};

}  // namespace

size_t size_of(DType dtype) {
  return kDTypes[static_cast<size_t>(dtype)].bytes;
}

std::string_view to_string(DType dtype) {
  return kDTypes[static_cast<size_t>(dtype)].name;
}

DType parse_dtype(std::string_view name) {
  std::string known;
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
    known += known.empty() ? "" : ", ";
    known += info.name;
  }
  throw_error<ConfigError>("dtype: unknown type '{}'; known are {}", name, known);
}

void throw_dtype_error(const char* op, const char* allowed, DType dtype) {
  throw_error<DTypeError>("{}: takes {}, got {}", op, allowed, dtype);
}

}  // namespace weft

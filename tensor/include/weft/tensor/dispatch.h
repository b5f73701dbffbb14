#pragma once

// Calls code for the element type of a tensor. Free of {fmt}, because sources for the GPU include
// it as well.
#include <cstdint>
#include <utility>

#include "weft/tensor/dtype.h"

namespace weft {

/// Throws the DTypeError "<op>: takes <allowed>, got <dtype>".
[[noreturn]] void throw_dtype_error(const char* op, const char* allowed, DType dtype);

/// Calls body.template operator()<T>() with the element type of `dtype`; `op` names the caller in
/// the DTypeError.
template <class Body>
decltype(auto) dispatch_floating(DType dtype, const char* op, Body&& body) {
  switch (dtype) {
    case DType::f64:
      return body.template operator()<double>();
    case DType::f32:
      return body.template operator()<float>();
    case DType::bf16:
      return body.template operator()<bf16>();
    case DType::f16:
      return body.template operator()<f16>();
    default:
      throw_dtype_error(op, "f64, f32, bf16 or f16", dtype);
  }
}

/// i64 and i32.
template <class Body>
decltype(auto) dispatch_index(DType dtype, const char* op, Body&& body) {
  switch (dtype) {
    case DType::i64:
      return body.template operator()<int64_t>();
    case DType::i32:
      return body.template operator()<int32_t>();
    default:
      throw_dtype_error(op, "indices of i64 or i32", dtype);
  }
}

template <class Body>
decltype(auto) dispatch_all(DType dtype, const char* op, Body&& body) {
  switch (dtype) {
    case DType::i64:
      return body.template operator()<int64_t>();
    case DType::i32:
      return body.template operator()<int32_t>();
    case DType::u8:
      return body.template operator()<uint8_t>();
    case DType::boolean:
      return body.template operator()<bool>();
    default:
      return dispatch_floating(dtype, op, std::forward<Body>(body));
  }
}

/// Every type but bool.
template <class Body>
decltype(auto) dispatch_numeric(DType dtype, const char* op, Body&& body) {
  switch (dtype) {
    case DType::i64:
      return body.template operator()<int64_t>();
    case DType::i32:
      return body.template operator()<int32_t>();
    case DType::u8:
      return body.template operator()<uint8_t>();
    default:
      return dispatch_floating(dtype, op, std::forward<Body>(body));
  }
}

}  // namespace weft

#pragma once

#include "devices.h"

namespace weft::test {

inline constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

/// Expects results of one type computed on both devices, each rounded once from sums of values of
/// size `scale` whose order differs, to be as near as that allows.
inline void expect_rounded(const Tensor& on_gpu, const Tensor& on_cpu, const char* what,
                           double scale = 1) {
  const DType dtype = on_cpu.dtype();
  const bool half = dtype == DType::bf16 || dtype == DType::f16;
  const double relative = half ? 2.1 * rounding_error(dtype) : dtype == DType::f64 ? 1e-12 : 2e-5;
  const double absolute = dtype == DType::f64 ? 1e-13 : half ? 2e-5 : 4e-6;
  expect_close(on_gpu, on_cpu, relative, absolute * scale, what);
}

/// Lengths of rows on all sides of where kernels change: one element, odd, of whole vectors, kept
/// by a warp, by a block, too long to be kept there, and too long for shared memory.
inline std::vector<int64_t> row_lengths() {
  return {1,    15,   63,   64,   111,  256,   768,   1000,  1024,  2040,  2048,  2056,
          4096, 4104, 8192, 9000, 9001, 16384, 16392, 32768, 33000, 50304, 120000};
}

/// Few rows where they are long, so that tests stay quick.
inline int64_t rows_of(int64_t length) {
  return length > 4096 ? 3 : 21;
}

}  // namespace weft::test

#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

struct RopeParams {
  Tensor x, out;  // [B, T, H, D], last axis dense
  Tensor table;   // [P, R] of the accumulator type, dense
  Tensor rows;    // i64 [B, T], any strides: rows of the table; undefined: first_row + t row_step
  int64_t first_row = 0;
  int64_t row_step = 1;
  int64_t begin = 0;  // first rotary channel
  bool inverse = false;
};

void rope_cpu(RopeParams& params, Stream stream);
void rope_cuda(RopeParams& params, Stream stream);

}  // namespace weft

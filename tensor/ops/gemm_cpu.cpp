#include "ops/gemm_cpu.h"

#include <algorithm>
#include <array>
#include <utility>

#include "weft/tensor/ops/linear.h"

#include "ops/gemm.h"
#include "ops/gemm_layout.h"
#include "ops/strided.h"

namespace weft {
namespace {

/// The last two axes; strides that mean nothing (of axes of size 1) are made those of dense rows or
/// columns, which libraries check.
cpu::MatrixView matrix_of(const Tensor& tensor) {
  cpu::MatrixView matrix;
  matrix.data = static_cast<char*>(tensor.raw_data());
  matrix.dtype = tensor.dtype();
  if (has_dense_rows(tensor)) {
    matrix.row_stride = leading_size(tensor);
    matrix.column_stride = 1;
  } else {
    matrix.row_stride = 1;
    matrix.column_stride = leading_size(tensor.transpose(-1, -2));
  }
  return matrix;
}

cpu::GemmCall call_at(const cpu::GemmCall& call, const std::array<int64_t, 3>& offsets) {
  const auto shifted = [](cpu::MatrixView view, int64_t offset) {
    view.data += offset * static_cast<int64_t>(size_of(view.dtype));
    return view;
  };
  cpu::GemmCall moved = call;
  moved.c = shifted(call.c, offsets[0]);
  moved.a = shifted(call.a, offsets[1]);
  moved.b = shifted(call.b, offsets[2]);
  return moved;
}

/// Spreads the rows of all matrices over the threads.
void run_loops(const cpu::GemmCall& call, const BatchLoop& batch) {
  const int64_t row_work = std::max<int64_t>(call.n * call.k, 1);
  const int64_t grain = std::max<int64_t>(kElementwiseGrain / row_work, 1);
  parallel_for(0, batch.shape.numel() * call.m, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end;) {
      const int64_t first = row % call.m;
      cpu::GemmCall part = call_at(call, batch_offsets(batch, row / call.m));
      part.m = std::min(call.m - first, end - row);
      part.a = part.a.from(0, first, 0);
      part.c = part.c.from(0, first, 0);
      part.bias = part.bias.from(0, first, 0);
      cpu::gemm_loops(part);
      row += part.m;
    }
  });
}

void run_library(cpu::GemmCall call, const BatchLoop& batch) {
  const int last = batch.shape.rank() - 1;
  call.c.batch_stride = batch.strides[0][last];
  call.a.batch_stride = batch.strides[1][last];
  call.b.batch_stride = batch.strides[2][last];
  for (int64_t index = 0; index < batch.shape.numel(); index += call.batch) {
    const cpu::GemmCall part = call_at(call, batch_offsets(batch, index));
#ifdef WEFT_HAVE_ONEDNN
    if (cpu::gemm_onednn(part)) continue;
#endif
    cpu::gemm_blas(part);
  }
}

/// The product of the last two axes; c has dense rows, a and b have a dense axis.
cpu::GemmCall make_call(const Tensor& a, const Tensor& b, const Tensor& c,
                        const GemmEpilogue& epilogue) {
  cpu::GemmCall call{.m = c.size(-2),
                     .n = c.size(-1),
                     .k = a.size(-1),
                     .a = matrix_of(a),
                     .b = matrix_of(b),
                     .c = matrix_of(c),
                     .alpha = epilogue.alpha,
                     .beta = epilogue.beta};
  if (epilogue.bias.defined()) {
    call.bias = matrix_of(epilogue.bias);
    if (epilogue.bias.size(0) == 1) call.bias.row_stride = 0;
    if (epilogue.bias.size(1) == 1) call.bias.column_stride = 0;
  }
  return call;
}

#ifdef WEFT_HAVE_ONEDNN
/// Whether rearranging a weight costs less than reading it in this product (and the next ones)
/// gains. Weights far larger than the caches gain little.
bool pays_to_pack(int64_t rows, const Tensor& weight) {
  constexpr int64_t kRows = 256, kManyRows = 2048, kLargeWeight = int64_t{1} << 24;
  return rows >= (weight.numel() < kLargeWeight ? kRows : kManyRows);
}
#endif

}  // namespace

void gemm_cpu(const Tensor& a, const Tensor& b, Tensor& c, const GemmEpilogue& epilogue,
              Stream stream) {
  const bool is_row = c.size(-2) == 1 && c.size(-1) > 1;
  if (is_row || !has_dense_rows(c)) {
    Tensor flipped = c.transpose(-1, -2);
    if (has_dense_rows(
            flipped)) {  // c^T = b^T a^T; a row vector times b becomes b^T times a column
      GemmEpilogue turned = epilogue;
      if (turned.bias.defined()) turned.bias = turned.bias.transpose(0, 1);
      gemm_cpu(b.transpose(-1, -2), a.transpose(-1, -2), flipped, turned, stream);
    } else {
      Tensor dense = epilogue.beta == 0 ? empty(c.shape(), c.dtype()) : c.clone();
      gemm_cpu(a, b, dense, epilogue, stream);
      c.copy_(dense);
    }
    return;
  }
  const Tensor left = with_dense_axis(a), right = with_dense_axis(b);
  cpu::GemmCall call = make_call(left, right, c, epilogue);
  if (call.k > 0 && cpu::has_few_columns(call.turned()))  // few rows, as in a decoding step
    return run_loops(call.turned(), make_batch_loop(c, right, left));
  const BatchLoop batch = make_batch_loop(c, left, right);
  call.batch = batch.shape.back();
  if (call.k == 0 || cpu::prefers_loops(call)) {
    run_loops(call, batch);
  } else {
    run_library(call, batch);
  }
}

void gemm_weight_cpu(const Tensor& x, const Tensor& weight, Tensor& y, const Tensor& bias,
                     Stream stream) {
  const GemmEpilogue epilogue{.bias = bias};
#ifdef WEFT_HAVE_ONEDNN
  if (x.dtype() == DType::bf16 && weight.dtype() == DType::f32 && x.size(1) > 0 &&
      pays_to_pack(x.size(0), weight) && has_dense_axis(weight) && has_dense_rows(y)) {
    const Tensor rows = with_dense_axis(x);
    if (cpu::gemm_onednn_weight(make_call(rows, weight, y, epilogue), weight)) return;
  }
#endif
  gemm_cpu(x, low_precision_copy(weight, x.dtype()), y, epilogue, stream);
}

void clear_packed_weights_cpu() {
#ifdef WEFT_HAVE_ONEDNN
  cpu::clear_packed_weights_onednn();
#endif
}

}  // namespace weft

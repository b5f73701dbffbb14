#include "weft/tensor/ops/decode_linear.h"

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/activation.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/rms_norm.h"

#include "ops/rows.h"

#ifdef WEFT_HAVE_CUDA
#include "ops/decode_recorder.h"
#include "ops/few_rows_cuda.h"
#endif

namespace weft {
namespace {

void check_rows(const char* op, const DecodeRows& rows) {
  const Tensor& x = rows.x;
  WEFT_CHECK(x.defined() && x.rank() == 2, ShapeError, "{}: x must be [M, K], got {}", op, x);
  WEFT_CHECK(is_floating(x.dtype()), DTypeError, "{}: x must be of a floating type, got {}", op, x);
  if (rows.residual.defined()) check_same_kind(op, "residual", rows.residual, "x", x);
  if (rows.gain.defined()) check_row_weight(op, "gain", rows.gain, x);
}

void check_weight(const char* op, const char* name, const Tensor& weight, const Tensor& x) {
  WEFT_CHECK(weight.defined() && weight.rank() == 2 && weight.size(1) == x.size(1), ShapeError,
             "{}: {} must be [N, {}] for x {}, got {}", op, name, x.size(1), x, weight);
  WEFT_CHECK(
      weight.dtype() == x.dtype() || (weight.dtype() == DType::f32 && x.dtype() != DType::f64),
      DTypeError, "{}: {} must be of the type of x or f32; got {} and x {}", op, name, weight, x);
  WEFT_CHECK(weight.device() == x.device(), DeviceError, "{}: {} {} is not on the device of x {}",
             op, name, weight, x);
}

#ifdef WEFT_HAVE_CUDA
/// By one kernel, where it can; `up` may be undefined.
bool run_at_once(const DecodeRows& rows, const Tensor& weight, const Tensor& up, bool settled,
                 DecodeProduct& product) {
  const Tensor& x = rows.x;
  DecodeRecorder* const recorder = DecodeRecorder::current();
  if (!x.device().is_cuda() || x.size(0) > kMostFewRows || x.dtype() == DType::f64 ||
      x.numel() == 0 || weight.size(0) == 0) {
    if (recorder != nullptr) recorder->refuse();
    return false;
  }
  FewRowsParams params;
  params.x = x;
  params.sum = x;
  if (rows.residual.defined()) {
    params.residual = rows.residual;
    params.sum = empty(x.shape(), x.dtype(), x.device());
  }
  if (rows.gain.defined()) params.gain = low_precision_copy(rows.gain, DType::f32).contiguous();
  params.eps = rows.eps;
  params.weight = low_precision_copy(weight, x.dtype());
  if (up.defined()) params.up = low_precision_copy(up, x.dtype());
  params.y = empty({x.size(0), weight.size(0)}, x.dtype(), x.device());
  params.settled = settled;
  if (recorder != nullptr) {
    recorder->product(params);
    product = {params.y, params.sum};
    return true;
  }
  for (const Tensor* used : {&params.gain, &params.weight, &params.up})
    if (used->defined()) keep_for_capture(*used);
  if (!few_rows_product_cuda(params, current_stream(x.device()))) return false;
  product = {params.y, params.sum};
  return true;
}
#else
bool run_at_once(const DecodeRows& /*rows*/, const Tensor& /*weight*/, const Tensor& /*up*/,
                 bool /*settled*/, DecodeProduct& /*product*/) {
  return false;
}
#endif

struct Normed {
  Tensor sum, rows;
};

Normed norm(const DecodeRows& rows) {
  if (!rows.gain.defined()) {
    const Tensor sum = rows.residual.defined() ? add(rows.x, rows.residual) : rows.x;
    return {sum, sum};
  }
  if (!rows.residual.defined()) return {rows.x, rms_norm(rows.x, rows.gain, rows.eps)};
  RmsNormResidualResult result = rms_norm_residual(rows.x, rows.residual, rows.gain, rows.eps);
  return {result.sum, result.y};
}

}  // namespace

DecodeProduct decode_linear(const DecodeRows& rows, const Tensor& weight, bool settled) {
  check_rows("decode_linear", rows);
  check_weight("decode_linear", "weight", weight, rows.x);
  DecodeProduct product;
  if (run_at_once(rows, weight, {}, settled, product)) return product;
  const Normed normed = norm(rows);
  return {linear(normed.rows, weight), normed.sum};
}

DecodeProduct decode_swiglu(const DecodeRows& rows, const Tensor& gate, const Tensor& up,
                            bool settled) {
  check_rows("decode_swiglu", rows);
  check_weight("decode_swiglu", "gate", gate, rows.x);
  check_weight("decode_swiglu", "up", up, rows.x);
  WEFT_CHECK(gate.size(0) == up.size(0), ShapeError,
             "decode_swiglu: gate {} and up {} must have the same outputs", gate, up);
  DecodeProduct product;
  if (run_at_once(rows, gate, up, settled, product)) return product;
  const Normed normed = norm(rows);
  return {swiglu(linear(normed.rows, gate), linear(normed.rows, up)), normed.sum};
}

}  // namespace weft

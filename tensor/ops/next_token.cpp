#include "weft/tensor/ops/next_token.h"

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/kernel.h"

#include "ops/next_token_kernels.h"
#include "ops/op_list.h"
#include "ops/rows.h"

#ifdef WEFT_HAVE_CUDA
#include "ops/decode_recorder.h"
#endif

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, const Tensor&, Tensor&, Stream)> kTokenRows{
    "token_rows", &token_rows_cpu, WEFT_CUDA_KERNEL(token_rows_cuda)};
constexpr Kernel<void(const Tensor&, int64_t, TokenState&, bool, Stream)> kTakeLargest{
    "take_largest", &take_largest_cpu, WEFT_CUDA_KERNEL(take_largest_cuda)};

void check_integers(const char* op, const char* name, const Tensor& x, const Shape& shape,
                    Device device) {
  WEFT_CHECK(x.defined() && x.shape() == shape && x.is_contiguous(), ShapeError,
             "{}: {} must be dense {}, got {}", op, name, shape, x);
  WEFT_CHECK(x.dtype() == DType::i64, DTypeError, "{}: {} must be i64, got {}", op, name, x);
  WEFT_CHECK(x.device() == device, DeviceError, "{}: {} must be on {}, got {}", op, name, device,
             x);
}

}  // namespace

Tensor token_rows(const Tensor& table, const Tensor& tokens, DType dtype) {
  constexpr const char* kOp = "token_rows";
  WEFT_CHECK(table.defined() && table.rank() == 2, ShapeError, "{}: table must be [V, E], got {}",
             kOp, table);
  WEFT_CHECK(is_floating(table.dtype()) && is_floating(dtype), DTypeError,
             "{}: takes floating types, got table {} and {}", kOp, table, dtype);
  WEFT_CHECK(tokens.defined() && tokens.rank() == 1, ShapeError, "{}: tokens must be [B], got {}",
             kOp, tokens);
  check_integers(kOp, "tokens", tokens, tokens.shape(), table.device());
  Tensor rows = empty({tokens.size(0), table.size(1)}, dtype, table.device());
#ifdef WEFT_HAVE_CUDA
  if (DecodeRecorder* const recorder = DecodeRecorder::current()) {
    recorder->token_rows(as_rows(table), tokens, rows);
    return rows;
  }
#endif
  if (rows.numel() > 0) {
    kTokenRows(table.device())(as_rows(table), tokens, rows, current_stream(table.device()));
  }
  return rows;
}

void take_largest(const Tensor& logits, int64_t count, TokenState& state, bool settled) {
  constexpr const char* kOp = "take_largest";
  WEFT_CHECK(logits.defined() && logits.rank() == 2 && logits.size(0) >= 1, ShapeError,
             "{}: logits must be [B, V] with B of at least 1, got {}", kOp, logits);
  WEFT_CHECK(is_floating(logits.dtype()), DTypeError,
             "{}: logits must be of a floating type, got {}", kOp, logits);
  WEFT_CHECK(count >= 1 && count <= logits.size(1), ShapeError,
             "{}: count must lie in [1, {}], got {}", kOp, logits.size(1), count);
  const int64_t batch = logits.size(0);
  check_integers(kOp, "tokens", state.tokens, {batch}, logits.device());
  check_integers(kOp, "position", state.position, {2}, logits.device());
  if (state.history.defined()) {
    WEFT_CHECK(state.history.rank() == 2, ShapeError, "{}: history must be [B, S], got {}", kOp,
               state.history);
    check_integers(kOp, "history", state.history, {batch, state.history.size(1)}, kCpu);
  }
  kTakeLargest(logits.device())(as_rows(logits), count, state, settled,
                                current_stream(logits.device()));
  state.tokens.storage()->bump_version();
  state.position.storage()->bump_version();
  if (state.history.defined()) {
    state.history.storage()->bump_version();
    keep_for_capture(state.history);
  }
}

void list_next_token_ops(OpTable& table) {
  table.add(kTokenRows, kFloatingTypes);
  table.add(kTakeLargest, kFloatingTypes);
}

}  // namespace weft

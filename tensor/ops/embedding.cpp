#include "weft/tensor/ops/embedding.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/embedding_kernels.h"
#include "ops/index_check.h"
#include "ops/op_list.h"
#include "ops/rows.h"

namespace weft {
namespace {

using Launcher = void(const Tensor&, const Tensor&, Tensor&, Stream);
constexpr Kernel<Launcher> kForward{"embedding", &embedding_cpu, WEFT_CUDA_KERNEL(embedding_cuda)};
constexpr Kernel<Launcher> kBackward{"embedding_backward", &embedding_backward_cpu,
                                     WEFT_CUDA_KERNEL(embedding_backward_cuda)};

/// The ids as a dense list.
Tensor checked_ids(const char* op, const Tensor& ids, const Tensor& other, int64_t vocabulary) {
  WEFT_CHECK(ids.dtype() == DType::i64 || ids.dtype() == DType::i32, DTypeError,
             "{}: ids must be i64 or i32, got {}", op, ids);
  WEFT_CHECK(ids.device() == other.device(), DeviceError, "{}: ids {} are not on the device of {}",
             op, ids, other);
  const Tensor dense = ids.contiguous();
  check_indices(op, "id", dense, vocabulary,
                fmt::format("the vocabulary of {} entries", vocabulary));
  return dense.view({dense.numel()});
}

bool is_half(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f16;
}

}  // namespace

Tensor embedding(const Tensor& table, const Tensor& ids, std::optional<DType> out_dtype) {
  WEFT_CHECK(table.defined() && ids.defined(), ShapeError, "embedding: undefined tensor");
  WEFT_CHECK(table.rank() == 2, ShapeError, "embedding: table must be [V, E], got {}", table);
  const Tensor list = checked_ids("embedding", ids, table, table.size(0));
  Shape shape = ids.shape();
  shape.push_back(table.size(1));
  const DType dtype = out_dtype.value_or(table.dtype());
  WEFT_CHECK(dtype == table.dtype() || (table.dtype() == DType::f32 && is_half(dtype)), DTypeError,
             "embedding: rows of table {} cannot be {}; allowed are its own type and, of f32, bf16 "
             "and f16",
             table, dtype);
  Tensor out = empty(shape, dtype, table.device());
  if (out.numel() > 0) {
    kForward(table.device())(as_rows(table), list, out, current_stream(table.device()));
  }
  return out;
}

Tensor embedding_backward(const Tensor& dy, const Tensor& ids, int64_t vocabulary,
                          std::optional<DType> out_dtype) {
  WEFT_CHECK(dy.defined() && ids.defined(), ShapeError, "embedding_backward: undefined tensor");
  WEFT_CHECK(vocabulary >= 0, ConfigError,
             "embedding_backward: the vocabulary must not be negative, got {}", vocabulary);
  Shape expected = ids.shape();
  if (dy.rank() > 0) expected.push_back(dy.shape().back());
  WEFT_CHECK(dy.rank() > 0 && dy.shape() == expected, ShapeError,
             "embedding_backward: dy must be the shape of the ids and one more axis, got {} for {}",
             dy, ids);
  WEFT_CHECK(is_floating(dy.dtype()), DTypeError,
             "embedding_backward: dy must be f64, f32, bf16 or f16, got {}", dy);
  const Tensor list = checked_ids("embedding_backward", ids, dy, vocabulary);
  const DType dtype = out_dtype.value_or(dy.dtype());
  WEFT_CHECK(dtype == dy.dtype() || (dtype == DType::f32 && is_half(dy.dtype())), DTypeError,
             "embedding_backward: the gradient of a table for dy {} cannot be {}; allowed are its "
             "own type and, of bf16 and f16, f32",
             dy, dtype);
  Tensor dtable = zeros({vocabulary, dy.shape().back()}, dtype, dy.device());
  if (dy.numel() > 0) {
    kBackward(dy.device())(as_rows(dy), list, dtable, current_stream(dy.device()));
  }
  return dtable;
}

void list_embedding_ops(OpTable& table) {
  table.add(kForward, kAllTypes);
  table.add(kBackward, kFloatingTypes);
}

}  // namespace weft

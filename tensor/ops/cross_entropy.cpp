#include "weft/tensor/ops/cross_entropy.h"

#include <algorithm>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/ops/reduce.h"

#include "ops/cross_entropy_kernels.h"
#include "ops/op_list.h"
#include "ops/rows.h"

namespace weft {
namespace {

constexpr Kernel<void(const CrossEntropyRows&, Tensor&, Tensor&, Stream)> kForward{
    "cross_entropy", &cross_entropy_forward_cpu, WEFT_CUDA_KERNEL(cross_entropy_forward_cuda)};
constexpr Kernel<void(const CrossEntropyRows&, const Tensor&, const Tensor&, Tensor&, Stream)>
    kBackward{"cross_entropy_backward", &cross_entropy_backward_cpu,
              WEFT_CUDA_KERNEL(cross_entropy_backward_cuda)};
constexpr Kernel<void(CrossEntropyRows&, const Tensor&, Tensor&, Tensor&, Stream)> kBoth{
    "linear_cross_entropy", &cross_entropy_both_cpu, WEFT_CUDA_KERNEL(cross_entropy_both_cuda)};

struct CheckedTargets {
  Tensor targets;  // i64, dense
  Tensor share;    // see CrossEntropyResult; undefined where not asked for
};

/// 1 / rows that count, in `dtype`. Where none does, all losses are 0 and 1 will do.
Tensor share_of(const Tensor& targets, int64_t ignore_index, DType dtype) {
  const Tensor counted = sum(ne(targets, static_cast<double>(ignore_index)).to(dtype));
  return div(1.0, maximum(counted, 1.0));
}

CheckedTargets check_targets(const char* op, const Tensor& targets, const Tensor& logits_rows,
                             int64_t classes, int64_t ignore_index, bool want_share) {
  const int64_t rows = logits_rows.size(0);
  WEFT_CHECK(targets.defined() && targets.shape() == Shape({rows}), ShapeError,
             "{}: targets must have shape [{}], got {}", op, rows, targets);
  WEFT_CHECK(targets.dtype() == DType::i64 || targets.dtype() == DType::i32, DTypeError,
             "{}: targets must be i64 or i32, got {}", op, targets);
  WEFT_CHECK(targets.device() == logits_rows.device(), DeviceError,
             "{}: targets {} are not on the device of {}", op, targets, logits_rows);
  CheckedTargets checked{targets.to(DType::i64).contiguous(), {}};
  if (targets.device().is_cpu()) {
    const int64_t* const values = checked.targets.data<int64_t>();
    for (int64_t row = 0; row < rows; ++row) {
      WEFT_CHECK(values[row] == ignore_index || (values[row] >= 0 && values[row] < classes),
                 IndexError,
                 "{}: target {} at position {} is not one of V = {} classes, nor ignore_index {}",
                 op, values[row], row, classes, ignore_index);
    }
  }
  if (want_share) {
    checked.share = share_of(checked.targets, ignore_index, accumulator_of(logits_rows.dtype()));
  }
  return checked;
}

void check_matrix(const char* op, const char* name, const Tensor& tensor) {
  WEFT_CHECK(tensor.defined() && tensor.rank() == 2, ShapeError, "{}: {} must have rank 2, got {}",
             op, name, tensor);
  WEFT_CHECK(is_floating(tensor.dtype()), DTypeError, "{}: {} must be of a floating type, got {}",
             op, name, tensor);
  WEFT_CHECK(tensor.size(1) >= 1, ShapeError, "{}: {} must have at least 1 column, got {}", op,
             name, tensor);
}

void check_smoothing(const char* op, double label_smoothing) {
  WEFT_CHECK(label_smoothing >= 0 && label_smoothing <= 1, ConfigError,
             "{}: label_smoothing must lie in [0, 1], got {}", op, label_smoothing);
}

/// Rows of logits held at a time: as many as fit the last-level cache, but where classes are many
/// enough rows that products run at full speed and that the traffic of the weight and its gradient,
/// which every chunk reads, does not dominate. A GPU's products and memory are faster by more than
/// its cache is larger, so it takes more.
int64_t choose_chunk_rows(int64_t rows, int64_t row_bytes, Device device) {
  constexpr int64_t kCacheBytes = int64_t{16} << 20;
  constexpr int64_t kMinRows = 64;
  const int64_t max_bytes = int64_t{device.is_cpu() ? 128 : 1024} << 20;
  const int64_t good_rows = device.is_cpu() ? 512 : 8192;
  const int64_t largest =
      std::max({kCacheBytes / row_bytes, std::min(good_rows, max_bytes / row_bytes), kMinRows});
  const int64_t chunks = (rows + largest - 1) / largest;
  return chunks <= 1 ? rows : (rows + chunks - 1) / chunks;
}

/// Columns of a buffer for rows of logits. Products on a GPU want rows at multiples of 16 bytes.
int64_t padded_columns(int64_t classes, DType dtype, Device device) {
  if (device.is_cpu()) return classes;
  const auto step = static_cast<int64_t>(16 / size_of(dtype));
  return (classes + step - 1) / step * step;
}

}  // namespace

Tensor total_loss(const Tensor& losses, const Tensor& scale) {
  if (losses.device().is_cuda()) return mul(sum(losses), scale);
  double total = 0;
  for (const double loss : losses.to_vector<double>()) total += loss;
  return scalar(total * scale.item<double>(), losses.dtype());
}

CrossEntropyResult cross_entropy_forward(const Tensor& logits, const Tensor& targets,
                                         int64_t ignore_index, double label_smoothing) {
  constexpr const char* kOp = "cross_entropy";
  check_matrix(kOp, "logits", logits);
  check_smoothing(kOp, label_smoothing);
  const int64_t n = logits.size(0);
  const CheckedTargets checked =
      check_targets(kOp, targets, logits, logits.size(1), ignore_index, /*want_share=*/true);
  const DType accumulator = accumulator_of(logits.dtype());
  CrossEntropyResult result{empty({n}, accumulator, logits.device()),
                            empty({n}, accumulator, logits.device()), checked.share};
  if (n > 0) {
    kForward(logits.device())({as_rows(logits), checked.targets, ignore_index, label_smoothing},
                              result.losses, result.logsumexp, current_stream(logits.device()));
  }
  return result;
}

Tensor cross_entropy(const Tensor& logits, const Tensor& targets, int64_t ignore_index,
                     double label_smoothing) {
  const CrossEntropyResult result =
      cross_entropy_forward(logits, targets, ignore_index, label_smoothing);
  return total_loss(result.losses, result.share);
}

Tensor cross_entropy_per_token(const Tensor& logits, const Tensor& targets, int64_t ignore_index,
                               double label_smoothing) {
  return cross_entropy_forward(logits, targets, ignore_index, label_smoothing).losses;
}

Tensor cross_entropy_backward(const Tensor& dlosses, const Tensor& logits, const Tensor& targets,
                              const Tensor& logsumexp, int64_t ignore_index,
                              double label_smoothing) {
  constexpr const char* kOp = "cross_entropy_backward";
  check_matrix(kOp, "logits", logits);
  check_smoothing(kOp, label_smoothing);
  const int64_t n = logits.size(0);
  const CheckedTargets checked =
      check_targets(kOp, targets, logits, logits.size(1), ignore_index, /*want_share=*/false);
  check_row_statistic(kOp, "logsumexp", logsumexp, logits);
  check_row_statistic(kOp, "dlosses", dlosses, logits);
  Tensor dlogits = empty(logits.shape(), logits.dtype(), logits.device());
  if (n > 0) {
    kBackward(logits.device())({as_rows(logits), checked.targets, ignore_index, label_smoothing},
                               logsumexp.contiguous(), dlosses, dlogits,
                               current_stream(logits.device()));
  }
  return dlogits;
}

LinearCrossEntropyResult linear_cross_entropy_forward(const Tensor& hidden, const Tensor& weight,
                                                      const Tensor& targets,
                                                      const LinearCrossEntropyOptions& options) {
  constexpr const char* kOp = "linear_cross_entropy";
  check_matrix(kOp, "hidden", hidden);
  check_matrix(kOp, "weight", weight);
  check_smoothing(kOp, options.label_smoothing);
  WEFT_CHECK(weight.size(1) == hidden.size(1) && weight.size(0) >= 1, ShapeError,
             "{}: weight must be [V, {}] for hidden {}, got {}", kOp, hidden.size(1), hidden,
             weight);
  const DType accumulator = accumulator_of(hidden.dtype());
  WEFT_CHECK(weight.dtype() == hidden.dtype() || weight.dtype() == accumulator, DTypeError,
             "{}: weight must be {} or of the type of hidden {}, got {}", kOp, accumulator, hidden,
             weight);
  WEFT_CHECK(options.chunk_rows >= 0, ConfigError, "{}: chunk_rows must be at least 0, got {}", kOp,
             options.chunk_rows);
  const int64_t n = hidden.size(0);
  const int64_t classes = weight.size(0);
  const Device device = hidden.device();
  const Tensor& given_scale = options.scale;
  if (given_scale.defined()) {
    WEFT_CHECK(given_scale.rank() == 0, ShapeError, "{}: scale must have rank 0, got {}", kOp,
               given_scale);
    WEFT_CHECK(given_scale.dtype() == DType::f32 || given_scale.dtype() == accumulator, DTypeError,
               "{}: scale must be f32 (or f64 for f64), got {}", kOp, given_scale);
    WEFT_CHECK(given_scale.device() == device, DeviceError,
               "{}: scale {} is not on the device of hidden {}", kOp, given_scale, hidden);
  }
  const CheckedTargets checked = check_targets(kOp, targets, hidden, classes, options.ignore_index,
                                               /*want_share=*/!given_scale.defined());
  const Tensor scale = given_scale.defined() ? given_scale.to(accumulator) : checked.share;
  const Stream stream = current_stream(device);

  const Tensor factor =
      weight.dtype() == hidden.dtype() ? weight : low_precision_copy(weight, hidden.dtype());
  LinearCrossEntropyResult result;
  result.losses = empty({n}, accumulator, device);
  if (options.want_dhidden) result.dhidden = empty(hidden.shape(), hidden.dtype(), device);
  if (options.want_dweight) {
    result.dweight = n > 0 ? empty(weight.shape(), accumulator, device)
                           : zeros(weight.shape(), accumulator, device);
  }
  const bool want_gradients = options.want_dhidden || options.want_dweight;
  const DType logits_dtype = device.is_cpu() ? accumulator : hidden.dtype();
  const int64_t columns = padded_columns(classes, logits_dtype, device);
  const int64_t row_bytes = columns * static_cast<int64_t>(size_of(logits_dtype));
  const int64_t chunk = std::max<int64_t>(
      1, std::min(n, options.chunk_rows > 0 ? options.chunk_rows
                                            : choose_chunk_rows(n, row_bytes, device)));
  const Tensor logits_buffer =
      empty({chunk, columns}, logits_dtype, device).slice(1, 0, classes);  // [C, V]
  Tensor logsumexp_buffer = empty({chunk}, accumulator, device);
  const Tensor dlogits_buffer = hidden.dtype() == logits_dtype || !want_gradients
                                    ? logits_buffer
                                    : empty({chunk, classes}, hidden.dtype(), device);
  // The scale is part of the gradients of the logits, but not where f16 could not hold them: there
  // they are kept for a loss of each row of 1, in [-1, 1], and it comes in after the products. On
  // the CPU it is a factor of these.
  const bool scale_later = hidden.dtype() == DType::f16 || device.is_cpu();
  const double alpha = device.is_cpu() && want_gradients ? scale.item<double>() : 1.0;

  for (int64_t start = 0; start < n; start += chunk) {
    const int64_t stop = std::min(n, start + chunk);
    const Tensor rows = hidden.slice(0, start, stop);         // [C, E]
    Tensor logits = logits_buffer.slice(0, 0, stop - start);  // [C, V]
    matmul_into(logits, rows, factor, /*beta=*/0, {.transpose_b = true});
    CrossEntropyRows chunk_rows{logits, checked.targets.slice(0, start, stop), options.ignore_index,
                                options.label_smoothing};
    Tensor losses = result.losses.slice(0, start, stop);
    if (!want_gradients) {
      Tensor logsumexp = logsumexp_buffer.slice(0, 0, stop - start);
      kForward(device)(chunk_rows, losses, logsumexp, stream);
      continue;
    }
    Tensor dlogits = dlogits_buffer.slice(0, 0, stop - start);
    kBoth(device)(chunk_rows, scale_later ? Tensor() : scale, losses, dlogits, stream);
    if (options.want_dhidden) {
      Tensor dhidden = result.dhidden.slice(0, start, stop);
      matmul_into(dhidden, dlogits, factor, /*beta=*/0, {.alpha = alpha});
    }
    if (options.want_dweight) {
      matmul_into(result.dweight, dlogits, rows, /*beta=*/start == 0 ? 0 : 1,
                  {.transpose_a = true, .alpha = alpha});
    }
  }
  if (scale_later && device.is_cuda()) {
    if (options.want_dhidden) mul_(result.dhidden, scale);
    if (options.want_dweight) mul_(result.dweight, scale);
  }
  result.loss = total_loss(result.losses, scale);
  return result;
}

Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                            int64_t ignore_index, double label_smoothing) {
  return linear_cross_entropy_forward(
             hidden, weight, targets,
             {.ignore_index = ignore_index, .label_smoothing = label_smoothing})
      .loss;
}

Tensor linear_cross_entropy_per_token(const Tensor& hidden, const Tensor& weight,
                                      const Tensor& targets, int64_t ignore_index,
                                      double label_smoothing) {
  return linear_cross_entropy_forward(
             hidden, weight, targets,
             {.ignore_index = ignore_index, .label_smoothing = label_smoothing})
      .losses;
}

void list_cross_entropy_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes);
  table.add(kBackward, kFloatingTypes);
  table.add(kBoth, kFloatingTypes);
}

}  // namespace weft

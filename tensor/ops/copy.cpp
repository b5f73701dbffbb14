#include "ops/copy.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, Tensor&, Stream)> kCopy{"copy_", &copy_cpu,
                                                             WEFT_CUDA_KERNEL(copy_cuda)};
constexpr Kernel<void(Tensor&, double, Stream)> kFill{"fill_", &fill_cpu,
                                                      WEFT_CUDA_KERNEL(fill_cuda)};

void check_writable(const char* op, const Tensor& tensor) {
  for (int axis = 0; axis < tensor.rank(); ++axis) {
    WEFT_CHECK(tensor.strides()[axis] != 0 || tensor.shape()[axis] <= 1, ShapeError,
               "{}: {} repeats elements (stride 0 on axis {}) and cannot be written", op, tensor,
               axis);
  }
}

}  // namespace

Tensor& Tensor::copy_(const Tensor& source) {
  WEFT_CHECK(defined() && source.defined(), ShapeError, "copy_: undefined tensor");
  WEFT_CHECK(device() == source.device(), DeviceError, "copy_: from {} to {}", source, *this);
  check_writable("copy_", *this);
  const Tensor expanded = source.shape() == shape() ? source : source.expand(shape());
  if (numel() > 0) kCopy(device())(expanded, *this, current_stream(device()));
  storage_->bump_version();
  return *this;
}

Tensor& Tensor::fill_(double value) {
  WEFT_CHECK(defined(), ShapeError, "fill_: undefined tensor");
  check_writable("fill_", *this);
  if (numel() > 0) kFill(device())(*this, value, current_stream(device()));
  storage_->bump_version();
  return *this;
}

}  // namespace weft

#include "ops/copy.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/op_list.h"
#include "ops/operand.h"
#ifdef WEFT_HAVE_CUDA
#include "cuda/backend.h"
#endif

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, Tensor&, Stream)> kCopy{"copy_", &copy_cpu,
                                                             WEFT_CUDA_KERNEL(copy_cuda)};
constexpr Kernel<void(Tensor&, double, Stream)> kFill{"fill_", &fill_cpu,
                                                      WEFT_CUDA_KERNEL(fill_cuda)};

}  // namespace

Tensor& Tensor::copy_(const Tensor& source) {
  WEFT_CHECK(defined() && source.defined(), ShapeError, "copy_: undefined tensor");
  check_writable("copy_", *this);
  const Tensor expanded = source.shape() == shape() ? source : source.expand(shape());
  if (numel() > 0) {
    if (device() == source.device()) {
      kCopy(device())(apart_from(expanded, *this), *this, current_stream(device()));
    } else {
#ifdef WEFT_HAVE_CUDA
      cuda::copy_between_devices(expanded, *this);
#endif
    }
  }
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

void list_copy_ops(OpTable& table) {
  table.add(kCopy, kAllTypes);
  table.add(kFill, kAllTypes);
}

}  // namespace weft

#include "weft/tensor/op_table.h"

#include "tensor_op_callers.h"

namespace weft {
namespace {

TEST(OpTable, SaysWhatTheOpsTake) {
  test::expect_truth(op_table(), test::tensor_op_callers(kCpu));
}

TEST(OpTable, HoldsEveryKernel) {
  test::expect_all_kernels(WEFT_SOURCE_DIR "/tensor", op_table());
}

TEST(OpTable, HasAKernelOfEveryOpOnBothDevices) {
  test::expect_both_devices(op_table());
}

TEST(OpTable, NamesDevices) {
  for (const OpInfo& op : op_table().ops()) {
    const DTypeSet on_cuda = op.dtypes_on(DeviceType::cuda);
    for (const DType dtype : kEveryDType) {
      EXPECT_EQ(on_cuda.contains(dtype), op.on_cuda && op.dtypes.contains(dtype)) << op.name;
    }
  }
}

TEST(OpTable, CombinesSetsOfTypes) {
  static_assert(!DTypeSet().contains(DType::f64));
  static_assert(kFloatingTypes.contains(DType::bf16) && !kFloatingTypes.contains(DType::i32));
  static_assert(kNumericTypes.contains(DType::u8) && !kNumericTypes.contains(DType::boolean));
  for (const DType dtype : kEveryDType) {
    EXPECT_TRUE(kAllTypes.contains(dtype));
    EXPECT_EQ(kFloatingTypes.contains(dtype), is_floating(dtype));
    EXPECT_EQ(kIntegerTypes.contains(dtype), is_integer(dtype));
  }
}

}  // namespace
}  // namespace weft

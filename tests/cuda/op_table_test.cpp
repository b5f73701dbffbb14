// The table of ops is true of the GPU as well.
#include "weft/tensor/op_table.h"

#include "devices.h"
#include "tensor_op_callers.h"

namespace weft {
namespace {

class CudaOpTable : public test::CudaTest {};

TEST_F(CudaOpTable, SaysWhatTheOpsTake) {
  test::expect_truth(op_table(), test::tensor_op_callers(test::kGpu), test::kGpu);
}

}  // namespace
}  // namespace weft

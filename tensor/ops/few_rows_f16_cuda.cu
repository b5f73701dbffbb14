#include "ops/few_rows_mma_cuda.cuh"

namespace weft {

template <>
bool run_few_rows<f16>(const FewRowsParams& params, Stream stream) {
  return cuda::run_few_rows_mma(cuda::few_rows_of<f16>(params), params.settled, stream);
}

}  // namespace weft

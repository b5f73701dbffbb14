#include "ops/few_rows_cuda.cuh"

namespace weft {

template bool run_few_rows<f16>(const FewRowsParams& params, Stream stream);

}  // namespace weft

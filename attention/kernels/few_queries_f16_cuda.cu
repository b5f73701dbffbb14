#include "kernels/few_queries_cuda.cuh"

namespace weft::attention::gpu {

template void run_decode_step<f16>(const DecodeStepParams& params, Stream stream);
template void run_few_queries<f16>(const FlashAttentionParams& params, const FewQueriesPlan& plan,
                                   Stream stream);

}  // namespace weft::attention::gpu

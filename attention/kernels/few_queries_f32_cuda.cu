#include "kernels/few_queries_cuda.cuh"

namespace weft::attention::gpu {

template void run_decode_step<float>(const DecodeStepParams& params, Stream stream);
template void run_few_queries<float>(const FlashAttentionParams& params, const FewQueriesPlan& plan,
                                     Stream stream);

}  // namespace weft::attention::gpu

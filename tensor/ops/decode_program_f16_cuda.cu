#include "ops/decode_program_cuda.cuh"

namespace weft {

template <>
void run_decode_program<f16>(const DecodeProgramParams& params, unsigned blocks, Stream stream) {
  start_decode_program<f16>(params, blocks, stream);
}

}  // namespace weft

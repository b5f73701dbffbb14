#pragma once

#ifdef __CUDACC__
#define WEFT_HOST_DEVICE __host__ __device__
#else
#define WEFT_HOST_DEVICE
#endif

namespace weft::optim {

/// The factor of gradients of this norm that are to be multiplied by `unscale` and then brought
/// down to at most `max_norm`; NaN where no factor does that.
WEFT_HOST_DEVICE inline double clipping_factor(double norm, double unscale, double max_norm) {
  const double unscaled = norm * unscale;
  if (const double difference = unscaled - unscaled; difference != 0) return difference;
  return unscaled > max_norm ? max_norm / unscaled * unscale : unscale;
}

}  // namespace weft::optim

#undef WEFT_HOST_DEVICE

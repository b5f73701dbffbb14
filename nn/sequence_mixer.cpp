#include "weft/nn/sequence_mixer.h"

#include "weft/tensor/check.h"

namespace weft::nn {

void MixerCache::advance(int64_t /*tokens*/) {
  throw_error<NotImplementedError>("cache: of a mixer that does not decode by itself");
}

DecodeProduct SequenceMixer::decode(const DecodeRows& /*rows*/, MixerCache& /*cache*/,
                                    const DecodePosition& /*at*/) {
  throw_error<NotImplementedError>("{}: has no decode()", type_name());
}

}  // namespace weft::nn

#pragma once

#include <algorithm>
#include <cstdint>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "weft/tensor/generator.h"

namespace weft {
namespace detail {

/// Blocks that philox_group() makes at a time.
inline constexpr int kPhiloxGroup = 32;

#ifdef __AVX512F__

// Each counter word lies in the lower half of a 64-bit lane, as the widening multiplication wants
// it; the upper halves hold whatever is left over. Four vectors at a time hide its latency.
inline void philox_group(uint64_t seed, uint64_t first_block, uint32_t* words) {
  constexpr int kVectors = kPhiloxGroup / 8;
  // Masked forms with every lane: the plain ones raise false warnings of GCC.
  constexpr __mmask8 kAll = 0xff;
  __m512i c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  const __m512i lanes = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  for (int v = 0; v < kVectors; ++v) {
    const auto first = static_cast<int64_t>(first_block + static_cast<uint64_t>(8 * v));
    c0[v] = _mm512_add_epi64(_mm512_set1_epi64(first), lanes);
    c1[v] = _mm512_maskz_srli_epi64(kAll, c0[v], 32);
    c2[v] = c3[v] = _mm512_setzero_si512();
  }
  const __m512i multiplier0 = _mm512_set1_epi64(0xD2511F53);
  const __m512i multiplier1 = _mm512_set1_epi64(0xCD9E8D57);
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const __m512i keys0 = _mm512_set1_epi64(key0);
    const __m512i keys1 = _mm512_set1_epi64(key1);
    for (int v = 0; v < kVectors; ++v) {
      const __m512i product0 = _mm512_maskz_mul_epu32(kAll, c0[v], multiplier0);
      const __m512i product1 = _mm512_maskz_mul_epu32(kAll, c2[v], multiplier1);
      constexpr int kXorOfThree = 0x96;
      c0[v] = _mm512_ternarylogic_epi64(_mm512_maskz_srli_epi64(kAll, product1, 32), c1[v], keys0,
                                        kXorOfThree);
      c2[v] = _mm512_ternarylogic_epi64(_mm512_maskz_srli_epi64(kAll, product0, 32), c3[v], keys1,
                                        kXorOfThree);
      c1[v] = product1;
      c3[v] = product0;
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const __m512i low_half = _mm512_set1_epi64(0xffffffff);
  const __m512i lower_blocks = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
  const __m512i upper_blocks = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
  for (int v = 0; v < kVectors; ++v) {
    const __m512i words01 = _mm512_or_si512(_mm512_and_si512(c0[v], low_half),
                                            _mm512_maskz_slli_epi64(kAll, c1[v], 32));
    const __m512i words23 = _mm512_or_si512(_mm512_and_si512(c2[v], low_half),
                                            _mm512_maskz_slli_epi64(kAll, c3[v], 32));
    _mm512_storeu_si512(words + 32 * v, _mm512_permutex2var_epi64(words01, lower_blocks, words23));
    _mm512_storeu_si512(words + 32 * v + 16,
                        _mm512_permutex2var_epi64(words01, upper_blocks, words23));
  }
}

#else

inline void philox_group(uint64_t seed, uint64_t first_block, uint32_t* words) {
  for (int block = 0; block < kPhiloxGroup; ++block) {
    const auto four = philox4x32(seed, first_block + static_cast<uint64_t>(block));
    std::copy(four.begin(), four.end(), words + 4 * block);
  }
}

#endif

}  // namespace detail

/// The words of blocks first_block, first_block + 1, ... of a stream, four a block: what
/// philox4x32() gives, many blocks at a time.
inline void philox_run(uint64_t seed, uint64_t first_block, int64_t blocks, uint32_t* words) {
  constexpr int64_t kGroup = detail::kPhiloxGroup;
  int64_t done = 0;
  for (; done + kGroup <= blocks; done += kGroup)
    detail::philox_group(seed, first_block + static_cast<uint64_t>(done), words + 4 * done);
  if (done < blocks) {
    uint32_t last[4 * kGroup];
    detail::philox_group(seed, first_block + static_cast<uint64_t>(done), last);
    std::copy(last, last + 4 * (blocks - done), words + 4 * done);
  }
}

}  // namespace weft

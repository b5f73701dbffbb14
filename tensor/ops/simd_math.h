#pragma once

// Elementary functions of whole vectors, for kernels that mix them with sums: as vector_math.h,
// and shorter where AVX-512 has instructions for a step.
#include "ops/simd.h"
#include "ops/vector_math.h"

namespace weft::simd {

/// function(lane) of every lane; the compiler turns it into vector code where the function is one
/// of vector_math.h. Flattened: a call that is not inlined would keep the loop scalar.
template <class A, class Function>
[[gnu::flatten]] inline Vec<A> map(Vec<A> v, Function function) {
  A lanes[kLanes<A>];
  std::memcpy(lanes, &v, sizeof(v));
  for (int lane = 0; lane < kLanes<A>; ++lane) lanes[lane] = function(lanes[lane]);
  std::memcpy(&v, lanes, sizeof(v));
  return v;
}

#if defined(__AVX512F__)
namespace detail {
/// e^x for x in [-104, 89] or NaN; 0 in the lanes that are not `kept`.
inline Vec<float> bounded_exp(Vec<float> x, __mmask16 kept = 0xffff) {
  // x = n ln 2 + r
  const Vec<float> n = std::bit_cast<Vec<float>>(_mm512_maskz_roundscale_ps(
      0xffff, std::bit_cast<__m512>(x * weft::detail::kLog2E), _MM_FROUND_TO_NEAREST_INT));
  const Vec<float> r = (x - n * weft::detail::kLn2High) - n * weft::detail::kLn2Low;
  Vec<float> q = broadcast(0x1.6a2414p-10f);  // (e^r - 1 - r) / r^2 by a minimax fit
  q = q * r + 0x1.1239f6p-7f;
  q = q * r + 0x1.5558f2p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  const Vec<float> p = 1.0f + (r + r * r * q);
  return std::bit_cast<Vec<float>>(
      _mm512_maskz_scalef_ps(kept, std::bit_cast<__m512>(p), std::bit_cast<__m512>(n)));
}
}  // namespace detail
#endif

/// e^x, within 2.5 units in the last place.
inline Vec<double> exp(Vec<double> x) {
  return map<double>(x, [](double lane) { return vexp(lane); });
}
inline Vec<float> exp(Vec<float> x) {
#if defined(__AVX512F__)
  // Beyond these the result is infinity or zero anyway. NaN passes both.
  return detail::bounded_exp(max(broadcast(-104.0f), min(broadcast(89.0f), x)));
#else
  return map<float>(x, [](float lane) { return vexp(lane); });
#endif
}

/// e^x for x <= 0, and 0 below -69 in float (results under 2^-100): sums and gradients of softmax
/// do not miss them, and a product with a subnormal number takes a hundred times longer.
inline Vec<double> exp_nonpositive(Vec<double> x) {
  return exp(x);
}
inline Vec<float> exp_nonpositive(Vec<float> x) {
#if defined(__AVX512F__)
  const __mmask16 kept = _mm512_cmp_ps_mask(std::bit_cast<__m512>(x), _mm512_set1_ps(-69.0f),
                                            _CMP_NLT_UQ);  // and NaN
  return detail::bounded_exp(x, kept);
#else
  return x < -69.0f ? Vec<float>{} : exp(x);
#endif
}

/// 1 / (1 + e^-x), within 4 units in the last place; zero below -87 in float.
inline Vec<double> sigmoid(Vec<double> x) {
  return map<double>(x, [](double lane) { return vsigmoid(lane); });
}
inline Vec<float> sigmoid(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> bounded = max(broadcast(-87.0f), min(broadcast(104.0f), x));
  const Vec<float> d = 1.0f + detail::bounded_exp(-bounded);  // its reciprocal is a normal number
  // An estimate of 14 bits and one step of Newton cost less than a division.
  const Vec<float> estimate =
      std::bit_cast<Vec<float>>(_mm512_maskz_rcp14_ps(0xffff, std::bit_cast<__m512>(d)));
  const Vec<float> s = estimate + estimate * (1.0f - d * estimate);
  return x < -87.0f ? Vec<float>{} : s;
#else
  return map<float>(x, [](float lane) { return vsigmoid(lane); });
#endif
}

/// sigmoid() to the precision of values that are stored as T: within 2^-12 of the true value,
/// relative, for bf16, which costs half as much.
template <class T>
inline Vec<accumulator_t<T>> sigmoid_as(Vec<accumulator_t<T>> x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (std::is_same_v<T, bf16>) {
    const Vec<float> t = x * -weft::detail::kLog2E;
    const Vec<float> f = std::bit_cast<Vec<float>>(_mm512_maskz_reduce_ps(
        0xffff, std::bit_cast<__m512>(t), _MM_FROUND_TO_NEG_INF));  // t - floor(t)
    Vec<float> p = broadcast(0x1.3f96a4p-4f);                       // 2^f by a minimax fit
    p = p * f + 0x1.cefc4cp-3f;
    p = p * f + 0x1.64444cp-1f;
    p = p * f + 0x1.fff632p-1f;
    const Vec<float> e = std::bit_cast<Vec<float>>(
        _mm512_maskz_scalef_ps(0xffff, std::bit_cast<__m512>(p), std::bit_cast<__m512>(t)));
    return std::bit_cast<Vec<float>>(
        _mm512_maskz_rcp14_ps(0xffff, std::bit_cast<__m512>(1.0f + e)));
  }
#endif
  return sigmoid(x);
}

}  // namespace weft::simd

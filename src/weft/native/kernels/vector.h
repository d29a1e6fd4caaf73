// Vectors of the machine's width in plain GCC/Clang vector extensions: one source for every processor.
//
// F: floats, I / U: (un)signed 32-bit lanes, H: 16-bit lanes; W of each. Loads and stores need no alignment.
// Everything lives in an unnamed namespace: each source file keeps its own copy, the library exports only
// what is declared `extern "C"`.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#define WEFT_EXPORT extern "C" __attribute__((visibility("default")))
#define INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
#define WEFT_LANES 16
#elif defined(__AVX__)
#define WEFT_LANES 8
#else
#define WEFT_LANES 4
#endif
constexpr int W = WEFT_LANES;

typedef float F __attribute__((vector_size(WEFT_LANES * 4)));
typedef int32_t I __attribute__((vector_size(WEFT_LANES * 4)));
typedef uint32_t U __attribute__((vector_size(WEFT_LANES * 4)));
typedef uint16_t H __attribute__((vector_size(WEFT_LANES * 2)));
typedef float FLoose __attribute__((vector_size(WEFT_LANES * 4), aligned(4), may_alias));
typedef uint16_t HLoose __attribute__((vector_size(WEFT_LANES * 2), aligned(2), may_alias));

struct bf16 {
  uint16_t bits;
};

INLINE F all(float x) { return x - F{}; }  // "0 + x" would not fold: it turns -0 into 0
INLINE U all(uint32_t x) { return x - U{}; }

INLINE F load(const float *p) { return *reinterpret_cast<const FLoose *>(p); }
INLINE void store(float *p, F x) { *reinterpret_cast<FLoose *>(p) = x; }

// Compilers split the widening and narrowing of whole vectors into many steps, hence the intrinsics.
INLINE U widen(H x) {
#if defined(__AVX512F__)
  return (U)_mm512_cvtepu16_epi32((__m256i)x);
#elif defined(__AVX2__)
  return (U)_mm256_cvtepu16_epi32((__m128i)x);
#else
  return __builtin_convertvector(x, U);
#endif
}
INLINE F load(const bf16 *p) { return (F)(widen(*reinterpret_cast<const HLoose *>(p)) << 16); }

// Round to nearest even; NaN stays NaN (its payload could otherwise round up to infinity).
INLINE H narrow(F x) {
  const U u = (U)x;
  const U rounded = (u + (0x7fffu + ((u >> 16) & 1u))) >> 16;
  const U quiet = (u >> 16) | 0x40u;
  const U half = (x == x) ? rounded : quiet;
#if defined(__AVX512F__)
  return (H)_mm512_cvtepi32_epi16((__m512i)half);
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32((__m256i)half, (__m256i)half);
  return (H)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(half, H);
#endif
}
INLINE void store(bf16 *p, F x) { *reinterpret_cast<HLoose *>(p) = narrow(x); }

// The first n lanes only (n <= W); lanes not loaded are zero.
template <class T> INLINE F load_some(const T *p, int64_t n) {
  if (n >= W) return load(p);
  T lanes[W] = {};
  memcpy(lanes, p, n * sizeof(T));
  return load(lanes);
}
template <class T> INLINE void store_some(T *p, F x, int64_t n) {
  if (n >= W) return store(p, x);
  T lanes[W];
  store(lanes, x);
  memcpy(p, lanes, n * sizeof(T));
}

// a * b + c, rounded once where the processor can; the same instruction whatever was inlined into what.
INLINE F fma(F a, F b, F c) {
#if defined(__AVX512F__)
  return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON) && defined(__aarch64__)
  return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

INLINE F root(F x) {
#if defined(__AVX512F__)
  return (F)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
  return (F)_mm256_sqrt_ps((__m256)x);
#elif defined(__ARM_NEON) && defined(__aarch64__)
  return (F)vsqrtq_f32((float32x4_t)x);
#else
  F y;
  for (int i = 0; i < W; i++) y[i] = __builtin_sqrtf(x[i]);
  return y;
#endif
}

INLINE F larger(F a, F b) { return a > b ? a : b; }

#if defined(__AVX512F__)
INLINE float sum(F x) { return _mm512_reduce_add_ps((__m512)x); }
INLINE float largest(F x) { return _mm512_reduce_max_ps((__m512)x); }
#else
INLINE float sum(F x) {
  float lanes[W];
  store(lanes, x);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}
INLINE float largest(F x) {
  float lanes[W];
  store(lanes, x);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}
#endif

// e^x for x <= 88, relative error below 2e-7; exactly 0 below -87, NaN for NaN. x = n ln 2 + r, |r| <= ln 2 / 2,
// polynomial of Cephes expf (S. Moshier).
INLINE F exponential(F x) {
  const F bounded = x < -87.0f ? all(-87.0f) : x;
  const F magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const F shifted = fma(bounded, all(1.44269504088896341f), magic);
  const F n = shifted - magic;
  F r = fma(n, all(-0.693359375f), bounded);
  r = fma(n, all(2.12194440e-4f), r);
  F y = all(1.9875691500e-4f);
  y = fma(y, r, all(1.3981999507e-3f));
  y = fma(y, r, all(8.3334519073e-3f));
  y = fma(y, r, all(4.1665795894e-2f));
  y = fma(y, r, all(1.6666665459e-1f));
  y = fma(y, r, all(5.0000001201e-1f));
  y = fma(y, r * r, r + 1.0f);
  const F scaled = (F)((U)y + ((U)shifted << 23));
  const F kept = x < -87.0f ? F{} : scaled;
  return x == x ? kept : x;
}

// A 32-bit finaliser of two multiplications with low bias (C. Wellons, "Prospecting for hash functions", 2018).
template <class T> INLINE T mix(T x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

// Random bits as a pure function of a key and a counter: nothing is stored, threads may draw in any order.
struct Key {
  uint32_t first, second;
};
INLINE Key extend(Key key, uint32_t part) {
  const uint32_t first = mix(key.first ^ part);
  return {first, mix(key.second + first)};
}
INLINE Key key_of(uint64_t seed) { return extend(extend({0x9e3779b9u, 0x85ebca6bu}, uint32_t(seed)), uint32_t(seed >> 32)); }
#if WEFT_LANES == 16
#define WEFT_COUNT 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#elif WEFT_LANES == 8
#define WEFT_COUNT 0, 1, 2, 3, 4, 5, 6, 7
#else
#define WEFT_COUNT 0, 1, 2, 3
#endif
INLINE U counted(uint32_t from) { return U{WEFT_COUNT} + from; }
INLINE U draw(Key key, U counter) {
  U x = counter * 0x9e3779b1u + key.first;
  x ^= x >> 16;
  x *= 0x7feb352du;
  x = (x ^ (x >> 15)) + key.second;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

// Work items 0..count-1, taken by the threads of the OpenMP runtime that the process already has. `parallel` is
// that runtime's GOMP_parallel, or null. What an item writes must not depend on who runs it.
typedef void (*GompParallel)(void (*)(void *), void *, unsigned, unsigned);
template <class Work> struct Items {
  const Work *work;
  int64_t count, next;
  static void run(void *self) {
    Items *items = static_cast<Items *>(self);
    for (;;) {
      const int64_t item = __atomic_fetch_add(&items->next, 1, __ATOMIC_RELAXED);
      if (item >= items->count) return;
      (*items->work)(item);
    }
  }
};
struct Team {
  void *parallel;
  int64_t threads;
};
template <class Work> void share(const Team &team, int64_t count, const Work &work) {
  Items<Work> items{&work, count, 0};
  const int64_t threads = team.threads < count ? team.threads : count;
  if (team.parallel && threads > 1)
    reinterpret_cast<GompParallel>(team.parallel)(Items<Work>::run, &items, unsigned(threads), 0);
  else
    Items<Work>::run(&items);
}

}  // namespace

// Matrix products for attention, on fp32 numbers or on pairs of bf16.
//
// They have one form: C[M, N] (+)= A[M, K] B[K, N] with B in panels of 2 W columns and A read element by element
// with any steps, so that transposed left sides cost nothing. C is always fp32. An element of A and B is a 32-bit
// word: one fp32 number (`Single`) or two neighbours along K in bf16 (`Pairs`, where the processor multiplies such
// pairs and adds them up in fp32); K counts words.
#pragma once
#include "vector.h"

namespace {

constexpr int PANEL = 2 * W;
#if defined(__AVX512F__)
constexpr int TALL = 8;
#else
constexpr int TALL = 6;  // 12 sums, 2 columns of B and one element of A fill 16 registers
#endif

struct Left {
  const float *at;
  int64_t row, column;  // steps
};
struct Right {
  const float *at;
  int64_t row, panel;  // steps; within a panel columns are adjacent
};
struct Finish {
  bool add;      // to what C holds
  float factor;  // on a product that is not added
};

template <class Form, int M, int N>
INLINE void tile(int64_t K, Left a, const float *b, int64_t row, float *c, int64_t ldc, Finish finish) {
  F sums[M][N];
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) sums[i][j] = finish.add ? load(c + i * ldc + j * W) : F{};
  for (int64_t k = 0; k < K; k++) {
    F right[N];
    for (int j = 0; j < N; j++) right[j] = load(b + k * row + j * W);
    for (int i = 0; i < M; i++) {
      const F left = Form::spread(a.at + i * a.row + k * a.column);
      for (int j = 0; j < N; j++) sums[i][j] = Form::dot(left, right[j], sums[i][j]);
    }
  }
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) store(c + i * ldc + j * W, finish.add ? sums[i][j] : sums[i][j] * finish.factor);
}

template <class Form, int N>
void tiles(int64_t M, int64_t K, Left a, const float *b, int64_t row, float *c, int64_t ldc, Finish finish) {
  for (; M >= TALL; M -= TALL, a.at += TALL * a.row, c += TALL * ldc) tile<Form, TALL, N>(K, a, b, row, c, ldc, finish);
  switch (M) {
    case 7: return tile<Form, 7, N>(K, a, b, row, c, ldc, finish);
    case 6: return tile<Form, 6, N>(K, a, b, row, c, ldc, finish);
    case 5: return tile<Form, 5, N>(K, a, b, row, c, ldc, finish);
    case 4: return tile<Form, 4, N>(K, a, b, row, c, ldc, finish);
    case 3: return tile<Form, 3, N>(K, a, b, row, c, ldc, finish);
    case 2: return tile<Form, 2, N>(K, a, b, row, c, ldc, finish);
    case 1: return tile<Form, 1, N>(K, a, b, row, c, ldc, finish);
    default: return;
  }
}

// N is rounded up to W: columns of B and C up to there must exist.
template <class Form>
void multiply(int64_t M, int64_t N, int64_t K, Left a, Right b, float *c, int64_t ldc, Finish finish) {
  for (; N > W; N -= PANEL, b.at += b.panel, c += PANEL) tiles<Form, 2>(M, K, a, b.at, b.row, c, ldc, finish);
  if (N > 0) tiles<Form, 1>(M, K, a, b.at, b.row, c, ldc, finish);
}

INLINE int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

#if defined(__clang__)
#if WEFT_LANES == 16
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif WEFT_LANES == 8
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif
#else
#if WEFT_LANES == 16
#define ZIP_LOW(a, b) __builtin_shuffle(a, b, I{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23})
#define ZIP_HIGH(a, b) __builtin_shuffle(a, b, I{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31})
#elif WEFT_LANES == 8
#define ZIP_LOW(a, b) __builtin_shuffle(a, b, I{0, 8, 1, 9, 2, 10, 3, 11})
#define ZIP_HIGH(a, b) __builtin_shuffle(a, b, I{4, 12, 5, 13, 6, 14, 7, 15})
#else
#define ZIP_LOW(a, b) __builtin_shuffle(a, b, I{0, 4, 1, 5})
#define ZIP_HIGH(a, b) __builtin_shuffle(a, b, I{2, 6, 3, 7})
#endif
#endif

// log2 W rounds of interleaving row i with row i + W / 2 transpose a W x W square.
INLINE void transpose(F rows[W]) {
  F next[W];
  for (int round = W; round > 1; round /= 2) {
    for (int i = 0; i < W / 2; i++) {
      next[2 * i] = ZIP_LOW(rows[i], rows[i + W / 2]);
      next[2 * i + 1] = ZIP_HIGH(rows[i], rows[i + W / 2]);
    }
    for (int i = 0; i < W; i++) rows[i] = next[i];
  }
}

// Tokens as columns of words: panels [n / PANEL][words of D][PANEL]; columns past n are zero up to the next W.
// `load_words` reads W words (of `per` numbers each) of a token.
template <int PER, class T, class LoadWords>
void turn(const T *from, int64_t step, int64_t n, int64_t D, float *to, const LoadWords &load_words) {
  const int64_t depth = (D + PER - 1) / PER;
  for (int64_t t = 0; t < n; t += W) {
    float *panel = to + t / PANEL * PANEL * depth + t % PANEL;
    const int64_t here = n - t < W ? n - t : W;
    for (int64_t d = 0; d < depth; d += W) {
      F square[W];
      for (int64_t i = 0; i < W; i++)
        square[i] = i < here ? load_words(from + (t + i) * step + d * PER, D - d * PER) : F{};
      transpose(square);
      for (int64_t i = 0; i < W && d + i < depth; i++) store(panel + (d + i) * PANEL, square[i]);
    }
  }
}

// Each form of arithmetic says how tokens and weights become operands.
struct Single {
  static constexpr int PER = 1;
  static constexpr bool ONE_LAYOUT = true;  // `lefts` and `rights` are the same numbers in the same places
  static INLINE F spread(const float *word) { return all(*word); }
  static INLINE F dot(F a, F b, F c) { return fma(a, b, c); }

  // Tokens as rows of a left side, along D: [n][D up to W].
  template <class T> static void lefts(const T *from, int64_t step, int64_t n, int64_t D, float *to) {
    rights(from, step, n, D, to);
  }
  template <class T> static void columns(const T *from, int64_t step, int64_t n, int64_t D, float *to) {
    turn<1>(from, step, n, D, to, [](const T *at, int64_t left) { return load_some(at, left); });
  }
  // Tokens as rows of a right side, along the tokens: [n / PER][D up to W].
  template <class T> static void rights(const T *from, int64_t step, int64_t n, int64_t D, float *to) {
    const int64_t Dp = up(D, W);
    for (int64_t t = 0; t < n; t++, from += step, to += Dp)
      for (int64_t d = 0; d < D; d += W) store(to + d, load_some(from + d, D - d));
  }
  // M rows of weights (n words each) as a left side along the keys, in `spare` where they cannot stay.
  static const float *along_keys(const float *rows, int64_t, int64_t, float *) { return rows; }
  // M rows of weights as a left side along the queries, in place: word (m, j) at m * PER * n + j.
  static void along_queries(float *, int64_t, int64_t) {}
};

#if defined(__AVX512BF16__)
struct Pairs {
  static constexpr int PER = 2;
  static constexpr bool ONE_LAYOUT = false;
  static INLINE F spread(const float *word) {
    int32_t bits;  // a pair is no number: nothing may be calculated with it
    memcpy(&bits, word, sizeof(bits));
    return (F)_mm512_set1_epi32(bits);
  }
  static INLINE F dot(F a, F b, F c) { return (F)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }
  static INLINE U bits(F x) { return (U)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x)); }

  // The first n numbers of a row as W words; what is not loaded is zero.
  static INLINE F words(const bf16 *from, int64_t n) {
    const __mmask32 loaded = n < 2 * W ? (1u << n) - 1 : ~0u;
    return (F)_mm512_maskz_loadu_epi16(loaded, from);
  }

  static void lefts(const bf16 *from, int64_t step, int64_t n, int64_t D, float *to) {
    const int64_t Dp = up(D, W);
    for (int64_t t = 0; t < n; t++, from += step, to += Dp)
      for (int64_t d = 0; d < D; d += 2 * W) store(to + d / 2, words(from + d, D - d));
  }
  static void columns(const bf16 *from, int64_t step, int64_t n, int64_t D, float *to) {
    turn<2>(from, step, n, D, to, [](const bf16 *at, int64_t left) { return words(at, left); });
  }
  static void rights(const bf16 *from, int64_t step, int64_t n, int64_t D, float *to) {
    const int64_t Dp = up(D, W);
    for (int64_t t = 0; t < n; t += 2, from += 2 * step, to += Dp)
      for (int64_t d = 0; d < D; d += W) {
        const U even = (U)load_some(from + d, D - d) >> 16;
        const U odd = t + 1 < n ? (U)load_some(from + step + d, D - d) : U{};
        store(to + d, (F)(even | odd));
      }
  }
  static const float *along_keys(const float *rows, int64_t M, int64_t n, float *spare) {
    for (int64_t m = 0; m < M; m++) {
      bf16 *to = reinterpret_cast<bf16 *>(spare + m * n);
      for (int64_t j = 0; j < n; j += W)
        *reinterpret_cast<HLoose *>(to + j) = (H)_mm512_cvtneps_pbh((__m512)load(rows + m * n + j));
    }
    return spare;
  }
  static void along_queries(float *rows, int64_t M, int64_t n) {
    for (int64_t m = 0; m < M; m += 2) {
      float *even = rows + m * n, *odd = even + n;
      for (int64_t j = 0; j < n; j += W) {
        const U second = m + 1 < M ? bits(load(odd + j)) << 16 : U{};
        store(even + j, (F)(bits(load(even + j)) | second));
      }
    }
  }
};
#endif

template <class T> void pack(const float *from, int64_t n, int64_t D, const float *scales, float scale, T *to, int64_t step) {
  const int64_t Dp = up(D, W);
  for (int64_t t = 0; t < n; t++, from += Dp, to += step) {
    const float factor = scales ? scale * scales[t] : scale;
    for (int64_t d = 0; d < D; d += W) store_some(to + d, load(from + d) * factor, D - d);
  }
}

}  // namespace

// Thin products beside a wide one: y += (x A^T) B^T and its gradients, without a second full-size tensor.
//
// Letters: T tokens, I and O widths, R ranks (P: rounded up to EIGHT). Two primitives do it all. `rows` goes once over
// blocks of tokens: sums along a wide row give P numbers a token, which are then spread over another wide row.
// `columns` goes once over strips of columns: sums along the tokens. Each number is summed by one thread in one order,
// so results do not depend on the number of threads.
//
// Sums are fp32. The P numbers a token are held as operands of the next product: fp32, or bf16 where the processor
// multiplies pairs of them; padding ranks hold zeros.
#include <stdlib.h>

#include "products.h"

// One pass in either direction; mirrored field by field in `low_rank.py`. Forward: wide = x, out = y. Backward: wide =
// g, out = dx. `pairs` is what `rows` leaves for `columns`: (T / PER, P) words, zero past the last token.
struct LowRank {
  const void *wide, *down, *up;  // (T, I) or (T, O), A (R, I), B (O, R)
  void *out;                     // added to; null: left alone
  float *pairs;                  // null where nobody will read them
  const void *inputs;            // x (T, I), for the gradient of A
  const float *narrow;           // `pairs` of the forward pass, for the gradient of B
  void *grad_down, *grad_up;     // null: not wanted
  int64_t tokens, width_in, width_out, ranks, is_bf16;
  float scale;
};

namespace {

constexpr int64_t EIGHT = 8;
constexpr int64_t MOST = 64;    // ranks
constexpr int64_t BLOCK = 32;   // tokens of a work item
constexpr int ACROSS = 4;       // ranks of a tile of sums along a row
constexpr int DOWN = W / ACROSS;  // and its tokens: together one vector of sums
constexpr int RANKS = W == 16 ? 8 : 4;  // of a tile of sums along the tokens
constexpr int SPREAD = W == 16 ? 4 : 2;  // tokens of a tile that is added to
constexpr int64_t AHEAD = 32;   // tokens

// How numbers become operands: as they are in fp32 ...
template <class T> struct Numbers {
  using Form = Single;
  using Held = float;
  static constexpr int64_t CHUNK = W;
  static INLINE F whole(const T *row) { return load(row); }
  static INLINE F some(const T *row, int64_t n) { return load_some(row, n); }
  static INLINE void strip(const T *row, int64_t, int64_t n, F right[2]) {
    right[0] = load_some(row, n);
    right[1] = n > W ? load_some(row + W, n - W) : F{};
  }
  static INLINE void order(F *) {}
  static INLINE void write(T *to, F low, F high, int64_t n) {
    store_some(to, low, n);
    if (n > W) store_some(to + W, high, n - W);
  }
};

#if defined(__AVX512BF16__)
// ... or in pairs: along a row two neighbours are one word already; two tokens are interleaved.
struct Halves {
  using Form = Pairs;
  using Held = bf16;
  static constexpr int64_t CHUNK = 2 * W;
  static INLINE F whole(const bf16 *row) { return (F)_mm512_loadu_si512(row); }
  static INLINE F some(const bf16 *row, int64_t n) { return Pairs::words(row, n); }
  // Interleaves within quarters of a vector, which is one instruction; `order` puts the sums right.
  static INLINE void strip(const bf16 *row, int64_t next, int64_t n, F right[2]) {
    const __m512i even = (__m512i)(n < CHUNK ? some(row, n) : whole(row));
    const __m512i odd = (__m512i)(n < CHUNK ? some(row + next, n) : whole(row + next));
    right[0] = (F)_mm512_unpacklo_epi16(even, odd);
    right[1] = (F)_mm512_unpackhi_epi16(even, odd);
  }
  static INLINE void order(F sums[2]) {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    const __m512 a = (__m512)sums[0], b = (__m512)sums[1];
    sums[0] = (F)_mm512_permutex2var_ps(a, low, b);
    sums[1] = (F)_mm512_permutex2var_ps(a, high, b);
  }
  static INLINE void write(bf16 *to, F low, F high, int64_t n) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    _mm512_mask_storeu_epi16(to, n < CHUNK ? (1u << n) - 1 : ~0u, both);
  }
};
template <class T> struct Arithmetic { using Kind = Numbers<T>; };
template <> struct Arithmetic<bf16> { using Kind = Halves; };
#else
template <class T> struct Arithmetic { using Kind = Numbers<T>; };
#endif

// Lane i of the result is the sum of vector i. A recursion, for loops over the halves would keep `rows` in memory.
template <int HALF> INLINE F sums_of(F *rows) {
  for (int i = 0; i < HALF; i++) rows[i] = ZIP_LOW(rows[i], rows[i + HALF]) + ZIP_HIGH(rows[i], rows[i + HALF]);
  return sums_of<HALF / 2>(rows);
}
template <> INLINE F sums_of<0>(F *rows) { return rows[0]; }

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T> struct Pass {
  using Kind = typename Arithmetic<T>::Kind;
  using Form = typename Kind::Form;
  using Held = typename Kind::Held;
  static constexpr int64_t PER = Form::PER;
  const LowRank &a;
  int64_t padded, words;  // ranks, and the words that hold those there are
  explicit Pass(const LowRank &call) : a(call), padded(up(call.ranks, EIGHT)), words((call.ranks + PER - 1) / PER) {}

  // scale * (wide down^T) of one block of tokens, (tokens, P); `down` has P rows.
  void sum_rows(const T *wide, int64_t tokens, int64_t width, const T *down, Held *to) const {
    for (int64_t t = 0; t < tokens;) {
      const int64_t together = tokens - t < DOWN ? 1 : DOWN;  // one is summed as DOWN times the same
      for (int64_t r = 0; r < padded; r += ACROSS) {
        Held held[W];
        store(held, tile(wide + t * width, together == 1 ? 0 : width, down + r * width, width) * a.scale);
        for (int64_t i = 0; i < together; i++) memcpy(to + (t + i) * padded + r, held + i * ACROSS, ACROSS * sizeof(Held));
      }
      t += together;
    }
  }

  static INLINE F tile(const T *left, int64_t step, const T *right, int64_t width) {
    const T *left_end = left + (DOWN - 1) * step, *right_end = right + (ACROSS - 1) * width;
    F sums[W] = {};
    int64_t d = 0;
    for (; d + Kind::CHUNK <= width; d += Kind::CHUNK) {
      add(left, left_end, step, right, right_end, width, sums, [](const T *row) { return Kind::whole(row); });
      left += Kind::CHUNK, left_end += Kind::CHUNK, right += Kind::CHUNK, right_end += Kind::CHUNK;
    }
    if (d < width)
      add(left, left_end, step, right, right_end, width, sums, [d, width](const T *row) { return Kind::some(row, width - d); });
    return sums_of<W / 2>(sums);
  }

  // The last row is addressed by itself, so that four take two registers and their step.
  template <class Read>
  static INLINE void add(const T *left, const T *left_end, int64_t step, const T *right, const T *right_end, int64_t width, F *sums, const Read &read) {
    F token[DOWN];
    for (int i = 0; i < DOWN; i++) token[i] = read(i < 3 ? left + i * step : left_end);
    for (int j = 0; j < ACROSS; j++) {
      const F factor = read(j < 3 ? right + j * width : right_end);
      for (int i = 0; i < DOWN; i++) sums[i * ACROSS + j] = Form::dot(token[i], factor, sums[i * ACROSS + j]);
    }
  }

  // Adds narrow * right to N rows of one strip of n columns.
  template <int N> void spread(const float *narrow, const float *right, int64_t row, T *out, int64_t width, int64_t n) const {
    const int64_t step = padded / PER;
    F sums[N][2];
    for (int i = 0; i < N; i++) {
      sums[i][0] = load_some(out + i * width, n);
      sums[i][1] = n > W ? load_some(out + i * width + W, n - W) : F{};
    }
    for (int64_t p = 0; p < words; p++) {
      const F low = load(right + p * row), high = load(right + p * row + W);
      for (int i = 0; i < N; i++) {
        const F left = Form::spread(narrow + i * step + p);
        sums[i][0] = Form::dot(left, low, sums[i][0]);
        sums[i][1] = Form::dot(left, high, sums[i][1]);
      }
    }
    for (int i = 0; i < N; i++) Kind::write(out + i * width, sums[i][0], sums[i][1], n);
  }

  void spread_rows(const float *narrow, int64_t tokens, Right right, T *out, int64_t width) const {
    const int64_t step = padded / PER;
    for (int64_t t = 0; t < tokens;) {
      const int64_t together = tokens - t < SPREAD ? 1 : SPREAD;
      Right at = right;
      for (int64_t c = 0; c < width; c += PANEL, at.at += at.panel) {
        T *to = out + t * width + c;
        const float *from = narrow + t * step;
        together == 1 ? spread<1>(from, at.at, at.row, to, width, width - c) : spread<SPREAD>(from, at.at, at.row, to, width, width - c);
      }
      t += together;
    }
  }

  // Rows of P numbers as words along the tokens.
  void interleave(const Held *from, int64_t tokens, Held *to) const {
    for (int64_t t = 0; t < tokens; t += PER)
      for (int64_t r = 0; r < padded; r += EIGHT, to += PER * EIGHT)
        for (int64_t i = 0; i < EIGHT; i++)
          for (int64_t k = 0; k < PER; k++) to[i * PER + k] = t + k < tokens ? from[(t + k) * padded + r + i] : Held{};
  }

  void rows(int64_t block, int64_t width, const T *down, Right right, int64_t width_out) const {
    alignas(64) Held narrow[BLOCK * MOST];
    const int64_t first = block * BLOCK, tokens = least(BLOCK, a.tokens - first);
    sum_rows(static_cast<const T *>(a.wide) + first * width, tokens, width, down, narrow);
    if (a.pairs) interleave(narrow, tokens, reinterpret_cast<Held *>(a.pairs + first / PER * padded));
    if (a.out)
      spread_rows(reinterpret_cast<const float *>(narrow), tokens, right, static_cast<T *>(a.out) + first * width_out, width_out);
  }

  // pairs^T wide for one strip of n columns, RANKS ranks.
  void sum_columns(const float *pairs, const T *wide, int64_t width, int64_t n, F sums[RANKS][2]) const {
    for (int i = 0; i < RANKS; i++) sums[i][0] = sums[i][1] = F{};
    for (int64_t t = 0; t < a.tokens; t += PER, pairs += padded) {
      const T *row = wide + t * width;
      for (int64_t k = 0; k < PER; k++) __builtin_prefetch(row + (AHEAD + k) * width);
      F right[2];
      Kind::strip(row, t + 1 < a.tokens ? width : 0, n, right);
      for (int i = 0; i < RANKS; i++) {
        const F left = Form::spread(pairs + i);
        for (int j = 0; j < 2; j++) sums[i][j] = Form::dot(left, right[j], sums[i][j]);
      }
    }
    for (int i = 0; i < RANKS; i++) Kind::order(sums[i]);
  }

  // The strip of the gradient of A (R, I), or with IS_TURNED of B (O, R).
  template <bool IS_TURNED> void columns(int64_t strip, const float *pairs, const void *wide, int64_t width, void *grad) const {
    const int64_t c = strip * PANEL, n = least(PANEL, width - c);
    for (int64_t r = 0; r < a.ranks; r += RANKS) {
      F sums[RANKS][2];
      sum_columns(pairs + r, static_cast<const T *>(wide) + c, width, n, sums);
      const int64_t here = least(RANKS, a.ranks - r);
      T *to = static_cast<T *>(grad);
      if (!IS_TURNED) {
        for (int64_t i = 0; i < here; i++) Kind::write(to + (r + i) * width + c, sums[i][0], sums[i][1], n);
        continue;
      }
      T turned[RANKS][PANEL];
      for (int64_t i = 0; i < here; i++) Kind::write(turned[i], sums[i][0], sums[i][1], PANEL);
      for (int64_t o = 0; o < n; o++)
        for (int64_t i = 0; i < here; i++) to[(c + o) * a.ranks + r + i] = turned[i][o];
    }
  }

  static int64_t strips(int64_t width) { return (width + PANEL - 1) / PANEL; }
  int64_t blocks() const { return (a.tokens + BLOCK - 1) / BLOCK; }

  void forward(const Team &team, float *scratch) const {
    T *down = reinterpret_cast<T *>(scratch + words * up(a.width_out, PANEL));
    memcpy(down, a.down, a.ranks * a.width_in * sizeof(T));
    memset(down + a.ranks * a.width_in, 0, (padded - a.ranks) * a.width_in * sizeof(T));
    Form::columns(static_cast<const T *>(a.up), a.ranks, a.width_out, a.ranks, scratch);
    const Right right{scratch, PANEL, PANEL * words};
    share(team, blocks(), [&](int64_t block) { rows(block, a.width_in, down, right, a.width_out); });
  }

  void backward(const Team &team, float *scratch) const {
    if (a.out || a.grad_down) {
      const int64_t step = up(a.width_in, W);
      T *turned = reinterpret_cast<T *>(scratch + words * step + PANEL);
      for (int64_t r = 0; r < a.ranks; r++)
        for (int64_t o = 0; o < a.width_out; o++) turned[r * a.width_out + o] = static_cast<const T *>(a.up)[o * a.ranks + r];
      memset(turned + a.ranks * a.width_out, 0, (padded - a.ranks) * a.width_out * sizeof(T));
      if (a.out) Form::rights(static_cast<const T *>(a.down), a.width_in, a.ranks, a.width_in, scratch);
      const Right right{scratch, step, PANEL};
      share(team, blocks(), [&](int64_t block) { rows(block, a.width_out, turned, right, a.width_in); });
    }
    const int64_t of_down = a.grad_down ? strips(a.width_in) : 0, of_up = a.grad_up ? strips(a.width_out) : 0;
    share(team, of_down + of_up, [&](int64_t item) {
      if (item < of_down)
        columns<false>(item, a.pairs, a.inputs, a.width_in, a.grad_down);
      else
        columns<true>(item - of_down, a.narrow, a.wide, a.width_out, a.grad_up);
    });
  }
};

template <class T> void run(const LowRank &call, const Team &team, float *scratch, bool backward) {
  const Pass<T> pass(call);
  backward ? pass.backward(team, scratch) : pass.forward(team, scratch);
}

}  // namespace

WEFT_EXPORT void weft_low_rank(const LowRank *call, void *parallel, int64_t threads, int64_t backward) {
  const int64_t ranks = up(call->ranks, EIGHT);
  const size_t floats = size_t(ranks) * (up(call->width_in, PANEL) + up(call->width_out, PANEL)) + 2 * PANEL;
  float *scratch = static_cast<float *>(malloc(floats * sizeof(float)));
  if (!scratch) abort();
  const Team team{parallel, threads};
  call->is_bf16 ? run<bf16>(*call, team, scratch, backward) : run<float>(*call, team, scratch, backward);
  free(scratch);
}

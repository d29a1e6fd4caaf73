// Attention over rows of tokens laid end to end, forward and backward, without padding.
//
// Letters: L tokens of a row, D head width (Dp: rounded up to W), M queries of a block, N keys a block can see.
// Each work item is one (row, key/value head): it alone writes its outputs, so results depend neither on the
// number of threads nor on the other rows. Everything is fp32 in scratch, in whatever type the tensors are.
//
// Matrix products have one form: C[M, N] (+)= A[M, K] B[K, N] with B in panels of 2 W columns and A read element
// by element with any strides, so that transposed left sides cost nothing.
#include <stdlib.h>

#include "vector.h"

namespace {

constexpr int PANEL = 2 * W;
#if defined(__AVX512F__)
constexpr int TALL = 8;
#else
constexpr int TALL = 6;  // 12 sums, 2 columns of B and one element of A fill 16 registers
#endif
constexpr int64_t QUERIES = 32;

struct Left {
  const float *at;
  int64_t row, column;  // steps
};
struct Right {
  const float *at;
  int64_t row, panel;  // steps; within a panel columns are adjacent
};

template <int M, int N> INLINE void tile(int64_t K, Left a, const float *b, int64_t row, float *c, int64_t ldc, bool add) {
  F sums[M][N];
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) sums[i][j] = add ? load(c + i * ldc + j * W) : F{};
  for (int64_t k = 0; k < K; k++) {
    F right[N];
    for (int j = 0; j < N; j++) right[j] = load(b + k * row + j * W);
    for (int i = 0; i < M; i++) {
      const F left = all(a.at[i * a.row + k * a.column]);
      for (int j = 0; j < N; j++) sums[i][j] = fma(left, right[j], sums[i][j]);
    }
  }
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) store(c + i * ldc + j * W, sums[i][j]);
}

template <int N> void tiles(int64_t M, int64_t K, Left a, const float *b, int64_t row, float *c, int64_t ldc, bool add) {
  for (; M >= TALL; M -= TALL, a.at += TALL * a.row, c += TALL * ldc) tile<TALL, N>(K, a, b, row, c, ldc, add);
  switch (M) {
    case 7: return tile<7, N>(K, a, b, row, c, ldc, add);
    case 6: return tile<6, N>(K, a, b, row, c, ldc, add);
    case 5: return tile<5, N>(K, a, b, row, c, ldc, add);
    case 4: return tile<4, N>(K, a, b, row, c, ldc, add);
    case 3: return tile<3, N>(K, a, b, row, c, ldc, add);
    case 2: return tile<2, N>(K, a, b, row, c, ldc, add);
    case 1: return tile<1, N>(K, a, b, row, c, ldc, add);
    default: return;
  }
}

// N is rounded up to W: columns of B and C up to there must exist.
void multiply(int64_t M, int64_t N, int64_t K, Left a, Right b, float *c, int64_t ldc, bool add) {
  for (; N > W; N -= PANEL, b.at += b.panel, c += PANEL) tiles<2>(M, K, a, b.at, b.row, c, ldc, add);
  if (N > 0) tiles<1>(M, K, a, b.at, b.row, c, ldc, add);
}

INLINE int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// ---- moving tokens into scratch and back

template <class T> void unpack(const T *from, int64_t step, int64_t n, int64_t D, float scale, float *to) {
  const int64_t Dp = up(D, W);
  for (int64_t t = 0; t < n; t++, from += step, to += Dp)
    for (int64_t d = 0; d < D; d += W) store(to + d, load_some(from + d, D - d) * scale);
}

template <class T> void pack(const float *from, int64_t n, int64_t D, const float *scales, float scale, T *to, int64_t step) {
  const int64_t Dp = up(D, W);
  for (int64_t t = 0; t < n; t++, from += Dp, to += step) {
    const float factor = scales ? scale * scales[t] : scale;
    for (int64_t d = 0; d < D; d += W) store_some(to + d, load(from + d) * factor, D - d);
  }
}

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

// Tokens as columns: panels [N / PANEL][D][PANEL]; columns past n are zero up to the next W.
template <class T> void columns(const T *from, int64_t step, int64_t n, int64_t D, float *to) {
  for (int64_t t = 0; t < n; t += W) {
    float *panel = to + t / PANEL * PANEL * D + t % PANEL;
    const int64_t here = n - t < W ? n - t : W;
    for (int64_t d = 0; d < D; d += W) {
      F square[W];
      for (int64_t i = 0; i < W; i++) square[i] = i < here ? load_some(from + (t + i) * step + d, D - d) : F{};
      transpose(square);
      for (int64_t i = 0; i < W && d + i < D; i++) store(panel + (d + i) * PANEL, square[i]);
    }
  }
}

// ---- scratch: one buffer per thread, kept between calls

struct Scratch {
  float *memory = nullptr;
  size_t size = 0;
  ~Scratch() { free(memory); }
  float *take(size_t floats) {
    if (floats > size) {
      free(memory);
      const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
      if (posix_memalign(reinterpret_cast<void **>(&memory), 64, bytes)) abort();
      size = floats;
    }
    return memory;
  }
};
thread_local Scratch scratch;

}  // namespace

// One call; mirrored field by field in `attention.py`. Strides count elements. `stats` holds, per token and head,
// the largest score and 1 / sum of exponentials (it may be null when no backward will follow).
struct Attention {
  const void *q, *k, *v, *grad_out;
  void *out, *grad_q, *grad_k, *grad_v;
  float *stats;
  const int32_t *starts;
  int64_t q_token, q_head, k_token, k_head, v_token, v_head, grad_token, grad_head;
  int64_t rows, heads, kv_heads, width, left, right, is_bf16;
  uint64_t seed;
  float scale, keep;
};

namespace {

// What the queries [first, first + M) of a row of L tokens can see: keys [low, low + N), low on a panel's edge.
struct Block {
  int64_t first, M, low, N, padded;
};
Block block_at(const Attention &a, int64_t first, int64_t L) {
  Block b;
  b.first = first;
  b.M = L - first < QUERIES ? L - first : QUERIES;
  const int64_t low = a.left < 0 || a.left > first ? 0 : first - a.left;
  const int64_t last = first + b.M - 1;
  const int64_t high = a.right < 0 || a.right >= L - last ? L : last + a.right + 1;
  b.low = low / PANEL * PANEL;
  b.N = high - b.low;
  b.padded = up(b.N, W);
  return b;
}

// Scores outside the window of query i become -inf, those past the last key too.
INLINE void hide(const Attention &a, const Block &b, int64_t i, float *scores) {
  const int64_t query = b.first + i - b.low;
  const int64_t from = a.left < 0 || a.left > query ? 0 : query - a.left;
  const int64_t to = a.right < 0 || a.right >= b.N - query ? b.N : query + a.right + 1;
  const F never = all(-__builtin_inff());
  for (int64_t j = 0; j < from; j += W)
    store(scores + j, counted(uint32_t(j)) < all(uint32_t(from)) ? never : load(scores + j));
  for (int64_t j = to / W * W; j < b.padded; j += W)
    store(scores + j, counted(uint32_t(j)) < all(uint32_t(to)) ? load(scores + j) : never);
}

struct Drop {
  Key head;
  uint32_t threshold;
  float factor;
  bool any;
  Drop(const Attention &a, int64_t row, int64_t h) {
    head = extend(extend(key_of(a.seed), uint32_t(row)), uint32_t(h));
    any = a.keep < 1.0f;
    const double dropped = (1.0 - double(a.keep)) * 4294967296.0;
    threshold = dropped >= 4294967295.0 ? 4294967295u : uint32_t(dropped);
    factor = any ? 1.0f / a.keep : 1.0f;
  }
  INLINE F mask(Key query, int64_t key) const {
    return draw(query, counted(uint32_t(key))) >= all(threshold) ? all(factor) : F{};
  }
};

template <class T> struct Item {
  const Attention &a;
  int64_t row, group, begin, L, D, Dp, per_group;
  Item(const Attention &call, int64_t item) : a(call) {
    row = item / a.kv_heads;
    group = item % a.kv_heads;
    begin = a.starts[row];
    L = a.starts[row + 1] - begin;
    D = a.width;
    Dp = up(D, W);
    per_group = a.heads / a.kv_heads;
  }
  const T *in(const void *data, int64_t token, int64_t head, int64_t token_step, int64_t head_step) const {
    return static_cast<const T *>(data) + (begin + token) * token_step + head * head_step;
  }
  T *out(void *data, int64_t token, int64_t head, int64_t heads) const {
    return static_cast<T *>(data) + ((begin + token) * heads + head) * D;
  }
  float *stats(int64_t token, int64_t head) const { return a.stats + ((begin + token) * a.heads + head) * 2; }

  // Turns the scores of one query into unnormalised (and dropped) weights; returns 1 / their sum before dropping.
  float soften(const Block &b, int64_t i, int64_t h, const Drop &drop, float *scores) const {
    hide(a, b, i, scores);
    F top = load(scores);
    for (int64_t j = W; j < b.padded; j += W) top = larger(load(scores + j), top);
    const float highest = largest(top);
    F total{};
    for (int64_t j = 0; j < b.padded; j += W) {
      const F weight = exponential(load(scores + j) - highest);
      total += weight;
      store(scores + j, weight);
    }
    const float inverse = 1.0f / sum(total);
    if (a.stats) {
      stats(b.first + i, h)[0] = highest;
      stats(b.first + i, h)[1] = inverse;
    }
    if (drop.any) {
      const Key key = extend(drop.head, uint32_t(b.first + i));
      for (int64_t j = 0; j < b.padded; j += W) store(scores + j, load(scores + j) * drop.mask(key, b.low + j));
    }
    return inverse;
  }

  void forward() const {
    const int64_t Lp = up(L, PANEL);
    float *keys = scratch.take(Lp * (D + Dp + QUERIES) + 2 * QUERIES * Dp);
    float *values = keys + Lp * D, *queries = values + Lp * Dp, *outs = queries + QUERIES * Dp, *scores = outs + QUERIES * Dp;
    columns(in(a.k, 0, group, a.k_token, a.k_head), a.k_token, L, D, keys);
    unpack(in(a.v, 0, group, a.v_token, a.v_head), a.v_token, L, D, 1.0f, values);
    for (int64_t h = group * per_group; h < (group + 1) * per_group; h++) {
      const Drop drop(a, row, h);
      for (int64_t first = 0; first < L; first += QUERIES) {
        const Block b = block_at(a, first, L);
        unpack(in(a.q, first, h, a.q_token, a.q_head), a.q_token, b.M, D, a.scale, queries);
        multiply(b.M, b.N, D, {queries, Dp, 1}, {keys + b.low * D, PANEL, PANEL * D}, scores, b.padded, false);
        float inverses[QUERIES];
        for (int64_t i = 0; i < b.M; i++) inverses[i] = soften(b, i, h, drop, scores + i * b.padded);
        multiply(b.M, Dp, b.N, {scores, b.padded, 1}, {values + b.low * Dp, Dp, PANEL}, outs, Dp, false);
        pack(outs, b.M, D, inverses, 1.0f, out(a.out, first, h, a.heads), a.heads * D);
      }
    }
  }

  // From scores and dP of one query to dropped weights (in place of the scores) and dS (in place of dP):
  // dS = P (mask dP - sum P mask dP), FlashAttention's equation (arXiv 2205.14135, appendix B.4).
  void harden(const Block &b, int64_t i, int64_t h, const Drop &drop, float *scores, float *grads, float *spare) const {
    hide(a, b, i, scores);
    const float highest = stats(b.first + i, h)[0], inverse = stats(b.first + i, h)[1];
    const Key key = extend(drop.head, uint32_t(b.first + i));
    float *weights = drop.any ? spare : scores;
    F total{};
    for (int64_t j = 0; j < b.padded; j += W) {
      const F weight = exponential(load(scores + j) - highest) * inverse;
      store(weights + j, weight);
      const F dropped = drop.any ? weight * drop.mask(key, b.low + j) : weight;
      if (drop.any) store(scores + j, dropped);
      total = fma(dropped, load(grads + j), total);
    }
    const float share = sum(total);
    for (int64_t j = 0; j < b.padded; j += W)
      store(grads + j, load(scores + j) * load(grads + j) - load(weights + j) * share);
  }

  void backward() const {
    const int64_t Lp = up(L, PANEL), side = Lp * Dp, tall = QUERIES * Dp;
    float *keys = scratch.take(2 * Lp * D + 3 * side + 3 * tall + (2 * QUERIES + 1) * Lp);
    float *values = keys + Lp * D, *key_rows = values + Lp * D, *grad_k = key_rows + side, *grad_v = grad_k + side;
    float *queries = grad_v + side, *outs = queries + tall, *grad_q = outs + tall, *scores = grad_q + tall;
    float *grads = scores + QUERIES * Lp, *spare = grads + QUERIES * Lp;
    columns(in(a.k, 0, group, a.k_token, a.k_head), a.k_token, L, D, keys);
    columns(in(a.v, 0, group, a.v_token, a.v_head), a.v_token, L, D, values);
    unpack(in(a.k, 0, group, a.k_token, a.k_head), a.k_token, L, D, 1.0f, key_rows);
    memset(grad_k, 0, 2 * side * sizeof(float));
    for (int64_t h = group * per_group; h < (group + 1) * per_group; h++) {
      const Drop drop(a, row, h);
      for (int64_t first = 0; first < L; first += QUERIES) {
        const Block b = block_at(a, first, L);
        unpack(in(a.q, first, h, a.q_token, a.q_head), a.q_token, b.M, D, a.scale, queries);
        unpack(in(a.grad_out, first, h, a.grad_token, a.grad_head), a.grad_token, b.M, D, 1.0f, outs);
        multiply(b.M, b.N, D, {queries, Dp, 1}, {keys + b.low * D, PANEL, PANEL * D}, scores, b.padded, false);
        multiply(b.M, b.N, D, {outs, Dp, 1}, {values + b.low * D, PANEL, PANEL * D}, grads, b.padded, false);
        for (int64_t i = 0; i < b.M; i++) harden(b, i, h, drop, scores + i * b.padded, grads + i * b.padded, spare);
        multiply(b.N, Dp, b.M, {scores, 1, b.padded}, {outs, Dp, PANEL}, grad_v + b.low * Dp, Dp, true);
        multiply(b.N, Dp, b.M, {grads, 1, b.padded}, {queries, Dp, PANEL}, grad_k + b.low * Dp, Dp, true);
        multiply(b.M, Dp, b.N, {grads, b.padded, 1}, {key_rows + b.low * Dp, Dp, PANEL}, grad_q, Dp, false);
        pack(grad_q, b.M, D, nullptr, a.scale, out(a.grad_q, first, h, a.heads), a.heads * D);
      }
    }
    pack(grad_k, L, D, nullptr, 1.0f, out(a.grad_k, 0, group, a.kv_heads), a.kv_heads * D);
    pack(grad_v, L, D, nullptr, 1.0f, out(a.grad_v, 0, group, a.kv_heads), a.kv_heads * D);
  }
};

template <class T> void run(const Attention &a, const Team &team, bool backward) {
  share(team, a.rows * a.kv_heads, [&](int64_t i) {
    const Item<T> item(a, i);
    backward ? item.backward() : item.forward();
  });
}

}  // namespace

WEFT_EXPORT void weft_attention(const Attention *a, void *parallel, int64_t threads, int64_t backward) {
  const Team team{parallel, threads};
  a->is_bf16 ? run<bf16>(*a, team, backward) : run<float>(*a, team, backward);
}

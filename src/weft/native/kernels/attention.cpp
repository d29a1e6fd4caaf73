// Attention over rows of tokens laid end to end, forward and backward, without padding.
//
// Letters: L tokens of a row, D head width (Dp: rounded up to W), M queries of a block, N keys a block can see.
// Each work item is one (row, key/value head): it alone writes its outputs, so results depend neither on the
// number of threads nor on the other rows. Sums and the softmax
// are fp32 in whatever type the tensors are.
#include <stdlib.h>

#include "products.h"

namespace {

constexpr int64_t QUERIES = 32;

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

template <class T, class Form> struct Item {
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

  // The left operand of `rows` (M, N) for a product over the keys; N is a multiple of W.
  static Left over_keys(const float *rows, int64_t N) { return {rows, N, 1}; }
  static Left over_queries(const float *rows, int64_t N) { return {rows, 1, Form::PER * N}; }
  static Left over_width(const float *tokens, int64_t Dp) { return {tokens, Dp, 1}; }
  static int64_t per(int64_t n) { return (n + Form::PER - 1) / Form::PER; }
  Right columns_from(const float *columns, int64_t token) const { return {columns + token * per(D), PANEL, PANEL * per(D)}; }
  Right rows_from(const float *rows, int64_t token) const { return {rows + token / Form::PER * Dp, Dp, PANEL}; }

  void forward() const {
    const int64_t Lp = up(L, PANEL);
    float *keys = scratch.take(Lp * (D + Dp + QUERIES) + 2 * QUERIES * Dp);
    float *values = keys + Lp * D, *queries = values + Lp * Dp, *outs = queries + QUERIES * Dp, *scores = outs + QUERIES * Dp;
    Form::columns(in(a.k, 0, group, a.k_token, a.k_head), a.k_token, L, D, keys);
    Form::rights(in(a.v, 0, group, a.v_token, a.v_head), a.v_token, L, D, values);
    for (int64_t h = group * per_group; h < (group + 1) * per_group; h++) {
      const Drop drop(a, row, h);
      for (int64_t first = 0; first < L; first += QUERIES) {
        const Block b = block_at(a, first, L);
        Form::lefts(in(a.q, first, h, a.q_token, a.q_head), a.q_token, b.M, D, queries);
        multiply<Form>(b.M, b.N, per(D), over_width(queries, Dp), columns_from(keys, b.low), scores, b.padded, {false, a.scale});
        float inverses[QUERIES];
        for (int64_t i = 0; i < b.M; i++) inverses[i] = soften(b, i, h, drop, scores + i * b.padded);
        const float *weights = Form::along_keys(scores, b.M, b.padded, scores);
        multiply<Form>(b.M, Dp, per(b.N), over_keys(weights, b.padded), rows_from(values, b.low), outs, Dp, {false, 1.0f});
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
    const int64_t Lp = up(L, PANEL), side = Lp * Dp, tall = QUERIES * Dp, square = QUERIES * Lp;
    float *keys = scratch.take(2 * Lp * D + 3 * side + 5 * tall + 3 * square);
    float *values = keys + Lp * D, *key_rows = values + Lp * D, *grad_k = key_rows + side, *grad_v = grad_k + side;
    float *queries = grad_v + side, *query_rows = Form::ONE_LAYOUT ? queries : queries + tall;
    float *outs = queries + 2 * tall, *out_rows = Form::ONE_LAYOUT ? outs : outs + tall, *grad_q = outs + 2 * tall;
    float *scores = grad_q + tall, *grads = scores + square, *spare = grads + square;
    Form::columns(in(a.k, 0, group, a.k_token, a.k_head), a.k_token, L, D, keys);
    Form::columns(in(a.v, 0, group, a.v_token, a.v_head), a.v_token, L, D, values);
    Form::rights(in(a.k, 0, group, a.k_token, a.k_head), a.k_token, L, D, key_rows);
    memset(grad_k, 0, 2 * side * sizeof(float));
    for (int64_t h = group * per_group; h < (group + 1) * per_group; h++) {
      const Drop drop(a, row, h);
      for (int64_t first = 0; first < L; first += QUERIES) {
        const Block b = block_at(a, first, L);
        const T *q = in(a.q, first, h, a.q_token, a.q_head), *g = in(a.grad_out, first, h, a.grad_token, a.grad_head);
        Form::lefts(q, a.q_token, b.M, D, queries);
        Form::lefts(g, a.grad_token, b.M, D, outs);
        if (!Form::ONE_LAYOUT) {
          Form::rights(q, a.q_token, b.M, D, query_rows);
          Form::rights(g, a.grad_token, b.M, D, out_rows);
        }
        multiply<Form>(b.M, b.N, per(D), over_width(queries, Dp), columns_from(keys, b.low), scores, b.padded, {false, a.scale});
        multiply<Form>(b.M, b.N, per(D), over_width(outs, Dp), columns_from(values, b.low), grads, b.padded, {false, 1.0f});
        for (int64_t i = 0; i < b.M; i++) harden(b, i, h, drop, scores + i * b.padded, grads + i * b.padded, spare);
        const float *slopes = Form::along_keys(grads, b.M, b.padded, spare);
        multiply<Form>(b.M, Dp, per(b.N), over_keys(slopes, b.padded), rows_from(key_rows, b.low), grad_q, Dp, {false, a.scale});
        Form::along_queries(scores, b.M, b.padded);
        Form::along_queries(grads, b.M, b.padded);
        float *to_v = grad_v + b.low * Dp, *to_k = grad_k + b.low * Dp;
        multiply<Form>(b.N, Dp, per(b.M), over_queries(scores, b.padded), rows_from(out_rows, 0), to_v, Dp, {true, 1.0f});
        multiply<Form>(b.N, Dp, per(b.M), over_queries(grads, b.padded), rows_from(query_rows, 0), to_k, Dp, {true, 1.0f});
        pack(grad_q, b.M, D, nullptr, 1.0f, out(a.grad_q, first, h, a.heads), a.heads * D);
      }
    }
    pack(grad_k, L, D, nullptr, a.scale, out(a.grad_k, 0, group, a.kv_heads), a.kv_heads * D);
    pack(grad_v, L, D, nullptr, 1.0f, out(a.grad_v, 0, group, a.kv_heads), a.kv_heads * D);
  }
};

template <class T, class Form> void run(const Attention &a, const Team &team, bool backward) {
  share(team, a.rows * a.kv_heads, [&](int64_t i) {
    const Item<T, Form> item(a, i);
    backward ? item.backward() : item.forward();
  });
}

#if defined(__AVX512BF16__)
typedef Pairs HalfForm;
#else
typedef Single HalfForm;
#endif

}  // namespace

WEFT_EXPORT void weft_attention(const Attention *a, void *parallel, int64_t threads, int64_t backward) {
  const Team team{parallel, threads};
  a->is_bf16 ? run<bf16, HalfForm>(*a, team, backward) : run<float, Single>(*a, team, backward);
}

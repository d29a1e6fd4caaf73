// AdamW with decoupled decay in one pass over memory, for whole tensors and for single rows of a table.
//
// `advance` is the only place where a value changes, and it uses plain IEEE operations in a fixed order: a row
// that catches up on steps it missed gets the very bits it would have got from the whole-tensor kernel with zero
// gradients, on every instruction set.
#include <stdlib.h>

#include "vector.h"

// One optimizer step, mirrored by `Step.packed` in `adamw.py`.
struct Scalars {
  float decay;      // 1 - lr * weight_decay
  float fresh1;     // 1 - beta1
  float beta2;      //
  float fresh2;     // 1 - beta2
  float unbias2;    // 1 / sqrt(1 - beta2^t)
  float eps;        //
  float step_size;  // lr / (1 - beta1^t)
  float spare;
};

// Mirrored by `_Tensor` in `adamw.py`.
struct Tensor {
  float *p, *m, *v;
  bf16 *twin;  // may be null
  const void *grad;
  int64_t count, grad_is_bf16, first_chunk;
};

// One call, mirrored by `_Table` in `table.py`.
struct Table {
  float *p, *m, *v;
  bf16 *twin;     // may be null
  int32_t *seen;  // per row: optimizer steps already applied
  const Scalars *history;
  int64_t base, steps;  // history[0] is step base + 1, its last is step `steps`
  int64_t width;
  const int64_t *rows;  // null: every row
  int64_t count;
  const void *grads;  // (count, width), null: only catch up
  int64_t grad_is_bf16;
  float grad_scale;
};

namespace {

constexpr int64_t CHUNK = 1 << 14;
constexpr int WIDE = 4;  // vectors in flight: square root and division take long, but overlap

struct Cell {
  F p, m, v;
};

INLINE void advance(Cell &x, F grad, const Scalars &s) {
  x.p = x.p * s.decay;
  x.m = x.m + (grad - x.m) * s.fresh1;
  x.v = x.v * s.beta2 + grad * grad * s.fresh2;
  const F denominator = root(x.v) * s.unbias2 + s.eps;
  x.p = x.p - x.m * s.step_size / denominator;
}

INLINE F gradient(const void *grads, bool is_bf16, int64_t at, int64_t n) {
  return is_bf16 ? load_some(static_cast<const bf16 *>(grads) + at, n) : load_some(static_cast<const float *>(grads) + at, n);
}

INLINE Cell read(const float *p, const float *m, const float *v, int64_t at, int64_t n) {
  return {load_some(p + at, n), load_some(m + at, n), load_some(v + at, n)};
}

INLINE void write(const Cell &x, float *p, float *m, float *v, bf16 *twin, int64_t at, int64_t n) {
  store_some(p + at, x.p, n);
  store_some(m + at, x.m, n);
  store_some(v + at, x.v, n);
  if (twin) store_some(twin + at, x.p, n);
}

const Tensor &holder(const Tensor *tensors, int64_t count, int64_t chunk) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (tensors[middle].first_chunk <= chunk ? low : high) = middle;
  }
  return tensors[low];
}

// Gives every tensor its range of chunks; returns how many chunks there are.
int64_t cut(Tensor *tensors, int64_t count) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; i++) {
    tensors[i].first_chunk = chunks;
    chunks += (tensors[i].count + CHUNK - 1) / CHUNK;
  }
  return chunks;
}

template <bool IS_BF16> void step(const Tensor &t, int64_t from, int64_t to, const Scalars &s, F scale) {
  for (int64_t at = from; at < to; at += W) {
    Cell x = read(t.p, t.m, t.v, at, to - at);
    advance(x, gradient(t.grad, IS_BF16, at, to - at) / scale, s);
    write(x, t.p, t.m, t.v, t.twin, at, to - at);
  }
}

template <bool IS_BF16> double squares(const void *grads, int64_t from, int64_t to) {
  constexpr int SUMS = 64 / W;  // 64 sums in parallel, whatever the width: none of them grows long
  F sums[SUMS] = {};
  for (int64_t at = from; at < to; at += SUMS * W)
    for (int j = 0; j < SUMS && at + j * W < to; j++) {
      const F grad = gradient(grads, IS_BF16, at + j * W, to - at - j * W);
      sums[j] = fma(grad, grad, sums[j]);
    }
  double total = 0.0;
  for (int j = 0; j < SUMS; j++)
    for (int i = 0; i < W; i++) total += double(sums[j][i]);
  return total;
}

// Whether zero gradients leave m and v as they are (all bits zero) and so only decay moves p.
INLINE bool is_still(const Cell &x) {
  const U bits = (U)x.m | (U)x.v;
  uint32_t lanes[W], any = 0;
  memcpy(lanes, &bits, sizeof(bits));
  for (int i = 0; i < W; i++) any |= lanes[i];
  return any == 0;
}

// The steps [from, to) of the history with zero gradients on N vectors at once.
template <int N> INLINE void replay(Cell *x, const Table &t, int64_t from, int64_t to) {
  bool still = true;
  for (int j = 0; j < N; j++) still = still && is_still(x[j]);
  if (still && t.history[0].eps > 0.0f) {
    for (int64_t i = from; i < to; i++)
      for (int j = 0; j < N; j++) x[j].p = x[j].p * t.history[i - t.base].decay;
    return;
  }
  for (int64_t i = from; i < to; i++)
    for (int j = 0; j < N; j++) advance(x[j], F{}, t.history[i - t.base]);
}

template <int N> INLINE void stretch(const Table &t, int64_t at, int64_t n, int64_t grad_at, int64_t from, int64_t to) {
  Cell x[N];
  for (int j = 0; j < N; j++) x[j] = read(t.p, t.m, t.v, at + j * W, n - j * W);
  replay<N>(x, t, from, to);
  if (t.grads)
    for (int j = 0; j < N; j++) {
      const F grad = gradient(t.grads, t.grad_is_bf16, grad_at + j * W, n - j * W);
      advance(x[j], grad / all(t.grad_scale), t.history[to - t.base]);
    }
  for (int j = 0; j < N; j++) write(x[j], t.p, t.m, t.v, t.twin, at + j * W, n - j * W);
}

void row(const Table &t, int64_t i) {
  const int64_t r = t.rows ? t.rows[i] : i;
  const int64_t from = t.seen[r], to = t.grads ? t.steps - 1 : t.steps;
  if (from == t.steps) return;
  int64_t d = 0;
  for (; d + WIDE * W <= t.width; d += WIDE * W) stretch<WIDE>(t, r * t.width + d, t.width - d, i * t.width + d, from, to);
  for (; d < t.width; d += W) stretch<1>(t, r * t.width + d, t.width - d, i * t.width + d, from, to);
  t.seen[r] = int32_t(t.steps);
}

}  // namespace

WEFT_EXPORT void weft_adamw(Tensor *tensors, int64_t count, const Scalars *scalars, float grad_scale, void *parallel, int64_t threads) {
  const int64_t chunks = cut(tensors, count);
  share(Team{parallel, threads}, chunks, [&](int64_t chunk) {
    const Tensor &t = holder(tensors, count, chunk);
    const int64_t from = (chunk - t.first_chunk) * CHUNK;
    const int64_t to = from + CHUNK < t.count ? from + CHUNK : t.count;
    t.grad_is_bf16 ? step<true>(t, from, to, *scalars, all(grad_scale)) : step<false>(t, from, to, *scalars, all(grad_scale));
  });
}

// Adds up per chunk, then over chunks in their order: the same bits with any number of threads.
WEFT_EXPORT double weft_sum_of_squares(Tensor *tensors, int64_t count, void *parallel, int64_t threads) {
  const int64_t chunks = cut(tensors, count);
  double *sums = static_cast<double *>(calloc(chunks + 1, sizeof(double)));
  if (!sums) abort();
  share(Team{parallel, threads}, chunks, [&](int64_t chunk) {
    const Tensor &t = holder(tensors, count, chunk);
    const int64_t from = (chunk - t.first_chunk) * CHUNK;
    const int64_t to = from + CHUNK < t.count ? from + CHUNK : t.count;
    sums[chunk] = t.grad_is_bf16 ? squares<true>(t.grad, from, to) : squares<false>(t.grad, from, to);
  });
  double total = 0.0;
  for (int64_t i = 0; i < chunks; i++) total += sums[i];
  free(sums);
  return total;
}

WEFT_EXPORT void weft_table(const Table *table, void *parallel, int64_t threads) {
  constexpr int64_t TOGETHER = 16;
  share(Team{parallel, threads}, (table->count + TOGETHER - 1) / TOGETHER, [&](int64_t item) {
    for (int64_t i = item * TOGETHER; i < (item + 1) * TOGETHER && i < table->count; i++) row(*table, i);
  });
}

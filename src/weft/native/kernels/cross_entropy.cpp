// Negative log-likelihood of one label a row, and its gradient over the logits themselves.
#include <math.h>

#include "vector.h"

namespace {

constexpr int WIDE = 4;  // vectors in flight: an exponential takes long, but they overlap

// e^(x - shift) summed over a row of `width` numbers.
template <class T> float sum_of_exponentials(const T *x, int64_t width, float shift) {
  F sums[WIDE] = {};
  int64_t at = 0;
  for (; at + WIDE * W <= width; at += WIDE * W)
    for (int i = 0; i < WIDE; i++) sums[i] += exponential(load(x + at + i * W) - shift);
  for (; at + W <= width; at += W) sums[0] += exponential(load(x + at) - shift);
  float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (at < width) {
    float lanes[W];
    store(lanes, exponential(load_some(x + at, width - at) - shift));
    for (int64_t i = 0; i < width - at; i++) total += lanes[i];
  }
  return total;
}

template <class T> float largest_of(const T *x, int64_t width) {
  F found = all(-INFINITY);
  int64_t at = 0;
  for (; at + W <= width; at += W) found = larger(load(x + at), found);
  float most = largest(found);
  if (at < width) {
    float lanes[W];
    store(lanes, load_some(x + at, width - at));
    for (int64_t i = 0; i < width - at; i++) most = lanes[i] > most ? lanes[i] : most;
  }
  return most;
}

template <class T> float one(const T *x, int64_t at) {
  float lanes[W];
  store(lanes, load_some(x + at, 1));
  return lanes[0];
}

template <class T> void row(T *x, int64_t width, int64_t label, bool wants_gradient, float *loss) {
  if (label < 0) {
    *loss = 0.0f;
    if (wants_gradient) memset(x, 0, width * sizeof(T));
    return;
  }
  const float shift = largest_of(x, width), own = one(x, label);
  const float logarithm = logf(sum_of_exponentials(x, width, shift));
  *loss = logarithm + (shift - own);
  if (!wants_gradient) return;
  const float norm = shift + logarithm;
  int64_t at = 0;
  for (; at + WIDE * W <= width; at += WIDE * W)
    for (int i = 0; i < WIDE; i++) store(x + at + i * W, exponential(load(x + at + i * W) - norm));
  for (; at < width; at += W) store_some(x + at, exponential(load_some(x + at, width - at) - norm), width - at);
  store_some(x + label, all(expf(own - norm) - 1.0f), 1);
}

template <class T>
void rows(const Team &team, T *x, const int64_t *labels, int64_t count, int64_t width, bool wants_gradient, float *losses) {
  share(team, count, [&](int64_t at) { row(x + at * width, width, labels[at], wants_gradient, losses + at); });
}

}  // namespace

// Logits (count, width) become their gradients where one is wanted; labels below 0 count nothing.
WEFT_EXPORT void weft_cross_entropy(void *logits, const int64_t *labels, int64_t count, int64_t width, int64_t is_bf16, int64_t wants_gradient, float *losses, void *parallel, int64_t threads) {
  const Team team{parallel, threads};
  if (is_bf16)
    rows(team, static_cast<bf16 *>(logits), labels, count, width, wants_gradient, losses);
  else
    rows(team, static_cast<float *>(logits), labels, count, width, wants_gradient, losses);
}

// Dropout by a counter-based generator, element by element over dense memory.
#include "vector.h"

namespace {

constexpr int64_t BLOCK = 1 << 14;  // one key of the generator each, and one work item

template <class T>
void drop(const Team &team, const T *x, T *y, int64_t count, Key root, uint32_t threshold, float factor) {
  share(team, (count + BLOCK - 1) / BLOCK, [&](int64_t block) {
    const int64_t from = block * BLOCK, to = from + BLOCK < count ? from + BLOCK : count;
    const Key key = extend(root, uint32_t(block));
    for (int64_t at = from; at < to; at += W) {
      const F value = load_some(x + at, to - at) * factor;
      store_some(y + at, draw(key, counted(uint32_t(at - from))) >= all(threshold) ? value : F{}, to - at);
    }
  });
}

}  // namespace

WEFT_EXPORT void weft_dropout(const void *x, void *y, int64_t count, int64_t is_bf16, uint64_t seed, float rate, void *parallel, int64_t threads) {
  const Team team{parallel, threads};
  const double share_of_words = double(rate) * 4294967296.0;
  const uint32_t threshold = share_of_words >= 4294967295.0 ? 4294967295u : uint32_t(share_of_words);
  const float factor = 1.0f / (1.0f - rate);
  if (is_bf16)
    drop(team, static_cast<const bf16 *>(x), static_cast<bf16 *>(y), count, key_of(seed), threshold, factor);
  else
    drop(team, static_cast<const float *>(x), static_cast<float *>(y), count, key_of(seed), threshold, factor);
}

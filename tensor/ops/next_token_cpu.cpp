#include <cmath>

#include "weft/tensor/dispatch.h"

#include "ops/next_token_kernels.h"

namespace weft {

void token_rows_cpu(const Tensor& table, const Tensor& tokens, Tensor& rows, Stream /*stream*/) {
  const int64_t* const ids = tokens.data<int64_t>();
  for (int64_t b = 0; b < tokens.numel(); ++b) {
    Tensor row = rows.select(0, b);
    if (ids[b] < 0 || ids[b] >= table.size(0)) {
      row.zero_();
    } else {
      row.copy_(table.select(0, ids[b]));
    }
  }
}

void take_largest_cpu(const Tensor& logits, int64_t count, TokenState& state, bool /*settled*/,
                      Stream /*stream*/) {
  int64_t* const tokens = state.tokens.data<int64_t>();
  int64_t* const position = state.position.data<int64_t>();
  dispatch_floating(logits.dtype(), "take_largest", [&]<class T>() {
    for (int64_t b = 0; b < logits.size(0); ++b) {
      const T* const row = logits.data<T>() + b * logits.stride(0);
      int64_t best = -1;
      for (int64_t i = 0; i < count; ++i) {
        const auto value = static_cast<double>(row[i]);
        if (!std::isfinite(value)) continue;
        if (best < 0 || value > static_cast<double>(row[best])) best = i;
      }
      tokens[b] = best;
      if (state.history.defined() && position[0] < state.history.size(1))
        state.history.data<int64_t>()[b * state.history.size(1) + position[0]] = best;
    }
  });
  position[0] += 1;
}

}  // namespace weft

#pragma once

#include <cstdint>
#include <functional>
#include <type_traits>

namespace weft {

/// Threads that kernels use on the CPU. Starts as OMP_NUM_THREADS, else the cores this process may
/// run on.
int num_threads();
/// Throws ConfigError below 1.
void set_num_threads(int threads);

namespace detail {
/// Non-owning reference to a callable (int64_t begin, int64_t end, int thread): no allocation per
/// parallel loop.
struct RangeFunction {
  void* object;
  void (*call)(void*, int64_t, int64_t, int);
};
void parallel_for_impl(int64_t begin, int64_t end, int64_t grain, RangeFunction body);
}  // namespace detail

/// Calls body(chunk_begin, chunk_end) for disjoint chunks that cover [begin, end), on all threads.
/// Chunks hold at least `grain` indices (the last may be shorter), and their bounds depend on the
/// range, grain and thread count alone. Nested calls run in the calling thread. An exception from
/// body is rethrown in the caller once all chunks ended.
template <class Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  detail::parallel_for_impl(begin, end, grain,
                            {const_cast<void*>(static_cast<const void*>(&body)),
                             [](void* object, int64_t b, int64_t e, int thread) {
                               if constexpr (std::is_invocable_v<Plain&, int64_t, int64_t, int>) {
                                 (*static_cast<Plain*>(object))(b, e, thread);
                               } else {
                                 (*static_cast<Plain*>(object))(b, e);
                               }
                             }});
}

/// Like parallel_for, but threads take chunks of `grain` indices as they become free: for work of
/// uneven size (causal attention tiles). body(chunk_begin, chunk_end, thread); thread <
/// num_threads() selects scratch space. Which thread runs a chunk is not deterministic, so each
/// chunk must write its own results.
void parallel_for_dynamic(int64_t begin, int64_t end, int64_t grain,
                          const std::function<void(int64_t, int64_t, int)>& body);

}  // namespace weft

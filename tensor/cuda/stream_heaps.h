#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "block_heap.h"

namespace weft::cuda {

/// What the pages of all heaps share.
struct PageBudget {
  size_t limit = 0;  ///< bytes; 0 means none
  size_t committed = 0;
  size_t captures = 0;  ///< that run now
};

/// The memory of one device as heaps: one for each stream, since work on a stream is ordered and so
/// a block may be used again on its stream at once; and private ones for graphs, which write to the
/// same addresses whenever they are replayed. Knows nothing of CUDA: streams are opaque, and pages
/// come from whoever makes it. Not thread-safe.
class StreamHeaps {
 public:
  class Heap;
  using MakePages = std::function<std::unique_ptr<PageRange>()>;

  /// Pages of all heaps together stay within `limit_bytes` (0: no limit).
  StreamHeaps(MakePages make_pages, size_t alignment, size_t limit_bytes);
  ~StreamHeaps();

  void set_limit(size_t bytes) { budget_.limit = bytes; }
  /// Null where memory is short even without the free pages of every heap.
  void* allocate(size_t bytes, void* stream);
  /// The stream of which a block is.
  void* stream_of(const void* block) const;
  /// Takes a block back and returns its size. While a graph is captured on `freed_on`, a block that
  /// is not of the graph's heap is kept for it until close(), since replays use it.
  size_t deallocate(void* block, void* freed_on);
  /// Gives the pages that no block touches back, except those of graphs.
  void release_free_pages();
  size_t committed_bytes() const { return budget_.committed; }

  /// A private heap for a graph.
  Heap* open();
  /// Until end_capture(), what is allocated on `stream` comes from `heap`.
  void begin_capture(Heap* heap, void* stream);
  void end_capture(void* stream);
  /// The graph is gone. Frees what was kept for it and returns how many bytes that was; the heap's
  /// own memory goes once its last block is freed.
  size_t close(Heap* heap);

 private:
  Heap& heap_of(const void* block) const;
  Heap& make_heap(void* stream);
  void* allocate_from(Heap& heap, size_t bytes);
  void drop_if_unused(Heap* heap);

  MakePages make_pages_;
  const size_t alignment_;
  PageBudget budget_;
  std::vector<std::unique_ptr<Heap>> heaps_;
  std::map<void*, Heap*> by_stream_;
  std::map<void*, Heap*> capturing_;  // by stream
};

}  // namespace weft::cuda

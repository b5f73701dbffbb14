#include "cuda/stream_heaps.h"

#include <algorithm>
#include <utility>

namespace weft::cuda {
namespace {

/// Pages that count against the budget of all heaps, and stay while a graph may use them.
class CountedPages final : public PageRange {
 public:
  CountedPages(std::unique_ptr<PageRange> pages, PageBudget& budget)
      : pages_(std::move(pages)), budget_(budget) {}

  char* begin() const override { return pages_->begin(); }
  size_t page_bytes() const override { return pages_->page_bytes(); }
  size_t page_count() const override { return pages_->page_count(); }
  bool commit(size_t first_page, size_t count) override {
    const size_t bytes = count * page_bytes();
    if (budget_.limit > 0 && budget_.committed + bytes > budget_.limit) return false;
    if (!pages_->commit(first_page, count)) return false;
    budget_.committed += bytes;
    return true;
  }
  void decommit(size_t first_page, size_t count) noexcept override {
    pages_->decommit(first_page, count);
    budget_.committed -= count * page_bytes();
  }
  /// Memory cannot go while a graph is captured, since that would have to wait for the GPU.
  bool may_decommit() const override { return !pinned && budget_.captures == 0; }

  bool pinned = false;

 private:
  std::unique_ptr<PageRange> pages_;
  PageBudget& budget_;
};

}  // namespace

class StreamHeaps::Heap {
 public:
  Heap(std::unique_ptr<PageRange> pages, PageBudget& budget, size_t alignment, void* stream)
      : pages(std::move(pages), budget), blocks(this->pages, alignment), stream(stream) {}

  bool contains(const void* block) const {
    const auto* const at = static_cast<const char*>(block);
    return at >= pages.begin() && at < pages.begin() + pages.page_bytes() * pages.page_count();
  }

  CountedPages pages;
  BlockHeap blocks;
  void* stream;               // of a private heap: on which it was last used
  size_t used = 0;            // blocks in use
  bool is_private = false;    // serves captures alone
  bool is_open = false;       // its graph lives
  std::vector<void*> kept{};  // blocks of other heaps that the graph uses
};

StreamHeaps::StreamHeaps(MakePages make_pages, size_t alignment, size_t limit_bytes)
    : make_pages_(std::move(make_pages)), alignment_(alignment) {
  budget_.limit = limit_bytes;
}

StreamHeaps::~StreamHeaps() {
  budget_.captures = 0;
  for (const auto& heap : heaps_) {
    heap->pages.pinned = false;
    heap->blocks.release_free_pages();
  }
}

void* StreamHeaps::allocate(size_t bytes, void* stream) {
  if (const auto found = capturing_.find(stream); found != capturing_.end())
    return allocate_from(*found->second, bytes);
  Heap*& heap = by_stream_[stream];
  if (heap == nullptr) heap = &make_heap(stream);
  return allocate_from(*heap, bytes);
}

void* StreamHeaps::allocate_from(Heap& heap, size_t bytes) {
  void* block = heap.blocks.allocate(bytes);
  if (block == nullptr) {
    release_free_pages();
    block = heap.blocks.allocate(bytes);
  }
  if (block != nullptr) ++heap.used;
  return block;
}

void* StreamHeaps::stream_of(const void* block) const {
  return heap_of(block).stream;
}

size_t StreamHeaps::deallocate(void* block, void* freed_on) {
  Heap& heap = heap_of(block);
  if (const auto found = capturing_.find(freed_on);
      found != capturing_.end() && found->second != &heap) {
    found->second->kept.push_back(block);
    return 0;
  }
  const size_t size = heap.blocks.deallocate(block);
  --heap.used;
  drop_if_unused(&heap);
  return size;
}

void StreamHeaps::release_free_pages() {
  for (const auto& heap : heaps_) heap->blocks.release_free_pages();
}

StreamHeaps::Heap* StreamHeaps::open() {
  Heap& heap = make_heap(nullptr);
  heap.is_private = heap.is_open = heap.pages.pinned = true;
  return &heap;
}

void StreamHeaps::begin_capture(Heap* heap, void* stream) {
  heap->stream = stream;
  capturing_[stream] = heap;
  budget_.captures = capturing_.size();
}

void StreamHeaps::end_capture(void* stream) {
  capturing_.erase(stream);
  budget_.captures = capturing_.size();
}

size_t StreamHeaps::close(Heap* heap) {
  std::erase_if(capturing_, [heap](const auto& entry) { return entry.second == heap; });
  budget_.captures = capturing_.size();
  heap->is_open = heap->pages.pinned = false;
  size_t freed = 0;
  for (void* block : std::exchange(heap->kept, {})) freed += deallocate(block, nullptr);
  drop_if_unused(heap);
  return freed;
}

StreamHeaps::Heap& StreamHeaps::heap_of(const void* block) const {
  return **std::find_if(heaps_.begin(), heaps_.end(),
                        [block](const auto& heap) { return heap->contains(block); });
}

StreamHeaps::Heap& StreamHeaps::make_heap(void* stream) {
  heaps_.push_back(std::make_unique<Heap>(make_pages_(), budget_, alignment_, stream));
  return *heaps_.back();
}

void StreamHeaps::drop_if_unused(Heap* heap) {
  const auto found = std::find_if(heaps_.begin(), heaps_.end(),
                                  [heap](const auto& other) { return other.get() == heap; });
  if (found == heaps_.end() || !heap->is_private || heap->is_open || heap->used > 0) return;
  heap->blocks.release_free_pages();
  heaps_.erase(found);
}

}  // namespace weft::cuda

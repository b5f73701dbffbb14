#include "block_heap.h"

#include <algorithm>
#include <iterator>

namespace weft {

BlockHeap::BlockHeap(PageRange& pages, size_t alignment, size_t limit_pages)
    : pages_(pages),
      alignment_(alignment),
      limit_pages_(limit_pages > 0 ? limit_pages : pages.page_count()),
      committed_(pages.page_count()) {
  const size_t size = pages.page_bytes() * pages.page_count();
  if (size == 0) return;
  blocks_.emplace(0, Block{size, /*is_free=*/true});
  free_.emplace(size, 0);
}

void* BlockHeap::allocate(size_t bytes) {
  const size_t size = (bytes + alignment_ - 1) / alignment_ * alignment_;
  if (size < bytes || size == 0) return nullptr;  // the sum overflowed
  // Of blocks of one size the first, which keeps the far end of the range free.
  const auto best = free_.lower_bound({size, 0});
  if (best == free_.end()) return nullptr;
  const auto block = blocks_.find(best->second);
  const auto [offset, found] = *block;
  free_.erase(best);
  if (found.size > size) {
    blocks_.emplace_hint(std::next(block), offset + size, Block{found.size - size, true});
    free_.emplace(found.size - size, offset + size);
  }
  block->second = {size, /*is_free=*/false};
  if (!commit(offset, offset + size)) {
    free_block(block);
    return nullptr;
  }
  return pages_.begin() + offset;
}

size_t BlockHeap::deallocate(void* block) {
  const auto found = blocks_.find(static_cast<size_t>(static_cast<char*>(block) - pages_.begin()));
  const size_t size = found->second.size;
  free_block(found);
  return size;
}

void BlockHeap::free_block(Blocks::iterator block) {
  block->second.is_free = true;
  if (const auto next = std::next(block); next != blocks_.end() && next->second.is_free) {
    free_.erase({next->second.size, next->first});
    block->second.size += next->second.size;
    blocks_.erase(next);
  }
  if (block != blocks_.begin() && std::prev(block)->second.is_free) {
    const auto previous = std::prev(block);
    free_.erase({previous->second.size, previous->first});
    previous->second.size += block->second.size;
    blocks_.erase(block);
    block = previous;
  }
  free_.emplace(block->second.size, block->first);
}

void BlockHeap::release_free_pages() {
  if (!pages_.may_decommit()) return;
  const size_t page = pages_.page_bytes();
  for (const auto& [size, offset] : free_) {
    const size_t first = (offset + page - 1) / page, last = (offset + size) / page;
    decommit(first, last);
  }
}

/// Commits the pages of these bytes, which belong to a block in use.
bool BlockHeap::commit(size_t begin, size_t end) {
  const size_t page = pages_.page_bytes();
  const size_t first = begin / page, last = (end + page - 1) / page;
  if (commit_missing(first, last)) return true;
  release_free_pages();
  return commit_missing(first, last);
}

bool BlockHeap::commit_missing(size_t first_page, size_t last_page) {
  const auto at = [&](size_t i) { return committed_.begin() + static_cast<std::ptrdiff_t>(i); };
  const auto missing =
      static_cast<size_t>(std::count(at(first_page), at(last_page), /*value=*/false));
  if (committed_count_ + missing > limit_pages_) return false;
  auto run = std::find(at(first_page), at(last_page), false);
  while (run != at(last_page)) {
    const auto run_end = std::find(run, at(last_page), true);
    const auto count = static_cast<size_t>(run_end - run);
    if (!pages_.commit(static_cast<size_t>(run - committed_.begin()), count)) return false;
    std::fill(run, run_end, true);
    committed_count_ += count;
    run = std::find(run_end, at(last_page), false);
  }
  return true;
}

void BlockHeap::decommit(size_t first_page, size_t last_page) {
  for (size_t begin = first_page; begin < last_page;) {
    const bool is_committed = committed_[begin];
    size_t end = begin + 1;
    while (end < last_page && committed_[end] == is_committed) ++end;
    if (is_committed) {
      pages_.decommit(begin, end - begin);
      std::fill(committed_.begin() + static_cast<std::ptrdiff_t>(begin),
                committed_.begin() + static_cast<std::ptrdiff_t>(end), false);
      committed_count_ -= end - begin;
    }
    begin = end;
  }
}

}  // namespace weft

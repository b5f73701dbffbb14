#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace weft {

/// A range of device addresses whose pages hold memory only while they are committed.
class PageRange {
 public:
  virtual ~PageRange() = default;

  virtual char* begin() const = 0;
  virtual size_t page_bytes() const = 0;
  virtual size_t page_count() const = 0;
  /// Gives memory to pages that have none. False, with nothing changed, where there is too little.
  virtual bool commit(size_t first_page, size_t count) = 0;
  /// Returns the memory of committed pages to the system; their contents are lost.
  virtual void decommit(size_t first_page, size_t count) noexcept = 0;
  /// Whether memory may go back now.
  virtual bool may_decommit() const { return true; }
};

/// Hands out blocks of a page range. A request takes the smallest free block that fits and leaves
/// the rest of it free; a freed block joins its free neighbours. So memory serves any sizes one
/// after another, and small requests fill the gaps. Pages are committed when a block first needs
/// them and stay so until release_free_pages(). Nothing is kept inside the blocks, which may be of
/// a device's memory. Not thread-safe.
class BlockHeap {
 public:
  /// Blocks are aligned to `alignment`, a divisor of the page size. `limit_pages` 0 means none.
  BlockHeap(PageRange& pages, size_t alignment, size_t limit_pages = 0);

  /// Null where memory or addresses are short even without the free pages.
  void* allocate(size_t bytes);
  /// Takes back a block of allocate() and returns its size: that asked for, rounded up to the
  /// alignment.
  size_t deallocate(void* block);
  /// Decommits the pages that no block touches.
  void release_free_pages();

  size_t committed_bytes() const { return committed_count_ * pages_.page_bytes(); }

 private:
  struct Block {
    size_t size;
    bool is_free;
  };
  using Blocks = std::map<size_t, Block>;

  bool commit(size_t begin, size_t end);
  bool commit_missing(size_t first_page, size_t last_page);
  void decommit(size_t first_page, size_t last_page);
  void free_block(Blocks::iterator block);

  PageRange& pages_;
  const size_t alignment_;
  const size_t limit_pages_;
  Blocks blocks_;                             // by offset; they adjoin and fill the range
  std::set<std::pair<size_t, size_t>> free_;  // size and offset
  std::vector<bool> committed_;               // of each page
  size_t committed_count_ = 0;
};

}  // namespace weft

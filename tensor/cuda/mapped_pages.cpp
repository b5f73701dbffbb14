#include "cuda/mapped_pages.h"

#include <vector>

#include "cuda/device_context.h"
#include "cuda/driver_api.h"
#include "cuda/relaxed_capture.h"

namespace weft::cuda {
namespace {

/// Memory comes in pieces of this size. Smaller ones cost time where a program takes most of the
/// card (about 50 us each), larger ones memory where it uses several streams.
constexpr size_t kPieceBytes = size_t{16} << 20;

class MappedPages final : public PageRange {
 public:
  MappedPages(const DriverApi& api, int device_index) : api_(api), device_index_(device_index) {
    properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties_.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device_index}};
    const DeviceGuard guard(device_index);
    size_t granularity = 0;
    size_t free = 0;
    size_t total = 0;
    if (api_.get_granularity(&granularity, &properties_, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) !=
            CUDA_SUCCESS ||
        kPieceBytes % granularity != 0 || cudaMemGetInfo(&free, &total) != cudaSuccess)
      return;
    // Addresses have holes where decommitted pages were.
    const size_t count = 2 * total / kPieceBytes;
    CUdeviceptr begin = 0;
    if (api_.reserve_addresses(&begin, count * kPieceBytes, 0, 0, 0) != CUDA_SUCCESS) return;
    begin_ = reinterpret_cast<char*>(begin);
    handles_.resize(count);
  }
  ~MappedPages() override {
    if (begin_ != nullptr) api_.free_addresses(address(0), handles_.size() * kPieceBytes);
  }
  MappedPages(const MappedPages&) = delete;
  MappedPages& operator=(const MappedPages&) = delete;

  bool is_usable() const { return begin_ != nullptr; }

  char* begin() const override { return begin_; }
  size_t page_bytes() const override { return kPieceBytes; }
  size_t page_count() const override { return handles_.size(); }

  bool commit(size_t first_page, size_t count) override {
    const DeviceGuard guard(device_index_);
    WEFT_CUDA_CHECK(cudaSetDevice(device_index_));  // makes its context where there is none yet
    const RelaxedCapture relaxed;
    for (size_t page = first_page; page < first_page + count; ++page) {
      if (!map(page)) {
        unmap(first_page, page);
        return false;
      }
    }
    CUmemAccessDesc access{};
    access.location = properties_.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (api_.set_access(address(first_page), count * kPieceBytes, &access, 1) == CUDA_SUCCESS)
      return true;
    unmap(first_page, first_page + count);
    return false;
  }

  void decommit(size_t first_page, size_t count) noexcept override {
    const DeviceGuard guard(device_index_, std::nothrow);
    cudaDeviceSynchronize();  // work that was queued before the blocks were freed may still run
    unmap(first_page, first_page + count);
  }

 private:
  CUdeviceptr address(size_t page) const {
    return reinterpret_cast<CUdeviceptr>(begin_ + page * kPieceBytes);
  }

  bool map(size_t page) {
    CUmemGenericAllocationHandle handle = 0;
    if (api_.create_memory(&handle, kPieceBytes, &properties_, 0) != CUDA_SUCCESS) return false;
    if (api_.map_memory(address(page), kPieceBytes, 0, handle, 0) != CUDA_SUCCESS) {
      api_.release_memory(handle);
      return false;
    }
    handles_[page] = handle;
    return true;
  }

  void unmap(size_t begin_page, size_t end_page) noexcept {
    for (size_t page = begin_page; page < end_page; ++page) {
      api_.unmap_memory(address(page), kPieceBytes);
      api_.release_memory(handles_[page]);
      handles_[page] = 0;
    }
  }

  const DriverApi& api_;
  const int device_index_;
  CUmemAllocationProp properties_{};
  char* begin_ = nullptr;
  std::vector<CUmemGenericAllocationHandle> handles_;  // of each page
};

}  // namespace

std::unique_ptr<PageRange> make_mapped_pages(int device_index) {
  const DriverApi* const api = driver_api();
  if (api == nullptr) return nullptr;
  auto pages = std::make_unique<MappedPages>(*api, device_index);
  if (!pages->is_usable()) return nullptr;
  return pages;
}

}  // namespace weft::cuda

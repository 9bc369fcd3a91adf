// Device memory of the asynchronous device, which is host memory.
//
// Each stream has an arena that grows and shrinks at its end, as CUDA's expandable segments do. A
// block that is freed can be had again at once by the next request on its stream: whatever that
// request's work does comes after what the stream was given before. Freed bytes are filled with a
// pattern, in stream order, so a use too late or too early shows as wrong numbers.
//
// Capacity is a matter of what is allocated, to the byte, or else of pages: an arena maps the pages
// that its blocks lie on, and gives those back that no block lies on when they are needed elsewhere.
// Then what lies in pieces counts. As in CUDA's allocator small blocks have pages of their own.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <sys/mman.h>

#include <cstring>
#include <set>

#include "streams.h"

namespace asyncdev {

constexpr auto kType = c10::DeviceType::PrivateUse1;
constexpr std::size_t kGranule = 512;
constexpr std::size_t kArenaBytes = std::size_t{16} << 30;  // of addresses, not of memory
constexpr int kPattern = 0xFF;                              // no number in any format of floats

inline int number_of(const c10::Stream& stream) {
  return stream.device_index() * kStreams + static_cast<int>(stream.id());
}

inline c10::Stream numbered(int number) {
  c10::Device device(kType, static_cast<c10::DeviceIndex>(number / kStreams));
  return c10::Stream(c10::Stream::UNSAFE, device, number % kStreams);
}

struct Block {
  std::size_t offset, size;
  bool free;
};

// The pages of an arena, with how many blocks in use lie on each.
class Pages {
 public:
  std::size_t mapped() const { return mapped_; }
  std::size_t missing(std::size_t offset, std::size_t size, std::size_t page) const {
    std::size_t found = 0;
    for (auto at = offset / page; at <= (offset + size - 1) / page; ++at)
      if (at >= blocks_.size() || blocks_[at] == kUnmapped) ++found;
    return found;
  }
  void use(std::size_t offset, std::size_t size, std::size_t page) {
    auto last = (offset + size - 1) / page;
    if (last >= blocks_.size()) blocks_.resize(last + 1, kUnmapped);
    for (auto at = offset / page; at <= last; ++at) {
      if (blocks_[at] == kUnmapped) ++mapped_, blocks_[at] = 0;
      ++blocks_[at];
    }
  }
  void leave(std::size_t offset, std::size_t size, std::size_t page) {
    for (auto at = offset / page; at <= (offset + size - 1) / page; ++at) --blocks_[at];
  }
  void unmap() {
    for (auto& blocks : blocks_)
      if (blocks == 0) --mapped_, blocks = kUnmapped;
  }

 private:
  static constexpr int kUnmapped = -1;
  std::vector<int> blocks_;
  std::size_t mapped_ = 0;
};

class Arena {
 public:
  Arena() {
    void* at = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TORCH_CHECK(at != MAP_FAILED, "no addresses left for an arena");
    begin_ = static_cast<char*>(at);
  }
  char* begin() const { return begin_; }
  Pages pages;

  std::size_t end() const { return blocks_.empty() ? 0 : last().offset + last().size; }

  std::size_t take(std::size_t size) {
    auto found = best_fit(size);
    if (found == blocks_.end()) {
      if (!blocks_.empty() && last().free) {
        auto it = std::prev(blocks_.end());
        it->second.size = size;
        it->second.free = false;
        return it->second.offset;
      }
      auto offset = end();
      blocks_[offset] = {offset, size, false};
      return offset;
    }
    auto& block = found->second;
    if (block.size > size) {
      auto rest = block.offset + size;
      blocks_[rest] = {rest, block.size - size, true};
      block.size = size;
    }
    block.free = false;
    return block.offset;
  }
  void give_back(std::size_t offset) {
    auto it = blocks_.find(offset);
    it->second.free = true;
    auto next = std::next(it);
    if (next != blocks_.end() && next->second.free) {
      it->second.size += next->second.size;
      blocks_.erase(next);
    }
    if (it != blocks_.begin()) {
      auto before = std::prev(it);
      if (before->second.free) {
        before->second.size += it->second.size;
        blocks_.erase(it);
      }
    }
  }
  void trim() {
    if (!blocks_.empty() && last().free) blocks_.erase(std::prev(blocks_.end()));
  }

 private:
  using Blocks = std::map<std::size_t, Block>;
  const Block& last() const { return std::prev(blocks_.end())->second; }
  Blocks::const_iterator best_fit(std::size_t size) const {
    auto best = blocks_.end();
    for (auto it = blocks_.begin(); it != blocks_.end(); ++it)
      if (it->second.free && it->second.size >= size &&
          (best == blocks_.end() || it->second.size < best->second.size))
        best = it;
    return best;
  }
  Blocks::iterator best_fit(std::size_t size) {
    auto found = static_cast<const Arena*>(this)->best_fit(size);
    return found == blocks_.end() ? blocks_.end() : blocks_.find(found->first);
  }

  char* begin_;
  Blocks blocks_;
};

class DeviceMemory final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(std::size_t n) override {
    c10::Device device(kType, static_cast<c10::DeviceIndex>(current_device()));
    if (n == 0) return {nullptr, nullptr, &nothing, device};
    auto size = (n + kGranule - 1) / kGranule * kGranule;
    auto on = current_stream();
    std::lock_guard<std::mutex> hold(mutex_);
    bool is_small = page_ > 0 && size <= page_ / 2;
    auto& arena = arenas_[{on, is_small}];
    auto offset = take(arena, size, n);
    auto* at = arena.begin() + offset;
    owners_[at] = {on, is_small, size, {}};
    allocated_.increase(size);
    note_reserved();
    return {at, at, &free_block, device};
  }
  void give_back(char* at) {
    std::lock_guard<std::mutex> hold(mutex_);
    auto owner = owners_.at(at);
    owners_.erase(at);
    allocated_.decrease(owner.size);
    for (int other : owner.used_on) {
      auto event = std::make_shared<Event>(next_event());
      Event::record(event, other);
      Event::block(event, owner.stream);
    }
    Access all{reinterpret_cast<std::uintptr_t>(at), owner.size, true};
    put(owner.stream, "free", {all}, [at, size = owner.size] { std::memset(at, kPattern, size); });
    auto& arena = arenas_[{owner.stream, owner.is_small}];
    auto offset = static_cast<std::size_t>(at - arena.begin());
    arena.give_back(offset);
    if (page_ > 0) arena.pages.leave(offset, owner.size, page_);
  }
  void recordStream(const c10::DataPtr& ptr, c10::Stream stream) override {
    std::lock_guard<std::mutex> hold(mutex_);
    auto found = owners_.find(static_cast<char*>(ptr.get()));
    if (found != owners_.end() && found->second.stream != number_of(stream))
      found->second.used_on.insert(number_of(stream));
  }
  static std::int64_t next_event() {
    static std::atomic<std::int64_t> next{0};
    return next++;
  }

  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    std::lock_guard<std::mutex> hold(mutex_);
    trim();
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    std::lock_guard<std::mutex> hold(mutex_);
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0] = stats.active_bytes[0] = stats.requested_bytes[0] = allocated_;
    stats.reserved_bytes[0] = reserved_;
    stats.num_ooms = refused_;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {
    std::lock_guard<std::mutex> hold(mutex_);
    allocated_.reset_peak();
    reserved_.reset_peak();
  }
  std::pair<std::size_t, std::size_t> getMemoryInfo(c10::DeviceIndex) override {
    std::lock_guard<std::mutex> hold(mutex_);
    return {capacity_ - std::min(capacity_, reserved_now()), total_};
  }
  std::size_t total() const { return total_; }
  void set_total(std::size_t bytes) {
    std::lock_guard<std::mutex> hold(mutex_);
    total_ = capacity_ = bytes;
  }
  void set_capacity(std::size_t bytes) {
    std::lock_guard<std::mutex> hold(mutex_);
    capacity_ = bytes;
  }
  // If it is 0, capacity is a matter of what is allocated.
  void set_page(std::size_t bytes) {
    std::lock_guard<std::mutex> hold(mutex_);
    page_ = bytes;
    for (auto& [of, arena] : arenas_) arena.pages = Pages();
    if (page_ == 0) return;
    for (const auto& [at, owner] : owners_) {
      auto& arena = arenas_.at({owner.stream, owner.is_small});
      arena.pages.use(static_cast<std::size_t>(at - arena.begin()), owner.size, page_);
    }
  }
  void copy_data(void* to, const void* from, std::size_t n) const override {
    std::memcpy(to, from, n);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }

 private:
  struct Owner {
    int stream;
    bool is_small;
    std::size_t size;
    std::set<int> used_on;
  };
  static void nothing(void*) {}
  static void free_block(void* at);

  std::size_t take(Arena& arena, std::size_t size, std::size_t asked) {
    auto allocated = static_cast<std::size_t>(allocated_.current);
    if (page_ == 0) {
      if (allocated + size > capacity_) refuse(asked);
      return arena.take(size);
    }
    auto offset = arena.take(size);
    auto would_be = [&] {
      return reserved_now() + arena.pages.missing(offset, size, page_) * page_;
    };
    if (would_be() > capacity_) trim();
    if (would_be() > capacity_) {
      arena.give_back(offset);
      refuse(asked);
    }
    arena.pages.use(offset, size, page_);
    return offset;
  }
  void refuse(std::size_t asked) {
    ++refused_;
    TORCH_CHECK_WITH(OutOfMemoryError, false, "asyncdev out of memory. Tried to allocate ", asked,
                     " bytes. The device has ", capacity_, " bytes, of which ", allocated_.current,
                     " are allocated and ", reserved_now(), " are reserved.");
  }
  void trim() {
    for (auto& [of, arena] : arenas_) {
      arena.pages.unmap();
      if (page_ == 0) arena.trim();
    }
    note_reserved();
  }
  std::size_t reserved_now() const {
    std::size_t bytes = 0;
    for (const auto& [of, arena] : arenas_)
      bytes += page_ > 0 ? arena.pages.mapped() * page_ : arena.end();
    return bytes;
  }
  void note_reserved() {
    auto now = static_cast<std::int64_t>(reserved_now());
    if (now > reserved_.current) reserved_.increase(now - reserved_.current);
    if (now < reserved_.current) reserved_.decrease(reserved_.current - now);
  }

  std::mutex mutex_;
  std::map<std::pair<int, bool>, Arena> arenas_;  // by stream, and whether for small blocks
  std::map<char*, Owner> owners_;
  c10::CachingAllocator::Stat allocated_, reserved_;
  std::int64_t refused_ = 0;
  std::size_t page_ = 0;
  std::size_t total_ = std::size_t{8} << 30;
  std::size_t capacity_ = std::size_t{8} << 30;
};

inline DeviceMemory& memory() {
  static auto* it = new DeviceMemory;
  return *it;
}
inline void DeviceMemory::free_block(void* at) {
  if (at != nullptr) memory().give_back(static_cast<char*>(at));
}

// Host memory that the device can copy from and to while the host runs ahead.
class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t n) override {
    if (n == 0) return {nullptr, nullptr, &free_stretch, c10::Device(c10::DeviceType::CPU)};
    auto* at = static_cast<char*>(std::aligned_alloc(64, (n + 63) / 64 * 64));
    pin(at, n);
    return {at, at, &free_stretch, c10::Device(c10::DeviceType::CPU)};
  }
  void pin(const char* at, std::size_t n) {
    std::lock_guard<std::mutex> hold(mutex_);
    stretches_[at] = n;
  }
  std::size_t unpin(const char* at) {
    std::lock_guard<std::mutex> hold(mutex_);
    auto size = stretches_.at(at);
    stretches_.erase(at);
    return size;
  }
  bool has(const void* data) {
    std::lock_guard<std::mutex> hold(mutex_);
    auto* at = static_cast<const char*>(data);
    auto after = stretches_.upper_bound(at);
    if (after == stretches_.begin()) return false;
    auto found = std::prev(after);
    return at < found->first + found->second;
  }
  void copy_data(void* to, const void* from, std::size_t n) const override {
    std::memcpy(to, from, n);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_stretch; }

 private:
  static void free_stretch(void* at);
  std::mutex mutex_;
  std::map<const char*, std::size_t> stretches_;
};

inline PinnedMemory& pinned() {
  static auto* it = new PinnedMemory;
  return *it;
}
inline void PinnedMemory::free_stretch(void* at) {
  if (at == nullptr) return;
  auto* begin = static_cast<char*>(at);
  // At once, as the host frees: what the device still reads from it shows.
  auto size = pinned().unpin(begin);
  log().note({"work", kHost, "free host memory", {{reinterpret_cast<std::uintptr_t>(at), size, true}}, -1, -1});
  std::memset(begin, kPattern, size);
  std::free(at);
}

}  // namespace asyncdev

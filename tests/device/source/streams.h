// Streams, events and the log of the asynchronous device.
//
// A stream is a thread that does its work in order. What is put on it has not been done when `put`
// returns: the host runs ahead, as with a GPU. The log holds what the host has put where, in the
// order of the program; who may have run beside whom follows from it (tests/device/races.py).
#pragma once

#include <Python.h>

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/TensorBody.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace asyncdev {

using Clock = std::chrono::steady_clock;
using Work = std::function<void()>;
constexpr int kDevices = 2;   // a process may use one, as workers do that have one each
constexpr int kStreams = 32;  // of each device, numbered in one row; a device's first is its default
constexpr int kHost = -1;     // in the log, where a stream would stand

// One stretch of memory that a piece of work reads or writes.
struct Access {
  std::uintptr_t address;
  std::size_t size_bytes;
  bool writes;
};

// What the host did: put work on a stream, recorded or waited for an event, or waited itself.
struct Entry {
  std::string kind;  // "work", "record", "wait", "host waits for stream", "host waits for event"
  int stream;
  std::string name;
  std::vector<Access> accesses;
  std::int64_t event;
  std::int64_t version;
};

// When a piece of work ran, by the number of its entry.
struct Span {
  std::size_t entry;
  Clock::time_point began, ended;
};

class Log {
 public:
  // Returns the entry's number; -1 if nothing is logged.
  std::int64_t note(Entry entry) {
    std::lock_guard<std::mutex> hold(mutex_);
    if (!on_) return -1;
    entries_.push_back(std::move(entry));
    return static_cast<std::int64_t>(entries_.size()) - 1;
  }
  void ran(std::int64_t entry, Clock::time_point began, Clock::time_point ended) {
    if (entry < 0) return;
    std::lock_guard<std::mutex> hold(mutex_);
    spans_.push_back({static_cast<std::size_t>(entry), began, ended});
  }
  void turn(bool on) {
    std::lock_guard<std::mutex> hold(mutex_);
    on_ = on;
    entries_.clear();
    spans_.clear();
  }
  std::vector<Entry> entries() {
    std::lock_guard<std::mutex> hold(mutex_);
    return entries_;
  }
  std::vector<Span> spans() {
    std::lock_guard<std::mutex> hold(mutex_);
    return spans_;
  }

 private:
  std::mutex mutex_;
  bool on_ = false;
  std::vector<Entry> entries_;
  std::vector<Span> spans_;
};

inline Log& log() {
  static auto* it = new Log;
  return *it;
}

// Delays of work, drawn at random: each order that events allow comes up sooner or later.
class Delays {
 public:
  void set(std::uint64_t seed, double most_us) {
    std::lock_guard<std::mutex> hold(mutex_);
    dice_.seed(seed);
    most_us_ = most_us;
  }
  void wait() {
    double us = 0.0;
    {
      std::lock_guard<std::mutex> hold(mutex_);
      if (most_us_ <= 0.0) return;
      // One piece of work in eight is held up, and then for long.
      if (dice_() % 8 == 0) us = most_us_ * static_cast<double>(dice_() % 1000) / 1000.0;
    }
    if (us > 0.0) std::this_thread::sleep_for(std::chrono::duration<double, std::micro>(us));
  }

 private:
  std::mutex mutex_;
  std::mt19937_64 dice_;
  double most_us_ = 0.0;
};

inline Delays& delays() {
  static auto* it = new Delays;
  return *it;
}

class Stream {
 public:
  Stream() : thread_([this] { run(); }) { thread_.detach(); }

  void put(Work work) {
    {
      std::lock_guard<std::mutex> hold(mutex_);
      work_.push_back(std::move(work));
    }
    changed_.notify_all();
  }
  void drain() {
    std::unique_lock<std::mutex> hold(mutex_);
    changed_.wait(hold, [this] { return idle_now(); });
  }
  bool idle() {
    std::lock_guard<std::mutex> hold(mutex_);
    return idle_now();
  }
  // What work of this stream has raised is raised where the host waits for it next.
  void fail(std::exception_ptr fault) {
    std::lock_guard<std::mutex> hold(mutex_);
    if (!fault_) fault_ = fault;
  }
  std::exception_ptr take_fault() {
    std::lock_guard<std::mutex> hold(mutex_);
    return std::exchange(fault_, nullptr);
  }

 private:
  bool idle_now() const { return work_.empty() && !busy_; }
  void run() {
    // One thread for each op: others would take the cores of other streams.
    at::set_num_threads(1);
    for (;;) {
      Work work;
      {
        std::unique_lock<std::mutex> hold(mutex_);
        changed_.wait(hold, [this] { return !work_.empty(); });
        work = std::move(work_.front());
        work_.pop_front();
        busy_ = true;
      }
      try {
        work();
      } catch (...) {
        fail(std::current_exception());
      }
      work = nullptr;
      {
        std::lock_guard<std::mutex> hold(mutex_);
        busy_ = false;
      }
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work> work_;
  bool busy_ = false;
  std::exception_ptr fault_;
  std::thread thread_;
};

inline Stream& stream(int id) {
  static std::mutex mutex;
  static auto* streams = new std::map<int, Stream*>;
  std::lock_guard<std::mutex> hold(mutex);
  auto& found = (*streams)[id];
  if (found == nullptr) found = new Stream;
  return *found;
}

inline int& current_device() {
  thread_local int current = 0;
  return current;
}

inline int& current_stream(int device = current_device()) {
  thread_local int current[kDevices] = {0, kStreams};
  return current[device];
}

// Puts named work on a stream, and logs what it reads and writes.
inline void put(int id, std::string name, std::vector<Access> accesses, Work work) {
  auto entry = log().note({"work", id, std::move(name), std::move(accesses), -1, -1});
  stream(id).put([entry, work = std::move(work)] {
    delays().wait();
    auto began = Clock::now();
    work();
    log().ran(entry, began, Clock::now());
  });
}

// Lets others have Python meanwhile, if this thread has it: torch reads a 0-dim tensor for a number
// with it held, and what a stream lets go of may be Python's.
class WithoutPython {
 public:
  WithoutPython() : state_(Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr) {}
  ~WithoutPython() {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }

 private:
  PyThreadState* state_;
};

inline void host_waits_for_stream(int id) {
  log().note({"host waits for stream", id, "", {}, -1, -1});
  {
    WithoutPython without;
    stream(id).drain();
  }
  if (auto fault = stream(id).take_fault()) std::rethrow_exception(fault);
}

// Each time it is recorded counts for itself: who waits for an earlier time is not let go by a later
// one, which another stream may reach first.
class Event {
 public:
  explicit Event(std::int64_t id) : id_(id) {}

  static void record(const std::shared_ptr<Event>& event, int on) {
    long version;
    {
      std::lock_guard<std::mutex> hold(event->mutex_);
      version = ++event->asked_;
      event->pending_.insert(version);
    }
    log().note({"record", on, "", {}, event->id_, version});
    stream(on).put([event, version] { event->reach(version); });
  }
  static void block(const std::shared_ptr<Event>& event, int waiting) {
    long version;
    {
      std::lock_guard<std::mutex> hold(event->mutex_);
      version = event->asked_;
    }
    log().note({"wait", waiting, "", {}, event->id_, version});
    stream(waiting).put([event, version] { event->wait(version); });
  }
  bool reached() {
    std::lock_guard<std::mutex> hold(mutex_);
    return pending_.count(asked_) == 0;
  }
  void synchronize() {
    long version;
    {
      std::lock_guard<std::mutex> hold(mutex_);
      version = asked_;
    }
    log().note({"host waits for event", kHost, "", {}, id_, version});
    wait(version);
  }
  Clock::time_point at() {
    std::lock_guard<std::mutex> hold(mutex_);
    return at_;
  }

 private:
  void reach(long version) {
    {
      std::lock_guard<std::mutex> hold(mutex_);
      pending_.erase(version);
      if (version == asked_) at_ = Clock::now();
    }
    changed_.notify_all();
  }
  void wait(long version) {
    std::unique_lock<std::mutex> hold(mutex_);
    changed_.wait(hold, [&] { return pending_.count(version) == 0; });
  }

  std::int64_t id_;
  std::mutex mutex_;
  std::condition_variable changed_;
  long asked_ = 0;
  std::set<long> pending_;
  Clock::time_point at_;
};

// ---------------------------------------------------------------------------------------------
// Tensors of the device as CPU kernels see them, as meta kernels do, and as what ops access.

// Holds no memory: a device's copy engine keeps none alive either, of the host's as little.
inline at::Tensor bytes_of(const at::Tensor& t) {
  auto* at = const_cast<void*>(t.storage().data());
  c10::Storage bytes(c10::Storage::use_byte_size_t(), t.storage().nbytes(),
                     c10::DataPtr(at, c10::Device(c10::kCPU)), c10::GetAllocator(c10::kCPU), true);
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(bytes), c10::DispatchKeySet(c10::DispatchKey::CPU), t.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  return made;
}

inline at::Tensor as_cpu(const at::Tensor& t) { return !t.defined() || t.is_cpu() ? t : bytes_of(t); }

inline at::Tensor as_meta(const at::Tensor& t) {
  return at::detail::empty_strided_meta(t.sizes(), t.strides(), t.scalar_type());
}

inline Access access_to(const at::Tensor& t, bool writes) {
  if (t.numel() == 0) return {0, 0, writes};
  auto at = reinterpret_cast<std::uintptr_t>(t.storage().data());
  std::int64_t last = 0;
  for (std::int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
  auto item = t.dtype().itemsize();
  return {at + static_cast<std::size_t>(t.storage_offset()) * item, static_cast<std::size_t>(last + 1) * item, writes};
}

}  // namespace asyncdev

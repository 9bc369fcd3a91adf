// An asynchronous accelerator on host memory, as a PrivateUse1 backend of PyTorch.
//
// An op gives the shapes of its results at once, from its meta kernel, and itself runs on the CPU
// kernels when its stream gets there. Ops without a meta kernel wait for the stream and run at
// once, as a GPU's do that look at their data.
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/TensorBody.h>
#include <ATen/core/ivalue.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include "memory.h"
#include "streams.h"

namespace asyncdev {

// ---------------------------------------------------------------------------------------------
// What `torch.autocast` casts on the device: what torch has for any device.

using at::IntArrayRef, at::Scalar, at::ScalarType, at::Tensor;  // the lists are torch's own text

#define LOWER_PRECISION(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define SINGLE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define SINGLE_BY_DEFAULT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOWER_PRECISION)
  AT_FORALL_FP32(SINGLE)
  AT_FORALL_FP32_SET_OPT_DTYPE(SINGLE_BY_DEFAULT)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(WIDEST)
}

// ---------------------------------------------------------------------------------------------
// Collectives among processes: gloo's, on the device's bytes, put on a stream of their own.
//
// As with NCCL the host does not wait: they begin when the current stream has done what it was given
// before, and whoever waits for their result has the stream wait that is current there.

using Tensors = std::vector<at::Tensor>;
using Begun = c10::intrusive_ptr<c10d::Work>;
using Backend = c10d::Backend;

class Collectives final : public Backend {
 public:
  // `gloo` is for nothing else: what it is given comes in the order of the stream.
  Collectives(c10::intrusive_ptr<Backend> gloo, int rank, int size)
      : Backend(rank, size), gloo_(std::move(gloo)) {}
  const std::string getBackendName() const override { return gloo_->getBackendName(); }

  Begun broadcast(Tensors& tensors, const c10d::BroadcastOptions& how) override {
    return put("broadcast", {}, tensors, [how](Backend& gloo, Tensors&, Tensors& written) {
      return gloo.broadcast(written, how);
    });
  }
  Begun allreduce(Tensors& tensors, const c10d::AllreduceOptions& how) override {
    return put("all-reduce", {}, tensors, [how](Backend& gloo, Tensors&, Tensors& written) {
      return gloo.allreduce(written, how);
    });
  }
  Begun allgather(std::vector<Tensors>& gathered, Tensors& tensors,
                  const c10d::AllgatherOptions& how) override {
    return put("all-gather", tensors, gathered.at(0), [how](Backend& gloo, Tensors& read, Tensors& written) {
      std::vector<Tensors> into{written};
      return gloo.allgather(into, read, how);
    });
  }
  Begun _allgather_base(at::Tensor& gathered, at::Tensor& part,
                        const c10d::AllgatherOptions& how) override {
    return put("all-gather", {part}, {gathered}, [how](Backend& gloo, Tensors& read, Tensors& written) {
      return gloo._allgather_base(written.at(0), read.at(0), how);
    });
  }
  Begun _reduce_scatter_base(at::Tensor& part, at::Tensor& whole,
                             const c10d::ReduceScatterOptions& how) override {
    return put("reduce-scatter", {whole}, {part}, [how](Backend& gloo, Tensors& read, Tensors& written) {
      return gloo._reduce_scatter_base(written.at(0), read.at(0), how);
    });
  }

 private:
  template <class Run>
  Begun put(std::string name, const Tensors& read, const Tensors& written, Run run) {
    auto device = written.at(0).device();
    if (!stream_) stream_ = c10::impl::VirtualGuardImpl(kType).getNewStream(device);
    auto on = number_of(*stream_);
    follow_current(on);
    std::vector<Access> accesses;
    for (const auto& t : read) use(t, false, accesses);
    for (const auto& t : written) use(t, true, accesses);
    asyncdev::put(on, std::move(name), std::move(accesses),
                  [gloo = gloo_, from = on_cpu(read), to = on_cpu(written), run]() mutable {
                    run(*gloo, from, to)->wait();
                  });
    auto type = c10::ListType::create(c10::TensorType::get());
    auto done = c10::make_intrusive<c10::ivalue::Future>(type, std::vector<c10::Device>{device});
    c10::StreamGuard here(*stream_);
    done->markCompleted(c10::IValue(written));
    return c10d::Work::create_from_future(done);
  }
  static void follow_current(int on) {
    auto before = std::make_shared<Event>(DeviceMemory::next_event());
    Event::record(before, current_stream());
    Event::block(before, on);
  }
  void use(const at::Tensor& t, bool writes, std::vector<Access>& accesses) {
    accesses.push_back(access_to(t, writes));
    memory().recordStream(t.storage().data_ptr(), *stream_);
  }
  static Tensors on_cpu(const Tensors& tensors) {
    Tensors made;
    for (const auto& t : tensors) made.push_back(as_cpu(t));
    return made;
  }

  c10::intrusive_ptr<Backend> gloo_;
  std::optional<c10::Stream> stream_;
};

inline c10::intrusive_ptr<Backend> collectives(const c10::intrusive_ptr<Backend>& gloo) {
  return c10::make_intrusive<Collectives>(gloo, gloo->getRank(), gloo->getSize());
}

}  // namespace asyncdev

namespace {

using at::IValue;
using at::Tensor;
using asyncdev::Access;
using asyncdev::access_to;
using asyncdev::as_cpu;
using asyncdev::as_meta;
using asyncdev::bytes_of;
using asyncdev::kType;
using asyncdev::number_of;
using asyncdev::numbered;
using BelowAutograd = at::AutoDispatchBelowADInplaceOrView;
using Sizes = at::IntArrayRef;
using Dtype = std::optional<at::ScalarType>;

// ---------------------------------------------------------------------------------------------
// Randomness: the seed of an op is drawn when it is put on its stream, as CUDA does, and goes with
// the op. A generator that ops read when they run would make `manual_seed` a race.

class Generator final : public c10::GeneratorImpl {
 public:
  explicit Generator(c10::DeviceIndex index)
      : GeneratorImpl(c10::Device(kType, index), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}
  void set_current_seed(std::uint64_t seed) override { seed_ = seed, drawn_ = 0; }
  void set_offset(std::uint64_t offset) override { drawn_ = offset; }
  std::uint64_t get_offset() const override { return drawn_; }
  std::uint64_t current_seed() const override { return seed_; }
  std::uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom());
    return seed_;
  }
  std::uint64_t draw() {
    std::seed_seq mixed{static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32),
                        static_cast<std::uint32_t>(drawn_), static_cast<std::uint32_t>(drawn_ >> 32)};
    ++drawn_;
    std::uint32_t words[2];
    mixed.generate(words, words + 2);
    return (static_cast<std::uint64_t>(words[0]) << 32) | words[1];
  }
  void set_state(const c10::TensorImpl& state) override {
    TORCH_CHECK(state.numel() == sizeof(Words) && state.is_cpu(), "not a state of this generator");
    Words words;
    std::memcpy(&words, state.data(), sizeof(Words));
    seed_ = words.seed, drawn_ = words.drawn;
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto state = at::detail::empty_cpu({sizeof(Words)}, at::kByte);
    Words words{seed_, drawn_};
    std::memcpy(state.mutable_data_ptr(), &words, sizeof(Words));
    return Tensor(state).getIntrusivePtr();
  }

 private:
  struct Words {
    std::uint64_t seed, drawn;
  };
  Generator* clone_impl() const override {
    auto* made = new Generator(device().index());
    made->seed_ = seed_, made->drawn_ = drawn_;
    return made;
  }
  std::uint64_t seed_ = c10::default_rng_seed_val;
  std::uint64_t drawn_ = 0;
};

c10::DeviceIndex current_index() { return static_cast<c10::DeviceIndex>(asyncdev::current_device()); }

at::Generator& default_generator(c10::DeviceIndex index) {
  static auto* made = new std::map<c10::DeviceIndex, at::Generator>;
  static std::mutex mutex;
  std::lock_guard<std::mutex> hold(mutex);
  return made->try_emplace(index, at::make_generator<Generator>(index)).first->second;
}

at::Generator seeded_for_op(const std::optional<at::Generator>& asked) {
  auto from = asked && asked->defined() ? *asked : default_generator(current_index());
  TORCH_CHECK(from.device().type() == kType, "Expected an accelerator's generator, found one of ",
              from.device());
  std::lock_guard<std::mutex> hold(from.mutex());
  return at::detail::createCPUGenerator(from.get<Generator>()->draw());
}

// ---------------------------------------------------------------------------------------------
// The device to torch: streams, events, hooks.

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = kType;
  using Held = std::shared_ptr<asyncdev::Event>;
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  static Held& held(void* event) { return *static_cast<Held*>(event); }

  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device device) const override {
    auto before = getDevice();
    uncheckedSetDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {kType, current_index()}; }
  void setDevice(c10::Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) asyncdev::current_device() = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override { return asyncdev::kDevices; }
  static int index(c10::Device device) {
    return device.has_index() ? device.index() : asyncdev::current_device();
  }
  c10::Stream getStream(c10::Device device) const override {
    return numbered(asyncdev::current_stream(index(device)));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return numbered(index(device) * asyncdev::kStreams);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    static std::atomic<int> next{0};
    return numbered(index(device) * asyncdev::kStreams + 1 + next++ % (asyncdev::kStreams - 1));
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    auto& current = asyncdev::current_stream(stream.device_index());
    return numbered(std::exchange(current, number_of(stream)));
  }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return &asyncdev::stream(number_of(stream));
  }
  bool queryStream(const c10::Stream& s) const override { return asyncdev::stream(number_of(s)).idle(); }
  void synchronizeStream(const c10::Stream& s) const override {
    asyncdev::host_waits_for_stream(number_of(s));
  }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    auto first = device * asyncdev::kStreams;
    for (int k = 0; k < asyncdev::kStreams; ++k) asyncdev::host_waits_for_stream(first + k);
  }
  void recordDataPtrOnStream(const c10::DataPtr& ptr, const c10::Stream& s) const override {
    asyncdev::memory().recordStream(ptr, s);
  }

  void record(void** event, const c10::Stream& s, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    if (*event == nullptr)
      *event = new Held(std::make_shared<asyncdev::Event>(asyncdev::DeviceMemory::next_event()));
    asyncdev::Event::record(held(*event), number_of(s));
  }
  void block(void* event, const c10::Stream& s) const override {
    if (event != nullptr) asyncdev::Event::block(held(event), number_of(s));
  }
  bool queryEvent(void* event) const override { return event == nullptr || held(event)->reached(); }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) held(event)->synchronize();
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Held*>(event);
  }
  double elapsedTime(void* one, void* other, const c10::DeviceIndex) const override {
    using Milliseconds = std::chrono::duration<double, std::milli>;
    return Milliseconds(held(other)->at() - held(one)->at()).count();
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

void copy_on(int on, std::string name, const void* from, void* to, std::size_t n) {
  Access reads{reinterpret_cast<std::uintptr_t>(from), n, false};
  Access writes{reinterpret_cast<std::uintptr_t>(to), n, true};
  asyncdev::put(on, std::move(name), {reads, writes}, [=] { std::memcpy(to, from, n); });
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return asyncdev::kDevices; }
  void setCurrentDevice(c10::DeviceIndex index) const override { exchangeDevice(index); }
  c10::DeviceIndex getCurrentDevice() const override { return current_index(); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return Guard().exchangeDevice({kType, index}).index();
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  bool isPinnedPtr(const void* data) const override { return asyncdev::pinned().has(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &asyncdev::pinned(); }
  c10::Device getDeviceFromPtr(void*) const override { return {kType, current_index()}; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(Guard::index({kType, index}));
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<Generator>(Guard::index({kType, index}));
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, std::size_t size) const override {
    auto* impl = storage.unsafeGetStorageImpl();
    auto fresh = asyncdev::memory().allocate(size);
    auto kept = std::min(size, impl->nbytes());
    if (kept > 0)
      copy_on(asyncdev::current_stream(), "resize", impl->data(), fresh.get(), kept);
    impl->set_data_ptr_noswap(std::move(fresh));
    impl->set_nbytes(size);
  }
};

// ---------------------------------------------------------------------------------------------
// Tensors of the device.

void check_current(const std::optional<at::Device>& asked) {
  TORCH_CHECK(!asked || Guard::index(*asked) == current_index(), "a process uses one device: make ",
              *asked, " the current one");
}

Tensor empty_strided(Sizes size, Sizes stride, Dtype dtype, std::optional<at::Layout>,
                     std::optional<at::Device> device, std::optional<bool>) {
  check_current(device);
  c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &asyncdev::memory(), keys,
                                           c10::dtype_or_default(dtype));
}

Tensor empty(Sizes size, Dtype dtype, std::optional<at::Layout>, std::optional<at::Device> device,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  check_current(device);
  c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &asyncdev::memory(), keys, c10::dtype_or_default(dtype),
                                   format);
}

Tensor empty_like_meta(const Tensor& t) {
  return empty_strided(t.sizes(), t.strides(), t.scalar_type(), {}, {}, {});
}

template <class F>
void map_tensors(IValue& value, F f) {
  if (value.isTensor()) {
    value = f(value.toTensor());
  } else if (value.isTensorList()) {
    std::vector<Tensor> made;
    for (const auto& t : value.toTensorVector()) made.push_back(f(t));
    value = made;
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> made;
    for (const std::optional<Tensor>& t : value.toOptionalTensorList())
      made.push_back(t ? std::optional<Tensor>(f(*t)) : t);
    value = made;
  }
}

// ---------------------------------------------------------------------------------------------
// Any op: put on the current stream if its results' shapes can be known, else run at once.

struct Counts {
  std::atomic<std::int64_t> ahead{0}, waited{0};
  std::mutex mutex;
  std::map<std::string, std::int64_t> waited_by_name;
};
Counts& counts() {
  static auto* it = new Counts;
  return *it;
}

class Call {
 public:
  Call(const c10::OperatorHandle& op, torch::jit::Stack* stack)
      : op_(op), stack_(stack), schema_(op.schema()) {
    auto count = schema_.arguments().size();
    arguments_.assign(stack->end() - static_cast<std::ptrdiff_t>(count), stack->end());
    for (std::size_t i = 0; i < schema_.returns().size(); ++i) {
      const auto* alias = schema_.returns()[i].alias_info();
      TORCH_CHECK(alias == nullptr || alias->isWrite(), name(), " makes a view, which is not done");
    }
  }
  std::string name() const { return c10::toString(schema_.operator_name()); }

  void run() {
    fix_arguments();
    if (infer() && results_known()) {
      ++counts().ahead;
      put();
    } else {
      ++counts().waited;
      {
        std::lock_guard<std::mutex> hold(counts().mutex);
        ++counts().waited_by_name[name()];
      }
      run_now();
    }
  }

 private:
  static Tensor clone_of_scalar(const Tensor& t) {
    BelowAutograd below;
    auto made = t.clone();
    // A number of Python's does not decide the type of a result, and its copy must not either.
    made.unsafeGetTensorImpl()->set_wrapped_number(t.unsafeGetTensorImpl()->is_wrapped_number());
    return made;
  }

  // What is read when the op is put: 0-dim host tensors, and the seed of a random op.
  void fix_arguments() {
    bool random = op_.hasTag(at::Tag::nondeterministic_seeded);
    for (std::size_t i = 0; i < arguments_.size(); ++i) {
      auto& value = arguments_[i];
      map_tensors(value, [&](const Tensor& t) {
        if (!t.defined() || !t.is_cpu()) return t;
        on_host_ |= t.dim() > 0;
        return t.dim() > 0 ? t : clone_of_scalar(t);
      });
      bool takes_generator =
          schema_.arguments()[i].real_type()->str().find("Generator") != std::string::npos;
      if (takes_generator && random) {
        std::optional<at::Generator> asked;
        if (!value.isNone()) asked = value.toGenerator();
        value = seeded_for_op(asked);
      }
    }
  }

  bool infer() {
    using c10::DispatchKey;
    bool has_meta = op_.hasKernelForDispatchKey(DispatchKey::Meta) ||
                    op_.hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutograd);
    if (!has_meta || on_host_) return false;
    for (const auto& returned : schema_.returns()) {
      auto kind = returned.type()->kind();
      if (kind != c10::TypeKind::TensorType && kind != c10::TypeKind::ListType) return false;
    }
    torch::jit::Stack stack;
    for (auto value : arguments_) {
      map_tensors(value, [&](const Tensor& t) {
        if (!t.defined() || t.is_cpu()) return t;
        auto meta = as_meta(t);
        behind_[meta.unsafeGetTensorImpl()] = t;
        return meta;
      });
      if (value.isDevice()) value = c10::Device(c10::kMeta);
      if (value.isGenerator()) value = IValue();
      stack.push_back(value);
    }
    try {
      BelowAutograd below;
      op_.redispatchBoxed(c10::DispatchKeySet(DispatchKey::Meta), &stack);
    } catch (const std::exception&) {
      return false;
    }
    auto count = static_cast<std::ptrdiff_t>(schema_.returns().size());
    results_.assign(stack.end() - count, stack.end());
    return true;
  }

  bool results_known() {
    bool known = true;
    for (auto& value : results_)
      map_tensors(value, [&](const Tensor& t) {
        if (!t.defined()) return t;
        auto found = behind_.find(t.unsafeGetTensorImpl());
        // One that would be resized, or made on the host.
        if (found != behind_.end()) known &= found->second.sizes().equals(t.sizes());
        else known &= t.device().is_meta();
        return t;
      });
    return known;
  }

  void put() {
    std::vector<Tensor> fresh;  // by result, then by place in it; undefined if it is an argument
    std::vector<Access> accesses = accesses_of_arguments();
    for (auto& value : results_)
      map_tensors(value, [&](const Tensor& t) {
        fresh.emplace_back();
        if (!t.defined()) return t;
        auto found = behind_.find(t.unsafeGetTensorImpl());
        if (found != behind_.end()) return found->second;
        auto made = empty_like_meta(t);
        accesses.push_back(access_to(made, true));
        fresh.back() = as_cpu(made);
        return made;
      });
    auto stack = std::make_shared<torch::jit::Stack>(arguments_on_cpu());
    auto count = static_cast<std::ptrdiff_t>(schema_.returns().size());
    asyncdev::put(asyncdev::current_stream(), name(), std::move(accesses),
                  [op = op_, stack, fresh, count]() mutable {
                    BelowAutograd below;
                    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack.get());
                    std::size_t at = 0;
                    for (auto it = stack->end() - count; it != stack->end(); ++it)
                      map_tensors(*it, [&](const Tensor& t) {
                        auto& into = fresh[at++];
                        // What batch norm keeps for its backward, the CPU's leaves out in evaluation.
                        if (into.defined() && t.numel() > 0) into.copy_(t);
                        return t;
                      });
                    stack->clear();
                  });
    give_results();
  }

  void run_now() {
    auto on = asyncdev::current_stream();
    std::unordered_map<void*, Tensor> arguments;
    auto accesses = accesses_of_arguments();
    asyncdev::log().note({"work", on, name(), accesses, -1, -1});
    asyncdev::host_waits_for_stream(on);
    torch::jit::Stack stack;
    for (auto value : arguments_) {
      map_tensors(value, [&](const Tensor& t) {
        if (!t.defined() || t.is_cpu()) return t;
        auto on_cpu = as_cpu(t);
        arguments[on_cpu.unsafeGetTensorImpl()] = t;
        return on_cpu;
      });
      if (value.isDevice()) value = c10::Device(c10::kCPU);
      stack.push_back(value);
    }
    op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
    auto count = static_cast<std::ptrdiff_t>(schema_.returns().size());
    results_.assign(stack.end() - count, stack.end());
    for (auto& value : results_)
      map_tensors(value, [&](const Tensor& t) -> Tensor {
        if (!t.defined()) return t;
        auto found = arguments.find(t.unsafeGetTensorImpl());
        if (found == arguments.end()) return moved(t);
        if (!found->second.sizes().equals(t.sizes())) resized(found->second, t);
        return found->second;
      });
    give_results();
  }

  static Tensor moved(const Tensor& t) {
    auto made = empty_like_meta(t);
    asyncdev::host_waits_for_stream(asyncdev::current_stream());
    if (t.numel() > 0) as_cpu(made).copy_(t);
    return made;
  }
  static void resized(Tensor& t, const Tensor& on_cpu) {
    // The CPU kernel has given it memory of the host's own.
    t.resize_(on_cpu.sizes());
    asyncdev::host_waits_for_stream(asyncdev::current_stream());
    as_cpu(t).copy_(on_cpu);
  }

  std::vector<Access> accesses_of_arguments() {
    std::vector<Access> accesses;
    for (std::size_t i = 0; i < arguments_.size(); ++i) {
      const auto* alias = schema_.arguments()[i].alias_info();
      bool writes = alias != nullptr && alias->isWrite();
      map_tensors(arguments_[i], [&](const Tensor& t) {
        if (t.defined() && !t.is_cpu() && t.storage().nbytes() > 0)
          accesses.push_back(access_to(t, writes));
        return t;
      });
    }
    return accesses;
  }

  torch::jit::Stack arguments_on_cpu() {
    torch::jit::Stack stack;
    for (auto value : arguments_) {
      map_tensors(value, as_cpu);
      if (value.isDevice()) value = c10::Device(c10::kCPU);
      stack.push_back(value);
    }
    return stack;
  }

  void give_results() {
    stack_->erase(stack_->end() - static_cast<std::ptrdiff_t>(arguments_.size()), stack_->end());
    for (auto& value : results_) stack_->push_back(value);
  }

  const c10::OperatorHandle& op_;
  torch::jit::Stack* stack_;
  const c10::FunctionSchema& schema_;
  std::vector<IValue> arguments_, results_;
  std::unordered_map<void*, Tensor> behind_;  // what a meta tensor stands for
  bool on_host_ = false;
};

void any_op(const c10::OperatorHandle& op, torch::jit::Stack* stack) { Call(op, stack).run(); }

// ---------------------------------------------------------------------------------------------
// Copies. Those across the link keep its rate, one after the other in each direction.

struct Link {
  std::mutex mutex;
  double bytes_per_us[2] = {1e6, 1e6};
  double latency_us = 0.0;
  asyncdev::Clock::time_point free_at[2];

  // Copying the bytes is part of what the link takes, which has begun by then.
  void hold(bool to_host, std::size_t n, asyncdev::Clock::time_point began) {
    using Microseconds = std::chrono::duration<double, std::micro>;
    asyncdev::Clock::time_point due;
    {
      std::lock_guard<std::mutex> held(mutex);
      auto took = Microseconds(latency_us + static_cast<double>(n) / bytes_per_us[to_host]);
      auto from = std::max(free_at[to_host], began);
      due = from + std::chrono::duration_cast<asyncdev::Clock::duration>(took);
      free_at[to_host] = due;
    }
    std::this_thread::sleep_until(due);
  }
};
Link& link() {
  static auto* it = new Link;
  return *it;
}

Tensor copy_from(const Tensor& self, const Tensor& dst, bool non_blocking) {
  bool crosses = self.is_cpu() != dst.is_cpu(), to_host = dst.is_cpu();
  auto on = asyncdev::current_stream();
  auto from = bytes_of(self), to = bytes_of(dst);
  std::string name = !crosses ? "copy" : to_host ? "copy to host" : "copy to device";
  std::vector<Access> accesses{access_to(self, false), access_to(dst, true)};
  auto bytes = from.nbytes();
  auto work = [from, to, bytes, crosses, to_host]() mutable {
    BelowAutograd below;
    auto began = asyncdev::Clock::now();
    to.copy_(from);
    if (crosses) link().hold(to_host, bytes, began);
  };
  const auto& host = to_host ? dst : self;
  bool pinned = !crosses || asyncdev::pinned().has(host.storage().data());
  if (!crosses || (non_blocking && pinned)) {
    asyncdev::put(on, name, accesses, work);
  } else if (non_blocking && !to_host) {
    // Memory that is not pinned is staged before the call returns.
    BelowAutograd below;
    from = self.clone();
    asyncdev::put(on, name, {accesses[1]}, [from, to, bytes]() mutable {
      BelowAutograd inner;
      auto began = asyncdev::Clock::now();
      to.copy_(from);
      link().hold(false, bytes, began);
    });
  } else {
    asyncdev::put(on, name, accesses, work);
    asyncdev::host_waits_for_stream(on);
  }
  return dst;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& dst) {
  dst.resize_(self.sizes());
  return copy_from(self, dst, false);
}

at::Scalar local_scalar(const Tensor& t) {
  asyncdev::log().note({"work", asyncdev::current_stream(), "item", {access_to(t, false)}, -1, -1});
  asyncdev::host_waits_for_stream(asyncdev::current_stream());
  return at::native::_local_scalar_dense_cpu(as_cpu(t));
}

// ---------------------------------------------------------------------------------------------
// Ops that torch has other ideas about: convolutions, and factories without tensor arguments.

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                   Sizes stride, Sizes padding, Sizes dilation, bool transposed, Sizes output_padding,
                   std::int64_t groups) {
  BelowAutograd below;
  auto shape = at::convolution(as_meta(input), as_meta(weight), std::nullopt, stride, padding, dilation,
                               transposed, output_padding, groups);
  auto out = empty(shape.sizes(), input.scalar_type(), {}, {}, {}, {});
  std::vector<Access> accesses{access_to(input, false), access_to(weight, false), access_to(out, true)};
  std::optional<Tensor> added;
  if (bias && bias->defined()) {
    accesses.push_back(access_to(*bias, false));
    added = as_cpu(*bias);
  }
  ++counts().ahead;
  asyncdev::put(asyncdev::current_stream(), "convolution", accesses,
                [x = as_cpu(input), w = as_cpu(weight), added, into = as_cpu(out), s = stride.vec(),
                 p = padding.vec(), d = dilation.vec(), transposed, o = output_padding.vec(),
                 groups]() mutable {
                  BelowAutograd inner;
                  into.copy_(at::convolution(x, w, added, s, p, d, transposed, o, groups));
                });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight, Sizes stride, Sizes padding,
    Sizes dilation, bool transposed, Sizes output_padding, std::int64_t groups,
    std::array<bool, 3> wanted) {
  auto channels = grad.size(1);
  std::array<Tensor, 3> made, into;
  if (wanted[0]) made[0] = empty(input.sizes(), input.scalar_type(), {}, {}, {}, {});
  if (wanted[1]) made[1] = empty(weight.sizes(), weight.scalar_type(), {}, {}, {}, {});
  if (wanted[2]) made[2] = empty({channels}, grad.scalar_type(), {}, {}, {}, {});
  std::vector<Access> accesses{access_to(grad, false), access_to(input, false), access_to(weight, false)};
  for (int k = 0; k < 3; ++k) {
    if (wanted[k]) accesses.push_back(access_to(made[k], true));
    into[k] = as_cpu(made[k]);
  }
  ++counts().ahead;
  asyncdev::put(asyncdev::current_stream(), "convolution_backward", accesses,
                [g = as_cpu(grad), x = as_cpu(input), w = as_cpu(weight), into, s = stride.vec(),
                 p = padding.vec(), d = dilation.vec(), transposed, o = output_padding.vec(), groups,
                 wanted, channels]() mutable {
                  BelowAutograd inner;
                  std::vector<std::int64_t> bias{channels};
                  auto found = at::convolution_backward(g, x, w, at::OptionalIntArrayRef(bias), s, p, d,
                                                        transposed, o, groups, wanted);
                  std::array<Tensor, 3> parts{std::get<0>(found), std::get<1>(found), std::get<2>(found)};
                  for (int k = 0; k < 3; ++k)
                    if (into[k].defined()) into[k].copy_(parts[k]);
                });
  return {made[0], made[1], made[2]};
}

std::tuple<Tensor, Tensor> native_dropout(const Tensor& input, double p, std::optional<bool> train) {
  auto out = empty_like_meta(input);
  auto mask = empty_strided(input.sizes(), input.strides(), at::kBool, {}, {}, {});
  bool drops = train.value_or(true);
  auto generator = seeded_for_op(std::nullopt);
  std::vector<Access> accesses{access_to(input, false), access_to(out, true), access_to(mask, true)};
  ++counts().ahead;
  asyncdev::put(asyncdev::current_stream(), "native_dropout", accesses,
                [x = as_cpu(input), into = as_cpu(out), kept = as_cpu(mask), p, drops, generator]() mutable {
                  BelowAutograd inner;
                  kept.bernoulli_(drops ? 1 - p : 1.0, generator);
                  into.copy_(x.mul(kept).mul_(drops && p < 1 ? 1 / (1 - p) : 1.0));
                });
  return {out, mask};
}

Tensor& arange_out(const at::Scalar& begin, const at::Scalar& end, const at::Scalar& step, Tensor& out) {
  auto on_host = at::arange(begin, end, step, out.options().device(c10::kCPU));
  out.resize_(on_host.sizes());
  copy_from(on_host, out, true);
  return out;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&any_op>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", [](const Tensor& self, Sizes size, Sizes stride, std::optional<std::int64_t> offset) {
    return at::native::as_strided_tensorimpl(self, size, stride, offset);
  });
  m.impl("view", [](const Tensor& self, Sizes size) { return at::native::view(self, size); });
  m.impl("view.dtype", [](const Tensor& self, at::ScalarType dtype) { return at::native::view_dtype(self, dtype); });
  m.impl("unfold", [](const Tensor& self, std::int64_t dim, std::int64_t size, std::int64_t step) {
    return at::native::unfold(self, dim, size, step);
  });
  m.impl("view_as_real", [](const Tensor& self) { return at::native::view_as_real(self); });
  m.impl("view_as_complex", [](const Tensor& self) { return at::native::view_as_complex(self); });
  m.impl("_reshape_alias", [](const Tensor& self, Sizes size, Sizes stride) {
    return at::native::_reshape_alias(self, size, stride);
  });
  m.impl("resize_", [](const Tensor& self, Sizes size, std::optional<at::MemoryFormat> format) -> const Tensor& {
    return at::native::resize_(self, size, format);
  });
  m.impl("set_.source_Storage", [](Tensor& self, c10::Storage source) -> Tensor& {
    return at::native::set_(self, source);
  });
  m.impl("set_.source_Storage_storage_offset",
         [](Tensor& self, c10::Storage source, std::int64_t offset, Sizes size, Sizes stride) -> Tensor& {
           return at::native::set_storage_meta__symint(self, source, offset, c10::fromIntArrayRefSlow(size),
                                                       c10::fromIntArrayRefSlow(stride));
         });
  m.impl("set_.source_Tensor", [](Tensor& self, const Tensor& source) -> Tensor& {
    return at::native::set_tensor_(self, source);
  });
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("native_dropout", native_dropout);
  m.impl("arange.start_out", arange_out);
}

// ---------------------------------------------------------------------------------------------
// What the tests set and ask.

pybind11::list entries() {
  pybind11::list made;
  for (const auto& e : asyncdev::log().entries()) {
    pybind11::list accesses;
    for (const auto& a : e.accesses) accesses.append(pybind11::make_tuple(a.address, a.size_bytes, a.writes));
    made.append(pybind11::make_tuple(e.kind, e.stream, e.name, accesses, e.event, e.version));
  }
  return made;
}

pybind11::list spans() {
  using Microseconds = std::chrono::duration<double, std::micro>;
  pybind11::list made;
  for (const auto& s : asyncdev::log().spans())
    made.append(pybind11::make_tuple(s.entry, Microseconds(s.began.time_since_epoch()).count(),
                                     Microseconds(s.ended.time_since_epoch()).count()));
  return made;
}

void set_link(double d2h_bytes_per_us, double h2d_bytes_per_us, double latency_us) {
  std::lock_guard<std::mutex> hold(link().mutex);
  link().bytes_per_us[1] = d2h_bytes_per_us;
  link().bytes_per_us[0] = h2d_bytes_per_us;
  link().latency_us = latency_us;
}

}  // namespace

PYBIND11_MODULE(asyncdev, m) {
  c10::SetAllocator(kType, &asyncdev::memory());
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  using Unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;
  m.attr("DEVICES") = asyncdev::kDevices;
  m.def("collectives", &asyncdev::collectives);
  m.def("set_link", &set_link);
  m.def("set_delays", [](std::uint64_t seed, double most_us) { asyncdev::delays().set(seed, most_us); });
  m.def("set_total", [](std::size_t bytes) { asyncdev::memory().set_total(bytes); });
  m.def("set_capacity", [](std::size_t bytes) { asyncdev::memory().set_capacity(bytes); });
  m.def("set_page", [](std::size_t bytes) { asyncdev::memory().set_page(bytes); });
  m.def("total_bytes", [] { return asyncdev::memory().total(); });
  m.def("log", [](bool on) { asyncdev::log().turn(on); }, Unlocked());
  m.def("entries", &entries);
  m.def("spans", &spans);
  m.def("counts", [] {
    std::lock_guard<std::mutex> hold(counts().mutex);
    return std::make_tuple(counts().ahead.load(), counts().waited.load(), counts().waited_by_name);
  });
  m.def("default_generator", [](c10::DeviceIndex index) {
    return pybind11::reinterpret_steal<pybind11::object>(THPGenerator_initDefaultGenerator(default_generator(index)));
  });
}

// Collectives among processes: gloo's, on the device's bytes, put on a stream of their own.
//
// As with NCCL the host does not wait: they begin when the current stream has done what it was given
// before, and whoever waits for their result has the stream wait that is current there.
#pragma once

#include <ATen/core/ivalue.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "memory.h"
#include "streams.h"
#include "tensors.h"

namespace asyncdev {

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

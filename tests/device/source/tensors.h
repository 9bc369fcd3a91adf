// Tensors of the asynchronous device as CPU kernels see them, and as meta kernels do.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/core/TensorBody.h>

#include "streams.h"

namespace asyncdev {

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

#include "core/device.h"

#include "core/guard.h"

namespace qwen2 {

Device::Device(std::string name, const DeviceApi* api, const DeviceOptions& options)
    : name_(std::move(name)), api_(api) {
  call(api_->open, &options, &handle_);
}

Device::~Device() {
  trim_staging();
  api_->close(handle_);
}

DeviceDescription Device::describe() const {
  DeviceDescription description{};
  api_->describe(handle_, &description);
  return description;
}

void* Device::take_staging(uint64_t bytes) {
  {
    const std::lock_guard lock(staging_mutex_);
    std::vector<void*>& kept = staging_[bytes];
    if (!kept.empty()) {
      void* memory = kept.back();
      kept.pop_back();
      return memory;
    }
  }
  void* memory = nullptr;
  call(api_->allocate_staging, handle_, bytes, &memory);
  return memory;
}

void Device::give_staging(void* memory, uint64_t bytes) {
  const std::lock_guard lock(staging_mutex_);
  staging_[bytes].push_back(memory);
}

void Device::trim_staging() {
  const std::lock_guard lock(staging_mutex_);
  for (auto& [bytes, kept] : staging_)
    for (void* memory : kept) api_->release_staging(handle_, memory);
  staging_.clear();
}

Storage::Storage(std::shared_ptr<Device> device, uint64_t bytes) : device_(std::move(device)), bytes_(bytes) {
  call(device_->api().allocate, device_->handle(), bytes_, &data_);
  device_->allocated_ += bytes_;
}

Storage::~Storage() {
  device_->allocated_ -= bytes_;
  device_->api().release(device_->handle(), data_, bytes_);
}

}  // namespace qwen2

#include "core/device.h"

#include "core/guard.h"

namespace qwen2 {

Device::Device(std::string name, const DeviceApi* api, const DeviceOptions& options)
    : name_(std::move(name)), api_(api) {
  call(api_->open, &options, &handle_);
}

Device::~Device() { api_->close(handle_); }

DeviceDescription Device::describe() const {
  DeviceDescription description{};
  api_->describe(handle_, &description);
  return description;
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

// A device and the memory on it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/device_api.h"

namespace qwen2 {

class Device : public std::enable_shared_from_this<Device> {
 public:
  // `name` is how users ask for it: "cpu", "reference", "cuda:0".
  Device(std::string name, const DeviceApi* api, const DeviceOptions& options);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& name() const { return name_; }
  const DeviceApi& api() const { return *api_; }
  void* handle() const { return handle_; }
  DeviceDescription describe() const;
  // Bytes of all storages that are alive.
  uint64_t allocated_bytes() const { return allocated_; }

  // Staging memory for uploads of so many bytes; whoever takes it gives it back. Kept until trim_staging, because
  // pinning memory takes milliseconds. Any thread may call these.
  void* take_staging(uint64_t bytes);
  void give_staging(void* memory, uint64_t bytes);
  void trim_staging();

 private:
  friend class Storage;
  std::string name_;
  const DeviceApi* api_;
  void* handle_ = nullptr;
  std::atomic<uint64_t> allocated_{0};
  std::mutex staging_mutex_;
  std::map<uint64_t, std::vector<void*>> staging_;  // by size
};

// A piece of device memory, freed when the last of its users lets go: its owner, or work that is still queued.
class Storage {
 public:
  Storage(std::shared_ptr<Device> device, uint64_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  const std::shared_ptr<Device>& device() const { return device_; }

 private:
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  uint64_t bytes_;
};

}  // namespace qwen2

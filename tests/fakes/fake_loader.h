// Loads that happen when a test says so: held work, injected faults.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "adapters/adapter_pool.h"
#include "tests/fakes/fake_device.h"

namespace lorica::fakes {

// Makes fake images, or the error that is set for a digest. One thread, or set up before.
class FakeImageLoader : public ImageLoader {
 public:
  absl::flat_hash_map<std::string, absl::Status> errors;
  absl::Status next_error;  // of the next load alone
  int load_count = 0;

  absl::StatusOr<std::shared_ptr<const LoraImage>> LoadImage(
      const Generation& generation) override {
    ++load_count;
    absl::Status once = std::exchange(next_error, absl::OkStatus());
    if (!once.ok()) return once;
    auto error = errors.find(generation.digest);
    if (error != errors.end()) return error->second;
    return MakeFakeImage(generation);
  }
};

// Keeps work until RunAll or RunOne.
class HeldExecutor : public LoaderExecutor {
 public:
  void Run(std::function<void()> work) override { works_.push_back(std::move(work)); }
  int held() const { return static_cast<int>(works_.size()); }
  void RunOne(size_t index = 0) {
    std::function<void()> work = std::move(works_.at(index));
    works_.erase(works_.begin() + index);
    work();
  }
  void RunAll() {
    while (!works_.empty()) RunOne();
  }

 private:
  std::deque<std::function<void()>> works_;
};

}  // namespace lorica::fakes

// A hub in this process, a disk tier and what brings adapters from the one to the other.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "adapters/hub/hub_source.h"
#include "adapters/remote_adapters.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {

using Result = absl::StatusOr<GenerationPtr>;

inline constexpr int64_t kBlockBytes = 128 << 10;
inline constexpr int kDownloads = 4;
inline constexpr char kConfig[] = "adapter_config.json";
inline constexpr char kWeights[] = "adapter_model.safetensors";

inline FakeHub::Files FilesOf(const MadeAdapter& adapter) {
  return {{kConfig, adapter.ConfigText()}, {kWeights, adapter.WeightsText()}};
}

inline int64_t BytesOf(const FakeHub::Files& files) {
  int64_t bytes = 0;
  for (const auto& [name, text] : files) bytes += std::ssize(text);
  return bytes;
}

class RemoteAdaptersTest : public ::testing::Test {
 protected:
  RemoteAdaptersTest() {
    hub_options_.endpoint = hub_.endpoint();
    hub_options_.redirect_hosts = {hub_.cdn_place()};
    hub_options_.retry.pause_min = hub_options_.retry.pause_max = absl::Milliseconds(1);
    hub_options_.http.stopped = &stopped_;
    options_.allow = {"org/*"};
    options_.clock = [this] { return now_; };
    commit_ = hub_.Commit("org/a", files_);
  }
  ~RemoteAdaptersTest() override { Stop(); }

  // As a server starts and ends.
  void Start() { StartWith(loader_); }
  void StartWith(const PeftLoader& loader) {
    Stop();
    stopped_ = false;
    disk_ = *DiskTier::Open(folder_.path() + "/disk", disk_bytes_);
    source_ = *MakeHubSource(hub_options_);
    if (with_cache_) cache_ = *HfCache::Open(folder_.path() + "/hf");
    here_ = MakeLoaderThreads(1);
    downloads_ = MakeLoaderThreads(kDownloads);
    refreshes_ = MakeLoaderThreads(1);
    adapters_ = std::make_unique<RemoteAdapters>(
        options_, source_.get(), cache_.get(), disk_.get(), &loader,
        RemoteThreads{here_.get(), downloads_.get(), refreshes_.get()}, &stopped_);
  }
  void Stop() {
    adapters_ = nullptr;
    for (auto* threads : {&here_, &downloads_, &refreshes_}) threads->reset();
    disk_ = nullptr;
  }
  // The next look at weights tells that it has begun, and goes on when it is told.
  void HoldNextLook(absl::Notification& looking, absl::Notification& go_on) {
    hub_.AddFault({.target_part = kWeights, .method = "HEAD", .before = [&] {
                     looking.Notify();
                     go_on.WaitForNotification();
                   }});
  }
  Result Get(const RemoteName& name) {
    if (adapters_ == nullptr) Start();
    auto found = adapters_->Find(name);
    if (!found.ok()) return found.status();
    if (found->ticket == nullptr) return found->generation;
    Result result = GenerationPtr();
    absl::Notification done;
    found->ticket->WhenDone([&](const Result& got) {
      result = got;
      done.Notify();
    });
    done.WaitForNotification();
    return result;
  }
  Result Get(const std::string& repo, const std::string& revision = kDefaultRevision) {
    return Get(RemoteName{repo, revision});
  }
  std::string LocalDigest(const MadeAdapter& adapter) {
    adapter.WriteTo(folder_, "local/x");
    std::shared_ptr<Source> source = *MakeLocalSource(folder_.path() + "/local");
    return (*loader_.Identify(source, "x"))->digest;
  }
  int Downloads() const { return hub_.CountOf("/blobs/", "GET"); }

  TemporaryFolder folder_;
  FakeHub hub_;
  LittleModel model_;
  FakeBackend backend_;
  PeftLoader loader_{model_.targets(), &backend_, kBlockBytes};
  FakeHub::Files files_ = FilesOf(SmallestAdapter());
  std::string commit_;
  HubOptions hub_options_;
  RemoteOptions options_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::atomic<bool> stopped_ = false;
  int64_t disk_bytes_ = 100 << 20;
  bool with_cache_ = false;
  std::unique_ptr<DiskTier> disk_;
  std::unique_ptr<RemoteSource> source_;
  std::unique_ptr<HfCache> cache_;
  std::unique_ptr<LoaderExecutor> here_;
  std::unique_ptr<LoaderExecutor> downloads_;
  std::unique_ptr<LoaderExecutor> refreshes_;
  std::unique_ptr<RemoteAdapters> adapters_;
};

}  // namespace lorica

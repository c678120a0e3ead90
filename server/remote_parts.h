// Everything that brings adapters from elsewhere, put together as the flags say.
//
// Owned by the server. The catalog and whatever waits for a fetch point into it: Stop ends
// all fetches before any of those goes.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/disk_tier.h"
#include "adapters/hub/hf_cache.h"
#include "adapters/hub/remote_source.h"
#include "adapters/remote_adapters.h"
#include "server/config.h"

namespace lorica {

class RemoteParts {
 public:
  // Whether anything may be fetched at all.
  static bool Wanted(const Config& config);
  // REQUIRES: Wanted, and --data-dir is given. The loader outlives it.
  static absl::StatusOr<std::unique_ptr<RemoteParts>> Build(const Config& config,
                                                            const PeftLoader* loader);
  RemoteAdapters* adapters() const { return adapters_.get(); }
  void Stop() { adapters_->Stop(); }

 private:
  absl::Status AddObjectSources(const Config& config);

  std::atomic<bool> stopped_{false};
  std::unique_ptr<RemoteSource> hub_;
  std::unique_ptr<RemoteSource> s3_;
  std::unique_ptr<RemoteSource> mirror_;
  std::unique_ptr<HfCache> cache_;
  std::unique_ptr<DiskTier> disk_;
  std::unique_ptr<LoaderExecutor> here_threads_;
  std::unique_ptr<LoaderExecutor> download_threads_;
  std::unique_ptr<LoaderExecutor> refresh_threads_;
  std::unique_ptr<RemoteAdapters> adapters_;
};

// What requests call the base: --model-name, or the repository that --model names, whose folder
// here is called by a commit. Empty: what its files say.
std::string BaseNameOf(const Config& config);
// Where --model is on this machine: it itself, or the folder that it was fetched into when it is
// the name of a repository. FailedPrecondition: that needs --data-dir.
absl::StatusOr<std::string> BringBaseModel(const Config& config);

// The parts of a flag that takes a list: "a,b" without blanks and empty ones.
std::vector<std::string> SplitList(const std::string& text);

}  // namespace lorica

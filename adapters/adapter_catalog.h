// Names to generations: registered names first, then folders beneath the root.
//
// Resolve is what every request calls: a registered name or a folder's own name
// becomes the generation that its content is now. Digests are kept by file stamp, so
// an unchanged folder costs two stats; changed content becomes a new generation and
// whoever holds the old one keeps it. Names are per tenant; today there is one,
// "default". In memory until the registry makes registrations durable. Thread-safe;
// Resolve may read and hash files, so it never runs on a transport's event thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "adapters/peft_loader.h"

namespace lorica {

inline constexpr int kCatalogNamesMax = 1'000'000;

struct CatalogEntry {
  std::string adapter_id;
  std::string location;
  bool registered = false;
  GenerationPtr generation;  // null while nobody has looked at the content
  absl::Status error;        // of the last look
};

class AdapterCatalog {
 public:
  AdapterCatalog(std::shared_ptr<Source> root, const PeftLoader* loader, std::string base_name);

  // NotFound: neither registered nor a folder. FailedPrecondition: not servable.
  // InvalidArgument: grammar. The base model's own name and "" are not resolved here.
  absl::StatusOr<GenerationPtr> Resolve(const std::string& tenant, const std::string& adapter_id);

  struct RegisterOptions {
    std::string location;             // empty = adapter_id
    bool replace = false;
    std::string expected_generation;  // empty = none
  };
  struct Registered {
    GenerationPtr generation;
    bool created = false;
  };
  // AlreadyExists: other content, or an id that differs only by case.
  // Aborted: stale expected_generation.
  absl::StatusOr<Registered> Register(const std::string& tenant, const std::string& adapter_id,
                                      const RegisterOptions& options);
  absl::Status Delete(const std::string& tenant, const std::string& adapter_id);
  absl::StatusOr<CatalogEntry> Get(const std::string& tenant, const std::string& adapter_id);
  // Sorted by id, strictly after `after`, only ids with `prefix`. Does not hash.
  absl::StatusOr<std::vector<CatalogEntry>> List(const std::string& tenant,
                                                 const std::string& prefix,
                                                 const std::string& after, int limit);
  absl::StatusOr<AdapterPlan> Check(const std::string& tenant, const std::string& location_or_id);

 private:
  struct Name;
  const std::shared_ptr<Source> root_;
  const PeftLoader* const loader_;
  const std::string base_name_;
  mutable absl::Mutex mutex_;
};

}  // namespace lorica

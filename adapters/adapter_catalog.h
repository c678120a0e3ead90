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
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "adapters/generation_cache.h"
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
  // "id@revision" asks for one generation: the revision is the beginning (8 digits at
  // least) of the digest that the content must have; NotFound when it has another.
  absl::StatusOr<GenerationPtr> Resolve(const std::string& tenant, const std::string& adapter_id);

  struct RegisterOptions {
    std::string location;  // empty = adapter_id
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
  // The name is unknown from then on, also where a folder has that name, until it is
  // registered again. NotFound: it was unknown before.
  absl::Status Delete(const std::string& tenant, const std::string& adapter_id);
  // Looks at the content, like Resolve; what is wrong with it is the entry's error.
  absl::StatusOr<CatalogEntry> Get(const std::string& tenant, const std::string& adapter_id);
  // Sorted by id, strictly after `after`, only ids with `prefix`. Does not hash.
  absl::StatusOr<std::vector<CatalogEntry>> List(const std::string& tenant,
                                                 const std::string& prefix,
                                                 const std::string& after, int limit);
  absl::StatusOr<AdapterPlan> Check(const std::string& tenant, const std::string& location_or_id);

 private:
  using NameKey = std::pair<std::string, std::string>;  // tenant, adapter id
  struct Place {
    std::string location;
    bool registered = false;
  };

  std::optional<Place> PlaceOf(const NameKey& key) const;  // nullopt: hidden
  absl::Status CheckCase(const NameKey& key) const;
  absl::Status CheckMove(const NameKey& key, const Generation& wanted,
                         const RegisterOptions& options);
  static absl::Status Full();
  static CatalogEntry EntryOf(const std::string& id, const Place& place,
                              absl::StatusOr<GenerationPtr> looked);

  const std::shared_ptr<Source> root_;
  const PeftLoader* const loader_;
  const std::string base_name_;
  GenerationCache cache_;
  absl::Mutex change_mutex_;  // one Register or Delete at a time; taken before mutex_
  mutable absl::Mutex mutex_;
  absl::btree_map<NameKey, std::string> registered_ ABSL_GUARDED_BY(mutex_);  // to location
  absl::btree_map<NameKey, std::string> lower_ ABSL_GUARDED_BY(mutex_);       // lower case to id
  absl::btree_set<NameKey> hidden_ ABSL_GUARDED_BY(mutex_);  // folders' names, deleted
};

}  // namespace lorica

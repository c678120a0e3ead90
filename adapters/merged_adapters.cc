#include "adapters/merged_adapters.h"

#include <utility>

#include "absl/status/status.h"
#include "adapters/adapter_fault.h"
#include "adapters/hub/retry_delay.h"

namespace lorica {
namespace {

constexpr absl::Duration kBusyDelay = absl::Seconds(2);
constexpr char kMergedLocation[] = "merge";

absl::Status Stopping() { return absl::UnavailableError("the server is shutting down"); }

}  // namespace

// A merge some of whose parts are being fetched.
struct MergedAdapters::Gathering {
  absl::Mutex mutex;
  MergeRecipe recipe ABSL_GUARDED_BY(mutex);
  int missing ABSL_GUARDED_BY(mutex) = 0;
  absl::Status error ABSL_GUARDED_BY(mutex);
  const std::shared_ptr<FetchTicket> ticket = std::make_shared<FetchTicket>();
};

MergedAdapters::MergedAdapters(MergeLimits limits, const PeftLoader* loader,
                               LoaderExecutor* executor)
    : limits_(std::move(limits)),
      loader_(loader),
      executor_(executor),
      failures_(limits_.failures_max, limits_.failure_ttl, /*seed=*/1) {}

MergedAdapters::~MergedAdapters() { Stop(); }

void MergedAdapters::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  mutex_.Await(absl::Condition(
      +[](int* running) { return *running == 0; }, &running_));
}

absl::StatusOr<FoundAdapter> MergedAdapters::Find(const MergeRule& rule,
                                                  const std::vector<Part>& parts) {
  auto gathering = std::make_shared<Gathering>();
  MergeRecipe recipe{rule, {}};
  int missing = 0;
  for (const Part& part : parts) {
    recipe.parts.push_back({part.adapter.generation, part.weight});
    missing += part.adapter.ticket != nullptr;
  }
  if (absl::Status s = CheckMergeRecipe(recipe); !s.ok()) return s;
  if (missing == 0) return FindHere(recipe);
  {
    absl::MutexLock lock(&gathering->mutex);
    gathering->recipe = std::move(recipe);
    gathering->missing = missing;
  }
  return Gather(gathering, parts);
}

FoundAdapter MergedAdapters::Gather(const std::shared_ptr<Gathering>& gathering,
                                    const std::vector<Part>& parts) {
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].adapter.ticket == nullptr) continue;
    parts[i].adapter.ticket->WhenDone(
        [this, gathering, i](const absl::StatusOr<GenerationPtr>& fetched) {
          {
            absl::MutexLock lock(&gathering->mutex);
            gathering->error.Update(fetched.status());
            if (fetched.ok()) gathering->recipe.parts[i].generation = *fetched;
            if (--gathering->missing > 0) return;
          }
          Gathered(gathering);
        });
  }
  return FoundAdapter{nullptr, gathering->ticket};
}

// On the thread that fetched the last part: nothing here blocks.
void MergedAdapters::Gathered(const std::shared_ptr<Gathering>& gathering) {
  const std::shared_ptr<FetchTicket>& ticket = gathering->ticket;
  absl::StatusOr<FoundAdapter> found = [&]() -> absl::StatusOr<FoundAdapter> {
    absl::MutexLock lock(&gathering->mutex);
    if (!gathering->error.ok()) return gathering->error;
    return FindHere(gathering->recipe);
  }();
  if (!found.ok()) return ticket->End(found.status());
  if (found->ticket == nullptr) return ticket->End(found->generation);
  found->ticket->WhenDone(
      [ticket](const absl::StatusOr<GenerationPtr>& merged) { ticket->End(merged); });
}

absl::StatusOr<FoundAdapter> MergedAdapters::FindHere(const MergeRecipe& recipe) {
  const std::string key = MergeKey(recipe);
  FoundAdapter found;
  absl::MutexLock lock(&mutex_);
  if (const auto known = known_.find(key); known != known_.end()) {
    found.generation = known->second.lock();
    if (found.generation != nullptr) return found;
  }
  if (const auto merge = under_way_.find(key); merge != under_way_.end()) {
    found.ticket = merge->second;
    return found;
  }
  const absl::Time now = limits_.clock();
  failures_.Forget(now);
  if (absl::Status failed = failures_.Find(key, now); !failed.ok()) return failed;
  if (stopping_) return Stopping();
  if (running_ >= limits_.running_max) {
    return UnavailableFor("too many adapters are being merged", kBusyDelay);
  }
  found.ticket = under_way_[key] = std::make_shared<FetchTicket>();
  ++running_;
  executor_->Run([this, recipe, key] { Run(recipe, key); });
  return found;
}

void MergedAdapters::Run(const MergeRecipe& recipe, const std::string& key) {
  absl::StatusOr<GenerationPtr> result = Stopping();
  const bool stopping = [this] {
    absl::MutexLock lock(&mutex_);
    return stopping_;
  }();
  if (!stopping) {
    result = loader_->Identify(MakeMergedSource(loader_, recipe), kMergedLocation);
    if (!result.ok()) result = AdapterFault(result.status());
    made_.fetch_add(1, std::memory_order_relaxed);
  }
  std::shared_ptr<FetchTicket> ticket;
  {
    absl::MutexLock lock(&mutex_);
    ticket = under_way_.extract(key).mapped();
    Remember(key, result);
  }
  ticket->End(result);
  absl::MutexLock lock(&mutex_);
  --running_;  // from here on Stop may return
}

void MergedAdapters::Remember(const std::string& key, const absl::StatusOr<GenerationPtr>& result) {
  if (!result.ok()) {
    if (!stopping_) failures_.Remember(key, result.status(), limits_.clock());
    return;
  }
  if (std::ssize(known_) >= limits_.known_max) {
    absl::erase_if(known_, [](const auto& one) { return one.second.expired(); });
  }
  if (std::ssize(known_) >= limits_.known_max) known_.erase(known_.begin());
  known_[key] = *result;
}

int64_t MergedAdapters::under_way() const {
  absl::MutexLock lock(&mutex_);
  return std::ssize(under_way_);
}

int64_t MergedAdapters::known() const {
  absl::MutexLock lock(&mutex_);
  return std::ssize(known_);
}

}  // namespace lorica

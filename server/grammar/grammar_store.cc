#include "server/grammar/grammar_store.h"

#include <sys/resource.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "adapters/sha256.h"
#include "server/grammar/grammar_constraint.h"

namespace lorica {
namespace {

constexpr int64_t kEntryBytes = 1024;  // besides its grammar, about
constexpr int kCompileNiceness = 5;    // engines go first

// Also that of the children it starts.
void GiveWay() { setpriority(PRIO_PROCESS, 0, kCompileNiceness); }

std::string KeyOf(const ResponseFormat& format) {
  Sha256 hash;
  hash.Update(absl::StrCat(static_cast<int>(format.kind), "\n", format.text));
  return hash.Finish();
}

int CountOf(int mask_threads) {
  if (mask_threads > 0) return mask_threads;
  return MaskThreadsFor(static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

int MaskThreadsFor(int cores) { return std::clamp(cores / 2, 1, kMaskThreadsMax); }

struct GrammarStore::Entry {
  std::string key;
  std::string tenant;  // who was the first to want it
  bool finished = false;
  GrammarOr made = absl::UnknownError("not compiled yet");
  int64_t bytes = 0;
  std::vector<std::weak_ptr<GrammarConstraint>> waiting;
  std::list<EntryPtr>::iterator place;  // among those used, when finished
};

absl::StatusOr<std::unique_ptr<GrammarStore>> GrammarStore::Make(
    const GrammarVocabulary& vocabulary, std::string trial_program, GrammarLimits limits,
    int mask_threads) {
  auto shared = SharedVocabulary::Make(vocabulary);
  if (!shared.ok()) return shared.status();
  return std::unique_ptr<GrammarStore>(new GrammarStore(vocabulary, std::move(trial_program),
                                                        *std::move(shared), limits, mask_threads));
}

GrammarStore::GrammarStore(const GrammarVocabulary& vocabulary, std::string trial_program,
                           std::shared_ptr<const SharedVocabulary> shared_vocabulary,
                           GrammarLimits limits, int mask_threads)
    : limits_(limits),
      maker_(vocabulary),
      mask_threads_(std::make_shared<MaskThreads>(CountOf(mask_threads))) {
  for (int i = 0; i < kCompileThreads; ++i) {
    TrialBounds bounds = limits.trial;
    if (i + 1 < kCompileThreads) bounds.cpu = std::min(bounds.cpu, kShortCompileCpu);
    trials_.push_back(std::make_unique<GrammarTrial>(trial_program, shared_vocabulary, bounds));
  }
  compile_threads_ = std::make_unique<WorkThreads>(kCompileThreads);
}

GrammarStore::~GrammarStore() {
  compile_threads_->Stop();
  mask_threads_->Stop();
}

absl::StatusOr<std::shared_ptr<TokenConstraint>> GrammarStore::Constrain(
    const std::string& tenant, const ResponseFormat& format, std::function<void()> wake,
    Explain explain) {
  auto constraint = std::make_shared<GrammarConstraint>(mask_threads_, tenant, maker_.mask_words(),
                                                        limits_.mask_cpu, std::move(wake), explain);
  const absl::StatusOr<EntryPtr> finished = Join(tenant, format, constraint);
  if (!finished.ok()) return finished.status();
  if (*finished != nullptr) constraint->Begin((*finished)->made);
  return constraint;
}

absl::StatusOr<GrammarStore::EntryPtr> GrammarStore::Join(
    const std::string& tenant, const ResponseFormat& format,
    const std::shared_ptr<GrammarConstraint>& constraint) {
  const std::string key = KeyOf(format);
  absl::MutexLock lock(&mutex_);
  if (const auto found = entries_.find(key); found != entries_.end()) {
    const EntryPtr& entry = found->second;
    ++stats_.hits;
    if (entry->finished) {
      used_.splice(used_.begin(), used_, entry->place);
      return entry;
    }
    entry->waiting.push_back(constraint);
    return EntryPtr();
  }
  if (const absl::Status room = CheckRoom(tenant); !room.ok()) return room;
  ++stats_.misses;
  ++stats_.waiting;
  ++waiting_of_[tenant];
  auto entry = std::make_shared<Entry>();
  entry->key = key;
  entry->tenant = tenant;
  entry->waiting.push_back(constraint);
  entries_.emplace(key, entry);
  compile_threads_->Run(tenant,
                        [this, entry, format](int thread) { Compile(entry, format, thread); });
  return EntryPtr();
}

absl::Status GrammarStore::CheckRoom(const std::string& tenant) const {
  const auto own = waiting_of_.find(tenant);
  if (own != waiting_of_.end() && own->second >= limits_.tenant_compiles_waiting) {
    return absl::UnavailableError(absl::StrCat(limits_.tenant_compiles_waiting,
                                               " response formats of this tenant wait to be "
                                               "compiled"));
  }
  if (stats_.waiting < limits_.compiles_waiting) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(limits_.compiles_waiting, " response formats wait to be compiled"));
}

void GrammarStore::Leave(const EntryPtr& entry) {
  --stats_.waiting;
  const auto own = waiting_of_.find(entry->tenant);
  if (--own->second == 0) waiting_of_.erase(own);
}

bool GrammarStore::Dropped(const EntryPtr& entry) {
  absl::MutexLock lock(&mutex_);
  for (const auto& constraint : entry->waiting) {
    if (!constraint.expired()) return false;
  }
  Leave(entry);
  entries_.erase(entry->key);
  return true;
}

void GrammarStore::Compile(const EntryPtr& entry, const ResponseFormat& format, int thread) {
  if (Dropped(entry)) return;
  GiveWay();
  const absl::Time began = SteadyNow();
  GrammarOr made = TryAndMake(format, thread);
  const bool had_all =
      thread + 1 == compile_threads_->count() || limits_.trial.cpu <= kShortCompileCpu;
  if (absl::IsResourceExhausted(made.status()) && !had_all) {
    return compile_threads_->RunLong(
        entry->tenant, [this, entry, format](int last) { Compile(entry, format, last); });
  }
  std::vector<std::weak_ptr<GrammarConstraint>> waiting;
  {
    absl::MutexLock lock(&mutex_);
    waiting.swap(entry->waiting);
    Count(made.status());
    made = AsFault(std::move(made));
    Remember(entry, made, SteadyNow() - began);
  }
  for (const auto& waiter : waiting) {
    if (const auto constraint = waiter.lock()) constraint->Begin(made);
  }
}

GrammarStore::GrammarOr GrammarStore::TryAndMake(const ResponseFormat& format, int thread) {
  const absl::Status verdict = trials_[thread]->Try(format);
  if (!verdict.ok()) return verdict;
  return maker_.Make(format);
}

// What goes beyond the bounds is the client's fault.
GrammarStore::GrammarOr GrammarStore::AsFault(GrammarOr made) {
  if (!absl::IsResourceExhausted(made.status())) return made;
  return absl::InvalidArgumentError(made.status().message());
}

void GrammarStore::Remember(const EntryPtr& entry, GrammarOr made, absl::Duration took) {
  Leave(entry);
  stats_.compile_time += took;
  if (absl::IsUnavailable(made.status())) {  // not the format's fault
    entries_.erase(entry->key);
    return;
  }
  entry->finished = true;
  entry->bytes = kEntryBytes + (made.ok() ? (*made)->bytes() : 0);
  entry->made = std::move(made);
  used_.push_front(entry);
  entry->place = used_.begin();
  ++stats_.entries;
  stats_.bytes += entry->bytes;
  while (stats_.entries > limits_.entries || stats_.bytes > limits_.bytes) {
    const EntryPtr last = used_.back();
    used_.pop_back();
    entries_.erase(last->key);
    --stats_.entries;
    stats_.bytes -= last->bytes;
    ++stats_.evictions;
  }
}

void GrammarStore::Count(const absl::Status& outcome) {
  if (outcome.ok()) ++stats_.compiled;
  if (absl::IsInvalidArgument(outcome)) ++stats_.refused;
  if (absl::IsResourceExhausted(outcome)) ++stats_.exceeded;
}

GrammarStats GrammarStore::stats() const {
  absl::MutexLock lock(&mutex_);
  GrammarStats stats = stats_;
  const MaskThreads::Stats masks = mask_threads_->stats();
  stats.masks = masks.masks;
  stats.slow_masks = masks.slow;
  stats.mask_time = masks.time;
  return stats;
}

}  // namespace lorica

#include "server/api/pin_book.h"

#include <algorithm>
#include <vector>

#include "server/api/adapter_info.h"
#include "server/api/refusal_log.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

constexpr size_t kShownDigits = 12;

std::string Shown(const std::string& digest) { return digest.substr(0, kShownDigits); }

}  // namespace

PinBook::PinBook(AdapterCatalog* catalog, AdapterPool* pool)
    : catalog_(catalog), pool_(pool), thread_([this] { Loop(); }) {}

PinBook::~PinBook() {
  {
    absl::MutexLock lock(&names_->mutex);
    names_->stopping = true;
  }
  thread_.join();
}

void PinBook::Loop() {
  const std::shared_ptr<Names> names = names_;
  const auto some = [&names]() ABSL_SHARED_LOCKS_REQUIRED(names->mutex) {
    return names->stopping || !names->held.empty();
  };
  const auto stopping = [&names]()
                            ABSL_SHARED_LOCKS_REQUIRED(names->mutex) { return names->stopping; };
  while (true) {
    {
      absl::MutexLock lock(&names->mutex);
      names->mutex.Await(absl::Condition(&some));
      if (names->mutex.AwaitWithTimeout(absl::Condition(&stopping), kPinLookInterval)) return;
    }
    Follow();
  }
}

void PinBook::Pin(const Name& name, const GenerationPtr& generation, AdapterTier tier, Done done) {
  absl::MutexLock order(&order_);
  PinNow(name, generation, tier, std::move(done));
}

void PinBook::PinNow(const Name& name, const GenerationPtr& generation, AdapterTier tier,
                     Done done) {
  const Key key(name.tenant, name.adapter_id);
  const Held wanted{name.token, generation->digest, tier};
  std::optional<Held> before;
  bool left = false;
  {
    absl::MutexLock lock(&names_->mutex);
    if (const auto held = names_->held.find(key); held != names_->held.end()) {
      before = held->second;
    }
    names_->held[key] = wanted;
    left = before.has_value() && !names_->Holds(before->digest);
  }
  if (left) pool_->Unpin(before->digest, [](const absl::Status&) {});
  if (before.has_value() && before->digest != wanted.digest) before.reset();
  pool_->Pin(generation, tier,
             [names = names_, key, wanted, before, done = std::move(done)](absl::Status status) {
               if (!status.ok()) names->TakeBack(key, wanted, before);
               done(std::move(status));
             });
}

bool PinBook::Names::Holds(const std::string& digest) const {
  return std::any_of(held.begin(), held.end(),
                     [&digest](const auto& one) { return one.second.digest == digest; });
}

void PinBook::Names::TakeBack(const Key& key, const Held& failed,
                              const std::optional<Held>& before) {
  absl::MutexLock lock(&mutex);
  const auto found = held.find(key);
  if (found == held.end() || found->second.digest != failed.digest ||
      found->second.tier != failed.tier) {
    return;
  }
  if (before.has_value()) {
    found->second = *before;
  } else {
    held.erase(found);
  }
}

void PinBook::Unpin(const Name& name, const std::string& digest, Done done) {
  std::string of = digest;
  absl::MutexLock order(&order_);
  {
    absl::MutexLock lock(&names_->mutex);
    const auto held = names_->held.find({name.tenant, name.adapter_id});
    if (held != names_->held.end()) of = held->second.digest;
    std::erase_if(names_->held, [&of](const auto& one) { return one.second.digest == of; });
  }
  if (of.empty()) return done(absl::OkStatus());
  pool_->Unpin(of, std::move(done));
}

bool PinBook::Drop(const Key& key, const Held& held) {
  bool last = false;
  {
    absl::MutexLock lock(&names_->mutex);
    const auto found = names_->held.find(key);
    if (found == names_->held.end() || found->second.digest != held.digest) return false;
    names_->held.erase(found);
    last = !names_->Holds(held.digest);
  }
  if (last) pool_->Unpin(held.digest, [](const absl::Status&) {});
  return true;
}

void PinBook::Follow() {
  std::vector<std::pair<Key, Held>> held;
  {
    absl::MutexLock lock(&names_->mutex);
    held.assign(names_->held.begin(), names_->held.end());
  }
  std::erase_if(arrivals_, [&held](const auto& arrival) {
    return std::none_of(held.begin(), held.end(),
                        [&arrival](const auto& one) { return one.first == arrival.first; });
  });
  for (const auto& [key, one] : held) FollowOne(key, one);
}

void PinBook::FollowOne(const Key& key, const Held& held) {
  const auto entry = catalog_->Get(key.first, key.second, held.token);
  if (absl::IsNotFound(entry.status())) {
    absl::MutexLock order(&order_);
    if (Drop(key, held)) {
      spdlog::info("unpinned adapter={} generation={}: the name is gone", QuotedForLog(key.second),
                   Shown(held.digest));
    }
    return;
  }
  if (!entry.ok() || DigestOf(*entry).empty() || DigestOf(*entry) == held.digest) return;
  const GenerationPtr now = Look(key, held);
  if (now != nullptr && now->digest != held.digest) Move(key, held, now);
}

GenerationPtr PinBook::Look(const Key& key, const Held& held) {
  if (const auto arrival = arrivals_.find(key); arrival != arrivals_.end()) {
    const std::shared_ptr<Arrival> came = arrival->second;
    absl::MutexLock lock(&came->mutex);
    if (!came->ended) return nullptr;
    arrivals_.erase(arrival);
    return came->generation;
  }
  const auto found = catalog_->Find(key.first, key.second, held.token);
  if (!found.ok() || found->ticket == nullptr) return found.ok() ? found->generation : nullptr;
  auto arrival = std::make_shared<Arrival>();
  arrivals_[key] = arrival;
  found->ticket->WhenDone([arrival](const absl::StatusOr<GenerationPtr>& came) {
    absl::MutexLock lock(&arrival->mutex);
    arrival->ended = true;
    if (came.ok()) arrival->generation = *came;
  });
  return nullptr;
}

void PinBook::Move(const Key& key, const Held& held, const GenerationPtr& now) {
  absl::MutexLock order(&order_);
  if (!Drop(key, held)) return;
  const std::string digest = now->digest;
  PinNow({key.first, key.second, held.token}, now, held.tier,
         [id = key.second, digest](const absl::Status& status) {
           const std::string quoted = QuotedForLog(id);
           if (status.ok())
             return spdlog::info("pinned adapter={} generation={}", quoted, Shown(digest));
           spdlog::warn("the pin of adapter {} ended, since its generation {} cannot be pinned: {}",
                        quoted, Shown(digest), QuotedForLog(status.message()));
         });
}

}  // namespace lorica

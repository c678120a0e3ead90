#include "adapters/registered_name.h"

#include <algorithm>

#include "kernels/check.h"

namespace lorica {

const NamedGeneration* RegisteredName::Numbered(int64_t number) const {
  const auto found =
      std::find_if(generations.begin(), generations.end(),
                   [number](const NamedGeneration& one) { return one.number == number; });
  return found == generations.end() ? nullptr : &*found;
}

NamedGeneration* RegisteredName::At(int64_t number) {
  return const_cast<NamedGeneration*>(Numbered(number));
}

const NamedGeneration& RegisteredName::now() const {
  const NamedGeneration* found = Numbered(current);
  LORICA_CHECK(found != nullptr, "name", name, "current", current);
  return *found;
}

void RegisteredName::Forget(int64_t number) {
  const NamedGeneration* gone = Numbered(number);
  if (gone == nullptr) return;
  const int64_t before = gone->previous;
  std::erase_if(generations, [&](const NamedGeneration& one) { return one.number == number; });
  for (NamedGeneration& one : generations) {
    if (one.previous == number) one.previous = before;
  }
}

void RegisteredName::MoveTo(const std::string& digest, const std::string& location, absl::Time at,
                            const std::string& commit, int64_t bytes) {
  const int64_t next = generations.empty() ? 1 : generations.back().number + 1;
  const int64_t left = generations.empty() ? 0 : current;
  kind = NameKind::kAdapter;
  current = next;
  generations.push_back({next, digest, location, commit, at, left, bytes});
  const auto same = std::find_if(generations.begin(), generations.end() - 1,
                                 [&](const NamedGeneration& one) { return one.digest == digest; });
  if (same->number != next) Forget(same->number);
  if (std::ssize(generations) > kGenerationsKeptMax) {
    const bool keeps_first = generations.front().number == left;
    Forget(generations[keeps_first ? 1 : 0].number);
  }
}

void RegisteredName::Relocate(const std::string& location, const std::string& commit) {
  At(current)->location = location;
  At(current)->commit = commit;
}

// The way back is no longer than the history, whatever a file says.
bool RegisteredName::CameBy(int64_t number) const {
  const NamedGeneration* one = Numbered(current);
  for (int64_t steps = 0; one != nullptr && steps < std::ssize(generations); ++steps) {
    if (one->number == number) return true;
    one = Numbered(one->previous);
  }
  return false;
}

void RegisteredName::MoveBackTo(int64_t number) {
  LORICA_CHECK(Numbered(number) != nullptr, "name", name, "number", number);
  if (!CameBy(number)) At(number)->previous = current;
  current = number;
}

}  // namespace lorica

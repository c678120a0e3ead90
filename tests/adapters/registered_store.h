// Registry, content and catalog over one data folder, as a server has them, and what is left of
// them.
#pragma once

#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "adapters/adapter_catalog.h"
#include "gtest/gtest.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {

inline constexpr int kStoreNames = 5;  // "name0" and so on, and as many aliases
inline constexpr char kStoreTenant[] = "default";
inline constexpr char kGoneState[] = "-";

class Store {
 public:
  // blocks_max: as PeftLoader's.
  Store(const TemporaryFolder& adapters, const std::string& data,
        int32_t blocks_max = std::numeric_limits<int32_t>::max())
      : loader_(model_.targets(), &backend_, 128 << 10, blocks_max),
        catalog_(*MakeLocalSource(adapters.path()), &loader_, "the-base") {
    registry_ = *Registry::Open(data + "/registry.db");
    content_ = *ContentStore::Open(data + "/content", 1 << 30);
    LORICA_CHECK(catalog_.Restore(registry_.get(), content_.get()).ok());
  }
  AdapterCatalog& catalog() { return catalog_; }

 private:
  LittleModel model_;
  FakeBackend backend_;
  PeftLoader loader_;
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<ContentStore> content_;
  AdapterCatalog catalog_;
};

// What each name is: "<digest>;" and all that its row holds, ">target;" or kGoneState.
using States = std::map<std::string, std::string>;

inline std::string StateOf(AdapterCatalog& catalog, const std::string& name) {
  const auto entry = catalog.Get(kStoreTenant, name);
  if (!entry.ok()) return kGoneState;
  if (!entry->alias_of.empty()) return absl::StrCat(">", entry->alias_of, ";");
  std::string state = absl::StrCat(entry->digest, ";");
  const auto named = catalog.History(kStoreTenant, name);
  if (!named.ok()) return state;
  absl::StrAppend(&state, "current=", named->current);
  for (const NamedGeneration& one : named->generations) {
    absl::StrAppend(&state, ";", one.number, "=", one.digest, "<", one.previous, "@",
                    absl::ToUnixMicros(one.registered_at), "@", one.location, "@", one.commit);
  }
  return state;
}

inline States StatesOf(AdapterCatalog& catalog) {
  States states;
  for (const char* kind : {"name", "alias"}) {
    for (int i = 0; i < kStoreNames; ++i) {
      const std::string name = absl::StrCat(kind, i);
      states[name] = StateOf(catalog, name);
    }
  }
  return states;
}

// As a start finds it. All that a name stands or stood for is there, whole, and nothing else is.
inline States ReopenedStates(const TemporaryFolder& adapters, const std::string& data) {
  Store store(adapters, data);
  const States states = StatesOf(store.catalog());
  std::set<std::string> named;
  for (const auto& [name, state] : states) {
    const auto history = store.catalog().History(kStoreTenant, name);
    if (state[0] == '>') {
      EXPECT_TRUE(history.ok()) << name << " leads nowhere";
      const auto entry = store.catalog().Get(kStoreTenant, name);
      EXPECT_EQ(entry->digest, history.ok() ? history->now().digest : "") << name;
    }
    if (!history.ok() || history->name != name) continue;
    for (const NamedGeneration& one : history->generations) {
      named.insert(one.digest);
      const auto generation = store.catalog().Resolve(kStoreTenant, name + "@" + one.digest);
      EXPECT_TRUE(generation.ok()) << generation.status();
      if (!generation.ok()) continue;
      EXPECT_EQ((*generation)->digest, one.digest);
      EXPECT_EQ((*generation)->location, one.digest) << "its content is kept";
    }
  }
  std::set<std::string> kept;
  for (const auto& entry : std::filesystem::directory_iterator(data + "/content")) {
    kept.insert(entry.path().filename().string());
  }
  EXPECT_EQ(kept, named);
  return states;
}

}  // namespace lorica

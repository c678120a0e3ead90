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
#include "adapters/merged_adapters.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_loader.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {

inline constexpr int kStoreNames = 5;  // "name0" and so on, and as many aliases
inline constexpr char kStoreTenant[] = "default";
inline constexpr char kGoneState[] = "-";
inline constexpr char kFolderState[] = "folder";  // its own name, which is not registered

// The base of all stores: it takes longer to make than a store to open.
inline LittleModel& ModelOfStores() {
  static auto* const model = new LittleModel();
  return *model;
}

class Store {
 public:
  // blocks_max: as PeftLoader's.
  static absl::StatusOr<std::unique_ptr<Store>> Open(
      const TemporaryFolder& adapters, const std::string& data,
      int32_t blocks_max = std::numeric_limits<int32_t>::max()) {
    std::unique_ptr<Store> store(new Store(adapters, blocks_max));
    auto content = ContentStore::Open(data + "/content", 1 << 30);
    if (!content.ok()) return content.status();
    auto registry =
        Registry::Open(data + "/registry.db", {data + "/content", !(*content)->empty()});
    if (!registry.ok()) return registry.status();
    store->content_ = *std::move(content);
    store->registry_ = *std::move(registry);
    store->catalog_.SetMerged(&store->merged_);
    const absl::Status restored =
        store->catalog_.Restore(store->registry_.get(), store->content_.get());
    if (!restored.ok()) return restored;
    return store;
  }
  AdapterCatalog& catalog() { return catalog_; }
  // Makes the merge first, and holds it while it is registered.
  absl::Status Merge(const std::string& name, const MergeChoice& choice) {
    const auto found = catalog_.FindMerge(kStoreTenant, choice);
    if (!found.ok()) return found.status();
    GenerationPtr held = found->generation;
    if (found->ticket != nullptr) {
      executor_.RunAll();
      found->ticket->WhenDone([&](const absl::StatusOr<GenerationPtr>& made) {
        if (made.ok()) held = *made;
      });
    }
    return catalog_.RegisterMerge(kStoreTenant, name, choice, {"", true, ""}).status();
  }

 private:
  Store(const TemporaryFolder& adapters, int32_t blocks_max)
      : loader_(ModelOfStores().targets(), &backend_, 128 << 10, blocks_max),
        merged_(MergeLimits(), &loader_, &executor_),
        catalog_(*MakeLocalSource(adapters.path()), &loader_, "the-base") {}

  FakeBackend backend_;
  PeftLoader loader_;
  fakes::HeldExecutor executor_;
  MergedAdapters merged_;
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<ContentStore> content_;
  AdapterCatalog catalog_;
};

// What each name is: "<digest>;" and all that its row holds, ">target;", kFolderState or
// kGoneState.
using States = std::map<std::string, std::string>;

inline std::string StateOf(AdapterCatalog& catalog, const std::string& name) {
  const auto entry = catalog.Get(kStoreTenant, name);
  if (!entry.ok()) return kGoneState;
  if (!entry->alias_of.empty()) return absl::StrCat(">", entry->alias_of, ";");
  const auto named = catalog.History(kStoreTenant, name);
  if (!named.ok()) return kFolderState;
  std::string state = absl::StrCat(entry->digest, ";");
  absl::StrAppend(&state, "current=", named->current);
  for (const NamedGeneration& one : named->generations) {
    absl::StrAppend(&state, ";", one.number, "=", one.digest, "<", one.previous, "@",
                    absl::ToUnixMicros(one.registered_at), "@", one.location, "@", one.commit, "@",
                    one.bytes);
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
  const auto opened = Store::Open(adapters, data);
  EXPECT_TRUE(opened.ok()) << opened.status();
  if (!opened.ok()) return {};
  Store& store = **opened;
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
